"""Where is a prediction wrong? Kernels of each class in one pass, predicted beside traced.

Traced times are the kernels' own, so that a host that is late does not count; of collectives the
transfer after the last rank came, for no waiting is predicted.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from perfkit.predict.passes import class_seconds
from perfkit.predict.plan import Plan
from perfkit.predict.rates import Rates
from perfkit.predict.spec import ModelSpec
from perfkit.timeline.analysis import Analysis
from perfkit.timeline.windows import on_gpu, windows_of

CLASSES = pl.Schema(
    {
        "rank": pl.Int32,
        "phase": pl.String,  # prefill or decode: one pass of one microbatch
        "class": pl.String,  # gemm, attention, other compute, NCCL transfer
        "predicted_s": pl.Float64,
        "measured_s": pl.Float64,  # mean over the captured passes; null where not told
        "error": pl.Float64,  # predicted / measured - 1
    }
)
OTHER, TRANSFER = "other compute", "NCCL transfer"
KINDS = {
    "gemm": "gemm",
    "product": "gemm",
    "grouped": "gemm",
    "decode_attention": "attention",
    "prefill_attention": "attention",
    "elementwise": OTHER,
    "strided": OTHER,
    "norm": OTHER,
    "choice": OTHER,
    "comm": TRANSFER,
}
"""kinds of predicted kernels -> classes"""
NAMED = ("gemm", "attention")
"""families of traced kernels that are classes of their own; other compute is the rest"""
PHASES = ("prefill", "decode")


def class_table(analysis: Analysis, spec: ModelSpec, rates: Rates, plan: Plan) -> pl.DataFrame:
    """CLASSES of every rank with a trace of a GPU; empty when there is none."""
    rows: list[dict[str, Any]] = []
    for rank, phase, measured in traced_classes(analysis):
        place = {"tp_rank": rank % plan.tp, "pp_rank": rank // plan.tp}
        predicted = by_class(class_seconds(spec, rates, plan, phase, **place))
        rows += _rows(rank, phase, predicted, measured)
    return pl.DataFrame(rows, schema=CLASSES)


def traced_classes(analysis: Analysis) -> Iterator[tuple[int, str, dict[str, float | None]]]:
    """(rank, phase, seconds of each class in one pass) of every rank with a trace of a GPU."""
    for (rank, device), mine in analysis.activities.group_by("rank", "device", maintain_order=True):
        if not on_gpu(mine):
            continue
        number = int(str(rank))
        windows = windows_of(mine, analysis.ranges.filter(rank=number))
        waits = analysis.waits.filter(rank=number, device=device)
        for phase in PHASES:
            if phase in windows:
                yield number, phase, measured_classes(mine, waits, *windows[phase])


def measured_classes(
    activities: pl.DataFrame, waits: pl.DataFrame, starts: Any, ends: Any
) -> dict[str, float | None]:
    """Mean seconds of a window, by class: of kernels that start in one."""
    compute = activities.filter(pl.col("class") == "compute")
    inside = compute.filter(_within(compute["start_ns"].to_numpy(), starts, ends))
    spent = (pl.col("end_ns") - pl.col("start_ns")).sum()
    sums = dict(inside.group_by("family").agg(spent).rows())
    passes = 1e9 * len(starts)
    found: dict[str, float | None] = {name: sums.pop(name, 0) / passes for name in NAMED}
    found[OTHER] = sum(sums.values()) / passes
    transfers = waits.filter(_within(waits["start_ns"].to_numpy(), starts, ends))["transfer_ns"]
    told = len(transfers) > 0 and transfers.null_count() == 0
    found[TRANSFER] = float(transfers.sum()) / passes if told else None
    return found


def _within(times: Any, starts: Any, ends: Any) -> pl.Series:
    """Which times lie in one of the windows."""
    order = np.argsort(starts)
    at = np.searchsorted(starts[order], times, side="right") - 1
    return pl.Series((at >= 0) & (times < ends[order][np.maximum(at, 0)]), dtype=pl.Boolean)


def by_class(kinds: Mapping[str, float]) -> dict[str, float]:
    """Seconds of kinds of predicted kernels, as classes."""
    found: dict[str, float] = {}
    for kind, seconds in kinds.items():
        found[KINDS[kind]] = found.get(KINDS[kind], 0.0) + seconds
    return found


def _rows(
    rank: int, phase: str, predicted: Mapping[str, float], measured: Mapping[str, float | None]
) -> Iterator[dict[str, Any]]:
    for name, seconds in predicted.items():
        value = measured.get(name)
        if seconds or value:
            yield {
                "rank": rank,
                "phase": phase,
                "class": name,
                "predicted_s": seconds,
                "measured_s": value,
                "error": seconds / value - 1 if value else None,
            }
