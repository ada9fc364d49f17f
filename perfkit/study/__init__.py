"""A study: what is measured, as points, each with its forecast and its folder of results.

Runs on a login node with the core install: it imports none of torch, polars, scipy.
"""
