"""What the collectors beside the traces found, and what they did not, for a terminal or a page."""

from collections.abc import Iterator, Mapping

import polars as pl

from perfkit.ingest.collected import Collected
from perfkit.ingest.collectors import NOT_ASKED, WHOLE
from perfkit.ingest.rank_words import listed, of_ranks
from perfkit.report.collected_blocks import (
    Block,
    counters,
    gpus,
    jobs,
    nccl,
    processes,
    resources,
    stacks,
)
from perfkit.report.gpu_metrics_block import gpu_metrics
from perfkit.report.tables import render


def sections(collected: Collected, fmt: str, job_id: str | None = None) -> Iterator[str]:
    """One table for each source that left something, then what could not be collected.

    A collector that failed is among the warnings.
    """
    for block in blocks(collected, job_id):
        yield render(block.frame, block.columns, fmt)
        if block.notes:
            yield "\n".join(block.notes) + "\n"
    states = collected.collectors.filter(~pl.col("state").is_in([WHOLE, NOT_ASKED, "failed"]))
    if names := [f"{row['collector']} ({why(row)})" for row in states.to_dicts()]:
        yield f"not collected: {', '.join(names)}\n"


def blocks(collected: Collected, job_id: str | None = None) -> list[Block]:
    """The tables that have something in them; `job_id` is the run's own SLURM_JOB_ID."""
    made = (
        resources(collected),
        processes(collected),
        counters(collected),
        stacks(collected),
        gpus(collected),
        gpu_metrics(collected),
        nccl(collected),
        jobs(collected, job_id),
    )
    return [block for block in made if not block.frame.is_empty()]


def absent(collected: Collected) -> list[str]:
    """What was not collected, or not of every rank, why, and what is lost by it."""
    states = pl.col("state")
    tried = collected.collectors.filter(states != WHOLE, states != NOT_ASKED).to_dicts()
    lines = [f"{row['collector']}: {why(row)}. Without it: {row['lost'] or '-'}." for row in tried]
    others = collected.collectors.filter(states == NOT_ASKED).to_dicts()
    if names := [f"{row['collector']} ({row['lost']})" for row in others]:
        lines.append(f"not asked for: {', '.join(names)}")
    return lines


def why(row: Mapping[str, object]) -> str:
    """`failed on rank 3, recorded 15 of 16 ranks: nsys exited with 1`."""
    state, reason = str(row["state"]), " ".join(str(row["reason"] or "").split())
    some, lost = _ranks(row["ranks"]), _ranks(row["missing_ranks"])
    if some and lost:
        state += f" on {listed(lost)}, recorded {of_ranks(len(some), len(some) + len(lost))}"
    if state in ("missing", "partial"):
        return reason or state
    return f"{state}: {reason}" if reason else state


def _ranks(value: object) -> list[int]:
    return value if isinstance(value, list) else []
