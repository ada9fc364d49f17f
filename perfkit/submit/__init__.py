"""From the points of a study to runs: sbatch jobs under Slurm, or one after another here.

Runs on a login node with the core install: it imports none of torch, polars, scipy.
"""
