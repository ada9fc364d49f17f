"""How good are the predictions? Every recorded run predicted again, and the errors by kind.

Runs that a number of the calibration comes from (held_in) are listed and not counted. A run is
predicted from its configuration and from rates, never from its times; or its prediction is read
from a file that was made before it ran (compare/frozen.py).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.compare.frozen import Frozen, frozen_prediction
from perfkit.compare.run import compared, find_rates, plan_of
from perfkit.compare.study_runs import run_name
from perfkit.errors import ConfigError
from perfkit.ingest.timers import concatenated, measure_passes, read_timers, summarise
from perfkit.measures import memory_in_use
from perfkit.predict.gpus import gpu_of_device
from perfkit.predict.memory import allocated_bytes
from perfkit.predict.time import predict_run
from perfkit.schema import RunFolder, open_run

PREDICTED = pl.Schema(
    {
        "run": pl.String,
        "gpu": pl.String,
        "model": pl.String,
        "decode": pl.String,
        "tp": pl.Int32,
        "pp": pl.Int32,
        "microbatches": pl.Int32,
        "batch": pl.Int32,
        "prompt_tokens": pl.Int32,
        "held_in": pl.Boolean,  # the calibration has a number from this run
        "measure": pl.String,  # ttft_s, tpot_s, tokens_per_s, allocated_bytes (fullest rank)
        "predicted": pl.Float64,
        "measured": pl.Float64,  # median of the timed passes; peak
        "error": pl.Float64,  # predicted / measured - 1
        "covered": pl.Boolean,  # the 90 % interval holds the measured median; null without one
        "spread": pl.Float64,  # slowest over fastest timed pass - 1
    }
)
SCORES = pl.Schema(
    {
        "measure": pl.String,
        "group": pl.String,
        "runs": pl.Int32,
        "mean_error": pl.Float64,  # mean of |error| (MAPE)
        "median_error": pl.Float64,
        "p90_error": pl.Float64,
        "bias": pl.Float64,  # mean of error
        "coverage": pl.Float64,  # share of measured medians inside the 90 % interval
        "noise": pl.Float64,  # median of the runs' own spread
    }
)
MEASURES = ("ttft_s", "tpot_s", "tokens_per_s", "allocated_bytes")
GROUPS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "all": lambda _row: True,
    "graph": lambda row: row["decode"] == "graph",
    "eager": lambda row: row["decode"] == "eager",
    "TP > 1": lambda row: row["tp"] > 1,
    "PP > 1, graph": lambda row: row["pp"] > 1 and row["decode"] == "graph",
    "PP > 1, eager": lambda row: row["pp"] > 1 and row["decode"] == "eager",
    "batch > 1, graph": lambda row: row["batch"] > 1 and row["decode"] == "graph",
}
"""what is scored apart; a GPU and a model each are groups, too"""
AXES = {
    "batch": "unseen batch",
    "prompt_tokens": "unseen prompt length",
    "model": "unseen model",
    "tp": "unseen TP",
    "pp": "unseen PP",
}
"""captured runs whose value no held-in run of the same GPU has"""


def predicted_runs(
    paths: Sequence[Path], frozen: Sequence[Frozen] = ()
) -> tuple[pl.DataFrame, list[str]]:
    """PREDICTED of every run folder that can be predicted, and why the others are left out.

    With `frozen`, of the runs that were predicted before they started, by those predictions.
    """
    rows: list[dict[str, Any]] = []
    left_out = []
    for path in paths:
        try:
            rows += _rows(path, frozen)
        except ConfigError as error:
            left_out.append(f"{run_name(path)}: {error}")
    return pl.DataFrame(rows, schema=PREDICTED), left_out


def scores(predicted: pl.DataFrame) -> pl.DataFrame:
    """SCORES by measure and group, of runs that the calibration has nothing from."""
    rows = predicted.filter(~pl.col("held_in"), pl.col("error").is_not_null()).to_dicts()
    groups = dict(GROUPS)
    for key in ("gpu", "model"):
        for value in sorted({row[key] for row in rows}):
            groups[value] = partial(_has, key, value)
    groups |= _unseen(predicted.filter("held_in"))
    found = []
    for measure in dict.fromkeys(row["measure"] for row in rows):
        for group, belongs in groups.items():
            chosen = [row for row in rows if row["measure"] == measure and belongs(row)]
            if chosen:
                found.append({"measure": measure, "group": group, **_score(chosen)})
    return pl.DataFrame(found, schema=SCORES)


def _unseen(held_in: pl.DataFrame) -> dict[str, Callable[[dict[str, Any]], bool]]:
    """Groups of AXES; none when it is not known what the calibrations come from."""
    if held_in.is_empty():
        return {}
    return {
        f"{name}, graph": partial(_is_new, key, set(held_in.select("gpu", key).rows()))
        for key, name in AXES.items()
    }


def _is_new(key: str, seen: set[tuple[Any, ...]], row: dict[str, Any]) -> bool:
    return row["decode"] == "graph" and (row["gpu"], row[key]) not in seen


def _has(key: str, value: str, row: dict[str, Any]) -> bool:
    return bool(row[key] == value)


def _score(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    frame = pl.DataFrame(rows, schema=PREDICTED)
    errors = frame["error"]
    return {
        "runs": frame.height,
        "mean_error": errors.abs().mean(),
        "median_error": errors.abs().median(),
        "p90_error": errors.abs().quantile(0.9, "linear"),
        "bias": errors.mean(),
        "coverage": frame["covered"].mean(),
        "noise": frame["spread"].median(),
    }


def _rows(path: Path, frozen: Sequence[Frozen]) -> Iterator[dict[str, Any]]:
    folder, run = open_run(path)
    if run.get("task") != "inference" or not run.get("model") or run.get("state") != "finished":
        raise ConfigError("no finished run of the engine")
    config = run["config"]
    if {"nsys", "nsys-metrics"}.intersection(run.get("collectors", {})):
        raise ConfigError("timed inside nsys, which costs time")
    plan = plan_of(path, run)
    measured = _measured(folder, config["pp"] - 1)
    rates, _source = find_rates(path, run, None, None, None)
    model, gpu = run["model"]["id"], gpu_of_device(run["hardware"].get("gpus", [])) or rates.name
    if frozen:
        found = frozen_prediction(frozen, model, gpu, plan, run["started_at"])
    else:
        found = predict_run(run["model"]["config"], rates, model_id=model, **plan)
        found["allocated_bytes"] = max(allocated_bytes(_sizes(rank)) for rank in found["ranks"])
    common = {
        "run": run_name(path),
        "gpu": gpu,
        "model": model,
        **{name: plan[name] for name in ("decode", "tp", "pp", "microbatches", "batch")},
        "prompt_tokens": plan["prompt_tokens"],
        "held_in": not frozen and run_name(path) in rates.held_in,
    }
    peaks = [memory_in_use(rank).get("max_allocated_bytes") for rank in run.get("layout", [])]
    if allocated := [peak for peak in peaks if peak is not None]:
        measured["allocated_bytes"] = {"median": max(allocated)}
    for name in MEASURES:
        if name in measured:
            yield {**common, "measure": name, **_compared(name, found, measured[name])}


def _measured(folder: RunFolder, last_stage: int) -> dict[str, dict[str, Any]]:
    """{measure: row of SUMMARY} from the timers alone: no trace is read."""
    files = [(rank, path / "timers.jsonl") for rank, path in folder.ranks()]
    frames = [read_timers(file, rank)[0] for rank, file in files if file.is_file()]
    passes = measure_passes(concatenated(frames), last_stage)
    return {row["measure"]: row for row in summarise(passes).to_dicts()}


def _sizes(rank: dict[str, Any]) -> dict[str, float]:
    return {name: size for name, size in rank.items() if name.endswith("_bytes")}


def _compared(name: str, found: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    row = compared(name, found, measured)
    fastest, slowest = row["measured_min"], row["measured_max"]
    return {
        **{column: row[column] for column in ("predicted", "measured", "error", "covered")},
        "spread": slowest / fastest - 1 if fastest and slowest else None,
    }
