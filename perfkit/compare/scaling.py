"""How do runs scale? Series of runs that do the same work on more and more GPUs.

    strong: the same batch on every number of GPUs; speed-up = T_first / T, ideal = N / N_first
    weak:   the same batch for each GPU; efficiency = T_first / T, no speed-up
    efficiency = speed-up / ideal of a strong series

T is the wall time of one pass, from the request to the last new token; N are GPUs. The first of a
series is the smallest number of GPUs that was measured, by its fastest layout. Runs that are in no
series (a batch sweep, two precisions) have neither column: their work differs.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.compare.run_facts import Rates, run_facts
from perfkit.errors import ConfigError

SCALING = pl.Schema(
    {
        "kind": pl.String(),  # strong or weak; null: in no series
        "series": pl.Int32(),  # rows of one series have one number; null likewise
        "model": pl.String(),
        "device": pl.String(),
        "dtype": pl.String(),  # with the quantised weights, if any
        "decode": pl.String(),
        "inside": pl.String(),  # a collector around the timed passes, which costs time
        "network": pl.String(),  # variables that chose NCCL's ways; null: its own choice
        "prompt_tokens": pl.Int64(),
        "new_tokens": pl.Int64(),
        "nodes": pl.Int64(),
        "gpus": pl.Int64(),
        "tp": pl.Int64(),
        "pp": pl.Int64(),
        "microbatches": pl.Int64(),
        "prompts": pl.Int64(),  # sequences of one pass: the batch
        "runs": pl.List(pl.String),
        "wall_s": pl.Float64(),  # median over the runs; null: not measured
        "wall_min_s": pl.Float64(),  # fastest and slowest timed pass of any run
        "wall_max_s": pl.Float64(),
        "spread": pl.Float64(),  # slowest / fastest - 1
        "ttft_s": pl.Float64(),
        "tpot_s": pl.Float64(),
        "tokens_per_s": pl.Float64(),
        "first": pl.Boolean(),  # the row that its series is set against
        "ideal": pl.Float64(),  # speed-up of a perfect division
        "speedup": pl.Float64(),
        "efficiency": pl.Float64(),
        "predicted_wall_s": pl.Float64(),
        "predicted_wall_p05_s": pl.Float64(),  # ends of the 90 % interval
        "predicted_wall_p95_s": pl.Float64(),
        "predicted_tokens_per_s": pl.Float64(),
        "predicted_speedup": pl.Float64(),  # against the prediction of the first
        "predicted_speedup_p05": pl.Float64(),
        "predicted_speedup_p95": pl.Float64(),
        "predicted_efficiency": pl.Float64(),
        "busy": pl.Float64(),  # share of the captured pass in which a GPU ran anything
        "load_s": pl.Float64(),  # reading weights, the slowest rank
        "comm_s": pl.Float64(),  # of a captured pass, mean of the ranks; waiting included
        "wait_s": pl.Float64(),  # waiting for another rank in it; null where not told apart
        "preprocess_s": pl.Float64(),  # texts of one batch to token ids, slowest rank
        "bound": pl.Float64(),  # most that this layout can gain: ranks at work at the same time
        "note": pl.String(),  # why something is missing, or is not believed
    }
)
WORK = ("model", "device", "dtype", "decode", "load", "prompt_tokens", "new_tokens", "inside")
"""what runs of a series have in common"""
LAYOUT = ("hosts", "gpus", "tp", "pp", "microbatches", "split", "sharding", "network", "batch")
REPEATED = ("wall_s", "ttft_s", "tpot_s", "tokens_per_s", "load_s", "preprocess_s")
TRACED = ("busy", "comm_s", "wait_s")
BELIEVED = 1.05
"""times the bound: beyond it a speed-up is flagged"""
Z90 = 1.645

Row = dict[str, Any]


def scaling_table(paths: Sequence[Path], rates: Rates = Rates()) -> pl.DataFrame:
    """SCALING of run folders; ConfigError when there are none."""
    if not paths:
        raise ConfigError("no run folder was given. Give those that `perfkit run` wrote.")
    return scaling([run_facts(path, rates) for path in dict.fromkeys(paths)])


def scaling(facts: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """SCALING of rows of compare/run_facts.py: repeats are put together first."""
    rows = [_together(same) for same in _grouped(facts, (*WORK, *LAYOUT)).values()]
    found: list[Row] = []
    taken: set[int] = set()
    for kind, key in (("strong", _strong), ("weak", _weak)):
        for same in _grouped(rows, WORK, key).values():
            if len({row["gpus"] for row in same if row["wall_s"]}) > 1:
                found += _series(kind, len(found), same)
                taken |= {id(row) for row in same}
    found += [row for row in rows if id(row) not in taken]
    frame = pl.DataFrame([_named(row) for row in found], schema=SCALING)
    order = ("series", *WORK, "prompts", "gpus", "pp", "microbatches", "network")
    numbered = frame.with_columns(pl.col("series").rank("dense").cast(pl.Int32))
    by = [name for name in order if name in SCALING]
    return numbered.sort(by, nulls_last=[name != "network" for name in by])


def _strong(row: Mapping[str, Any]) -> Any:
    return row["batch"]


def _weak(row: Mapping[str, Any]) -> Any:
    """Batch of each GPU; nothing where it is not a whole number."""
    gpus, batch = row["gpus"], row["batch"]
    return batch // gpus if gpus and batch and batch % gpus == 0 else ("none", id(row))


def _grouped(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], key: Any = None
) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = {}
    for row in rows:
        value = (*(row.get(name) for name in names), key(row) if key else None)
        found.setdefault(value, []).append(row)
    return found


def _together(same: Sequence[Mapping[str, Any]]) -> Row:
    """Runs of one configuration as one row: the median run, the fastest and the slowest pass."""
    measured = [row for row in same if row["wall_s"] is not None]
    reasons = [f"{row['run']} {row['reason']}" for row in same if row["reason"]]
    unpredicted = next((row["no_prediction"] for row in same if row["no_prediction"]), None)
    fastest = min((row["wall_min_s"] for row in measured), default=None)
    slowest = max((row["wall_max_s"] for row in measured), default=None)
    return {
        **same[0],
        "runs": [row["run"] for row in measured] or [row["run"] for row in same],
        **{name: _median(measured, name) for name in (*REPEATED, *TRACED)},
        "wall_min_s": fastest,
        "wall_max_s": slowest,
        "spread": slowest / fastest - 1 if fastest and slowest else None,
        "note": [
            *([same[0]["network"]] if same[0]["network"] else []),
            *reasons,
            *([f"not predicted: {unpredicted}"] if unpredicted else []),
        ],
    }


def _median(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return statistics.median(values) if values else None


def _series(kind: str, number: int, same: Sequence[Row]) -> list[Row]:
    """The rows with what they gain on the first."""
    first = min((row for row in same if row["wall_s"]), key=lambda r: (r["gpus"], r["wall_s"]))
    return [
        {
            **row,
            "kind": kind,
            "series": number,
            "first": row is first,
            **(_gain(row, first) if kind == "strong" else _kept(row, first)),
        }
        for row in same
    ]


def _gain(row: Row, first: Row) -> Row:
    ideal = row["gpus"] / first["gpus"]
    speedup, predicted = (_ratio(first[n], row[n]) for n in ("wall_s", "predicted_wall_s"))
    low, high = _band(predicted, row, first)
    bound = _at_work(row) / _at_work(first)
    flagged = speedup is not None and speedup > BELIEVED * max(bound, 1.0)
    return {
        "ideal": ideal,
        "speedup": speedup,
        "efficiency": speedup and speedup / ideal,
        "predicted_speedup": predicted,
        "predicted_speedup_p05": low,
        "predicted_speedup_p95": high,
        "predicted_efficiency": predicted and predicted / ideal,
        "bound": bound,
        "note": [*row["note"], *([_too_fast(speedup, bound)] if flagged else [])],
    }


def _kept(row: Row, first: Row) -> Row:
    return {
        "efficiency": _ratio(first["wall_s"], row["wall_s"]),
        "predicted_efficiency": _ratio(first["predicted_wall_s"], row["predicted_wall_s"]),
    }


def _too_fast(speedup: Any, bound: float) -> str:
    return (
        f"speed-up {speedup:.3g} is more than the {bound:.3g} that this layout allows: look for "
        "what else differs between the two runs"
    )


def _at_work(row: Row) -> int:
    """Ranks at work at the same time: min(M, p) stages of t ranks."""
    return int(min(row["microbatches"] or 1, row["pp"] or 1) * (row["tp"] or 1))


def _ratio(over: float | None, under: float | None) -> float | None:
    return over / under if over and under else None


def _band(predicted: float | None, row: Row, first: Row) -> tuple[float | None, float | None]:
    """The 90 % interval of a ratio of two predictions, taken as independent: wider than it is."""
    widths = [_sigma(one) for one in (row, first)]
    if predicted is None or None in widths:
        return None, None
    if row is first:
        return 1.0, 1.0
    sigma = math.hypot(*(width or 0.0 for width in widths))
    return predicted * math.exp(-Z90 * sigma), predicted * math.exp(Z90 * sigma)


def _sigma(row: Row) -> float | None:
    """Of log(T), from the ends of its interval."""
    low, high = row["predicted_wall_p05_s"], row["predicted_wall_p95_s"]
    return math.log(high / low) / (2 * Z90) if low and high else None


def _named(row: Row) -> Row:
    """Under the names of SCALING."""
    values = {**row, "nodes": row["hosts"], "prompts": row["batch"]}
    return {
        **{name: values.get(name) for name in SCALING},
        "note": "; ".join(row["note"]) or None,
    }
