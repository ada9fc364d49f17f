"""From a study to jobs: points, one sbatch script each, their jobs followed.

Runs on a login node with the core install: it imports none of torch, polars, scipy.
"""
