"""Compute time as sites count it: conversions, frozen accounting, what is used and what is left."""
