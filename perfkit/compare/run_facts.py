"""One recorded run as one row: what was asked for, what came out, what was predicted.

Times are seconds of one pass, medians over the timed passes; shares and parts are of the captured
pass, means over the ranks that have a trace. What was not recorded is None.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.compare.run import compare_run
from perfkit.errors import ConfigError
from perfkit.schema import RunFolder, open_run, read_if_whole
from perfkit.timeline.analysis import Analysis, analyze_run
from perfkit.timeline.windows import WHOLE

AROUND = ("nsys", "nsys-metrics", "nsys-nvtx")
"""collectors that wrap the whole process: its timed passes run inside them"""


@dataclass(frozen=True, slots=True)
class Rates:
    """Where predictions come from, when not from the run's own machine."""

    calibration: Path | None = None
    gpu: str | None = None
    models_dir: Path | None = None


def run_facts(path: Path, rates: Rates = Rates()) -> dict[str, Any]:
    """A row; `reason` says why it has no measurement, `no_prediction` why it has none of that."""
    _folder, run = open_run(path)
    return facts_of(path, run, *_analysed(path, run, rates))


def facts_of(
    path: Path,
    run: Mapping[str, Any],
    analysis: Analysis,
    prediction: Mapping[str, Any] | None,
    no_prediction: str | None,
) -> dict[str, Any]:
    """The same row of a run that is analysed already."""
    folder = RunFolder(path)
    measured = {row["measure"]: row for row in analysis.summary.to_dicts()}
    wall = measured.get("e2e_s", {})
    engine = _engine_facts(folder)
    finished = run.get("state") == "finished"
    return {
        "run": path.resolve().name,
        **configured(run),
        "decode": (run.get("config") or {}).get("decode", "eager"),
        "inside": joined([name for name in AROUND if name in (run.get("collectors") or {})]),
        "network": told_to_nccl(run),
        "gpus": len(analysis.ranks) or len(run.get("layout") or []) or None,
        "wall_s": wall.get("median") if finished else None,
        "wall_min_s": wall.get("min") if finished else None,
        "wall_max_s": wall.get("max") if finished else None,
        "passes": wall.get("count"),
        **{name: _median(measured, name) for name in ("ttft_s", "tpot_s", "tokens_per_s")},
        "load_s": _most(engine, "load_s"),
        "preprocess_s": _most(engine, "prompts_s"),
        **_parts(analysis.split),
        **{f"predicted_{name}": value for name, value in _interval(prediction).items()},
        "no_prediction": no_prediction,
        "reason": None if finished and wall else _why_not(run),
    }


def configured(run: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, and on which devices."""
    config, layout = run.get("config") or {}, run.get("layout") or []
    program, quantize = config.get("program"), config.get("quantize", "none")
    cut = config.get("tp", 1) > 1 and config.get("sharding") != "none"
    dtype, split = config.get("dtype"), config.get("split")
    names = ("tp", "pp", "microbatches", "batch", "prompt_tokens", "new_tokens", "load")
    return {
        **{name: config.get(name) for name in names},
        "model": shlex.join(program) if program else config.get("model_id"),
        "dtype": dtype if quantize == "none" or dtype is None else f"{dtype}, {quantize} weights",
        "device": device_name(run),
        "hosts": len({place["host"] for place in layout if place.get("host")}) or None,
        "sharding": config.get("sharding") if cut else None,
        "split": ", ".join(str(layers) for layers in split) if split else None,
    }


def device_name(run: Mapping[str, Any]) -> str | None:
    """What the ranks ran on: the GPUs that they had, else the host's processor."""
    if run.get("config", {}).get("device") == "cuda":
        return joined([place.get("device") for place in run.get("layout", [])])
    cpu = run.get("hardware", {}).get("cpu")
    return str(cpu) if cpu else None


def told_to_nccl(run: Mapping[str, Any]) -> str | None:
    """The variables that chose NCCL's ways."""
    told = run.get("nccl") or {}
    return " ".join(f"{name}={value}" for name, value in sorted(told.items())) or None


def joined(names: Sequence[str | None]) -> str | None:
    """The different names, in order; None where none is known."""
    return ", ".join(sorted({name for name in names if name})) or None


def _analysed(
    path: Path, run: Mapping[str, Any], rates: Rates
) -> tuple[Analysis, Mapping[str, Any] | None, str | None]:
    """(analysis, prediction, why there is none)."""
    try:
        if missing := [key for key in ("config", "model", "hardware") if not run.get(key)]:
            raise ConfigError(f"run.json has no {', '.join(missing)}: the run never started.")
        found = compare_run(
            path, calibration=rates.calibration, gpu=rates.gpu, models_dir=rates.models_dir
        )
    except ConfigError as error:
        return analyze_run(path), None, str(error)
    return found.analysis, found.prediction, None


def _interval(prediction: Mapping[str, Any] | None) -> dict[str, float | None]:
    """wall_s and tpot_s, each with the ends of its 90 % interval; throughput."""
    found = prediction or {}
    tpot = {f"tpot{end}_s": found.get(f"tpot{end}_s") for end in ("", "_p05", "_p95")}
    return {
        "wall_s": found.get("end_to_end_s"),
        "wall_p05_s": _end_to_end(found, "p05"),
        "wall_p95_s": _end_to_end(found, "p95"),
        "tokens_per_s": found.get("tokens_per_s"),
        **tpot,
    }


def _end_to_end(found: Mapping[str, Any], end: str) -> float | None:
    """TTFT and the later tokens at the same end of their intervals: they err together."""
    whole, first, step = (found.get(f"{name}_s") for name in ("end_to_end", "ttft", "tpot"))
    first_end, step_end = found.get(f"ttft_{end}_s"), found.get(f"tpot_{end}_s")
    if whole is None or first is None or first_end is None:
        return None
    later = step_end / step if step and step_end else 1.0
    return float(first_end + (whole - first) * later)


def _parts(split: pl.DataFrame) -> dict[str, float | None]:
    """Communication that hid behind nothing, waiting in it, and the share of time at work."""
    whole = split.filter(phase=WHOLE)
    mean = whole.select(pl.col(pl.Int64).mean()).to_dicts()[0] if whole.height else {}
    window = mean.get("window_ns")
    if not window:
        return dict.fromkeys(("comm_s", "wait_s", "busy"))
    wait = mean.get("wait_ns")
    return {
        "comm_s": mean["comm_ns"] / 1e9,
        "wait_s": None if wait is None else wait / 1e9,
        "busy": 1 - mean["idle_ns"] / window,
    }


def _median(measured: Mapping[str, Mapping[str, Any]], name: str) -> float | None:
    value: float | None = measured.get(name, {}).get("median")
    return value


def _most(engine: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return max((facts[name] for facts in engine if facts.get(name) is not None), default=None)


def _engine_facts(folder: RunFolder) -> list[dict[str, Any]]:
    files = [path / "engine.json" for _rank, path in folder.ranks()]
    return [facts for file in files if (facts := read_if_whole(file))]


def _why_not(run: Mapping[str, Any]) -> str:
    state, failure = run.get("state", "unknown"), run.get("failure")
    if state == "finished":
        return "nothing was timed"
    text = failure.get("reason") if isinstance(failure, Mapping) else failure
    return f"{state}: {text}" if text else str(state)
