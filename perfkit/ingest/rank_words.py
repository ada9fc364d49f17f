"""How ranks are written for people: which, and how many of how many."""

from collections.abc import Iterable


def listed(ranks: Iterable[int]) -> str:
    """`rank 2`, `ranks 0, 3-5`: three or more in a row as a range."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    parts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return f"rank{'s' * (sum(map(len, runs)) != 1)} {', '.join(parts)}"


def of_ranks(some: int, every: int) -> str:
    """`3 of 4 ranks`"""
    return f"{some} of {every} rank{'s' * (every != 1)}"
