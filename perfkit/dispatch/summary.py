"""The figures of a whole dispatch: rates, preprocessing cost, how long batches waited."""

from collections.abc import Sequence

import polars as pl

from perfkit.dispatch.part import Part
from perfkit.measures import NS_PER_S

SUMMARY = pl.Schema(
    {
        "measure": pl.String(),
        "value": pl.Float64(),  # null: not measured
        "unit": pl.String(),
    }
)

Row = tuple[str, float | None, str]


def summary(
    parts: Sequence[Part], replicas: pl.DataFrame, cpu_workers: pl.DataFrame
) -> pl.DataFrame:
    """One row a figure, always the same ones."""
    wall_s = sum(part.span[1] - part.span[0] for part in parts) / NS_PER_S
    batches = [one for part in parts for one in part.batches]
    new_tokens = sum(one["new_tokens"] for one in batches)
    padded = sum(one["padded_tokens"] for one in batches)
    bounds = [bound for part in parts for bound in part.bounds]
    rows: list[Row] = [
        ("prompts", sum(one["prompts"] for one in batches), "prompts"),
        ("wall", wall_s, "s"),
        ("throughput", new_tokens / wall_s if batches else None, "new tokens/s"),
        *_preprocessing(cpu_workers, total(replicas, "busy_s")),
        *_queue_wait(parts),
        ("replica_idle", _share(total(replicas, "idle_s"), total(replicas, "wall_s")), "ratio"),
        (
            "padding",
            1 - sum(one["prompt_tokens"] for one in batches) / padded if padded else None,
            "ratio",
        ),
        ("clock_bound", max(bounds) / NS_PER_S if bounds else None, "s"),
    ]
    return pl.DataFrame(rows, schema=SUMMARY, orient="row")


def total(frame: pl.DataFrame, column: str) -> float:
    """The sum of a column of numbers; 0 for a frame without rows."""
    return float(sum(frame[column].to_list()))


def _preprocessing(cpu_workers: pl.DataFrame, replica_s: float) -> list[Row]:
    """What reading, tokenising and batching cost, in time of CPU workers."""
    busy_s = total(cpu_workers, "busy_s")
    tokens, prompts = total(cpu_workers, "tokens"), total(cpu_workers, "prompts")
    return [
        ("preprocessing", _share(1000 * busy_s, tokens), "s per 1000 tokens"),
        ("preprocessing_per_prompt", _share(1000 * busy_s, prompts), "ms per prompt"),
        ("preprocessing_share", _share(busy_s, busy_s + replica_s), "ratio"),
    ]


def _queue_wait(parts: Sequence[Part]) -> list[Row]:
    """From when a batch was ready to when a replica began it."""
    waits_s = [
        max(0, one["start_ns"] - one["ready_ns"]) / NS_PER_S
        for part in parts
        for one in part.batches
    ]
    found = pl.Series(waits_s, dtype=pl.Float64)
    quantiles = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return [
        ("queue_wait_mean", sum(waits_s) / len(waits_s) if waits_s else None, "s"),
        *((f"queue_wait_{n}", found.quantile(q, "linear"), "s") for n, q in quantiles.items()),
    ]


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
