"""How a run ended and whose data are missing: the first lines of everything that is printed."""

from collections.abc import Iterator
from datetime import UTC, datetime

import polars as pl

from perfkit.ingest.rank_words import listed, of_ranks
from perfkit.timeline.analysis import Analysis

WHOLE_ENDS = ("finished", None)
# Collectors whose products the time split is made of; some record a few ranks only.
TRACERS = ("kineto", "nsys", "nsys-metrics", "nsys-nvtx", "rocprof")


def first_lines(analysis: Analysis) -> list[str]:
    """Why the run did not finish, what Slurm did to it, which ranks are missing; or nothing."""
    return [
        *cause(analysis),
        *analysis.quality.filter(pl.col("code") == "ended-by-slurm")["text"].to_list(),
        *missing(analysis),
        *speed_coverage(analysis),
    ]


def cause(analysis: Analysis) -> Iterator[str]:
    """The failure that run.json names, with its first line only."""
    run = analysis.run
    if not run or run.get("state") in WHOLE_ENDS:
        return
    failure = run.get("failure") or {}
    reason = (str(failure.get("reason") or "").strip().splitlines() or [""])[0]
    if "rank" in failure:
        yield f"rank {failure['rank']} on {failure.get('host')}: {reason}"
    elif reason:
        yield f"{reason}{at(run.get('ended_at'))}"
    else:
        yield (
            f"run.json still says {run.get('state')}: the run goes on, or perfkit itself was "
            f"killed. `perfkit collect {analysis.source}` tells which"
        )


def at(time: str | None) -> str:
    """` at 2026-11-23 01:28:29 UTC`; nothing where it is not known."""
    if not time:
        return ""
    return datetime.fromisoformat(time).astimezone(UTC).strftime(" at %Y-%m-%d %H:%M:%S UTC")


def missing(analysis: Analysis) -> Iterator[str]:
    """The ranks that left no timers or no usable trace, where others did."""
    if not analysis.run:
        return
    num_ranks = len(analysis.ranks)
    unasked = [rank for rank in analysis.missing_traces if not was_to_be_traced(analysis, rank)]
    traces = tuple(rank for rank in analysis.missing_traces if rank not in unasked)
    gone: dict[tuple[int, ...], list[str]] = {}
    for what, ranks in (("timers", analysis.missing_timers), ("trace", traces)):
        if ranks and len(ranks) < num_ranks:
            gone.setdefault(ranks, []).append(f"no {what}")
    for ranks, lost in gone.items():
        with_timers = of_ranks(num_ranks - len(ranks), num_ranks)
        left = traced(analysis) if "no trace" in lost else with_timers
        yield f"missing: {listed(ranks)} left {' and '.join(lost)}: what follows is of {left}"
    if unasked and len(analysis.missing_traces) < num_ranks:
        yield f"not profiled: {listed(unasked)}; the time split is of {traced(analysis)}"


def was_to_be_traced(analysis: Analysis, rank: int) -> bool:
    """False for a rank that no profiler was put around; True where that is not known."""
    rows = analysis.collected.collectors.filter(pl.col("collector").is_in(TRACERS)).to_dicts()
    meant = {one for row in rows for one in (*(row["ranks"] or ()), *(row["missing_ranks"] or ()))}
    return not meant or rank in meant


def speed_coverage(analysis: Analysis) -> Iterator[str]:
    """The passes that some rank of the last stage lacks: it may be the one that had tokens last."""
    stages = {p["rank"]: p["pp_rank"] for p in analysis.run.get("layout", []) if "pp_rank" in p}
    timed = set(analysis.measures.filter(pl.col("kind") == "timed")["pass"])
    last = [rank for rank, stage in stages.items() if stage == max(stages.values())]
    ended = analysis.timers.filter(pl.col("phase") == "request", pl.col("kind") == "timed")
    of_rank = {rank: timed - set(ended.filter(pl.col("rank") == rank)["pass"]) for rank in last}
    lacking = {rank: passes for rank, passes in of_rank.items() if passes}
    if lacking:
        passes = len(set().union(*lacking.values()))
        yield (
            f"{listed(lacking)} of the last stage lacks {passes} of {len(timed)} timed passes: "
            "TTFT, TPOT and throughput, which are the slowest rank's, may look better than they are"
        )


def traced(analysis: Analysis) -> str:
    """`3 of 4 ranks`: those behind everything that is said of time."""
    num_ranks = len(analysis.ranks)
    return of_ranks(num_ranks - len(analysis.missing_traces), num_ranks)
