"""Prediction beside measurement for one run: the same words, the same work, two columns.

The prediction is made from the run's own configuration and from rates that were measured or taken
from a data sheet, never from the run's times.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.compare.bound import faster_than_bound
from perfkit.compare.classes import class_table
from perfkit.compare.experts import experts_reached, experts_sentence
from perfkit.errors import ConfigError
from perfkit.ingest.frames import QUALITY, finding
from perfkit.measures import memory_in_use
from perfkit.predict.gpus import gpu_of_device, load_gpu
from perfkit.predict.plan import Plan
from perfkit.predict.rates import MICROBENCHMARK, Rates, rates_from_file, rates_from_gpu
from perfkit.predict.spec import spec_from_config
from perfkit.predict.time import predict
from perfkit.schema import RunFolder, read_json
from perfkit.timeline.analysis import Analysis, analyze_run

HEADLINE = pl.Schema(
    {
        "measure": pl.String,  # ttft_s, tpot_s, e2e_s, tokens_per_s
        "predicted": pl.Float64,  # seconds, or tokens per second
        "predicted_p05": pl.Float64,  # ends of the 90 % interval; null where there is none
        "predicted_p95": pl.Float64,
        "measured": pl.Float64,  # median of the timed passes; null when not measured
        "measured_min": pl.Float64,
        "measured_max": pl.Float64,
        "error": pl.Float64,  # (predicted - measured) / measured
        "covered": pl.Boolean,  # whether the interval holds the measured median
    }
)
SPLIT = pl.Schema(
    {
        "rank": pl.Int32,
        "phase": pl.String,  # prefill or decode, all microbatches and steps
        "predicted_compute_s": pl.Float64,
        "measured_compute_s": pl.Float64,  # from the captured pass, so slowed by the profiler
        "predicted_comm_s": pl.Float64,  # transfer only: no waiting is predicted
        "measured_comm_s": pl.Float64,  # exposed, with waiting for the other ranks in it
    }
)
MEMORY = pl.Schema(
    {
        "rank": pl.Int32,
        "predicted_weights_bytes": pl.Int64,
        "measured_weights_bytes": pl.Int64,  # parameters that the engine held
        "predicted_allocated_bytes": pl.Int64,  # weights, KV cache, activations, workspaces
        "measured_allocated_bytes": pl.Int64,  # PyTorch's peak in the timed passes; null on a CPU
        "predicted_total_bytes": pl.Int64,  # these and the CUDA context and NCCL's buffers
        "measured_total_bytes": pl.Int64,  # device memory in use; null on a CPU
    }
)
MEASURES = {"ttft_s": "ttft_s", "tpot_s": "tpot_s", "e2e_s": "end_to_end_s"}
# Hops are received outside the forward; they belong to the phase whose step they serve.
HOPS = ("pp_recv", "tok_recv", "pp_send", "tok_send")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One run's prediction beside its measurement."""

    analysis: Analysis
    prediction: dict[str, Any]
    rates: Rates
    rates_source: str
    """where the rates come from, for people"""
    headline: pl.DataFrame
    split: pl.DataFrame
    memory: pl.DataFrame
    classes: pl.DataFrame
    """kernels by class, where there is a trace (compare/classes.py)"""
    experts: str | None
    """how many were reached, where the run counted them"""
    warnings: list[str]


def compare_run(
    path: Path,
    *,
    calibration: Path | None = None,
    gpu: str | None = None,
    models_dir: Path | None = None,
) -> Comparison:
    """Analyse a run and predict it; ConfigError when no rates are known for its machine."""
    analysis = analyze_run(path)
    run = analysis.run
    if "config" not in run:
        raise ConfigError(f"{path} never started: its run.json has no config. Run it again.")
    if not run.get("model"):
        raise ConfigError(
            f"{path} is a run of a program that perfkit does not know: nothing can be predicted. "
            f"See what was measured with: perfkit analyze {path}"
        )
    rates, source = find_rates(path, run, calibration, gpu, models_dir)
    plan = Plan(**plan_of(path, run))
    spec = spec_from_config(run["model"]["config"], model_id=run["model"]["id"])
    prediction = predict(spec, rates, plan)
    headline = headline_table(prediction, analysis)
    return Comparison(
        analysis=analysis,
        prediction=prediction,
        rates=rates,
        rates_source=source,
        headline=headline,
        split=split_table(prediction, analysis),
        memory=memory_table(prediction, path),
        classes=class_table(analysis, spec, rates, plan),
        experts=experts_sentence(spec, plan),
        warnings=[
            *analysis.warnings,
            *doubts(run, headline),
            *faster_than_bound(run, prediction, rates, headline),
        ],
    )


def find_rates(
    path: Path,
    run: Mapping[str, Any],
    calibration: Path | None,
    gpu: str | None,
    models_dir: Path | None,
) -> tuple[Rates, str]:
    """Named calibration or GPU first, then the calibration in the run folder, then the GPU's
    data sheet."""
    own = RunFolder(path).calibration
    dtype = run["config"]["dtype"]
    chosen = calibration or (own if gpu is None and complete(own) else None)
    if chosen is not None:
        rates = rates_from_file(chosen, dtype, models_dir)
        return rates, f"rates measured on {rates.name}, {rates.date}"
    gpu = gpu or gpu_of_device(run["hardware"].get("gpus", []), models_dir)
    if gpu is None:
        config = run["config"]
        raise ConfigError(
            f"no rates are known for the machine of {path}. Measure them there with `perfkit "
            f"calibrate --tp {config['tp']} --pp {config['pp']} --dtype {dtype} -o calibration."
            "json` and give --calibration calibration.json, or name a data sheet with --gpu.",
        )
    rates = rates_from_gpu(load_gpu(gpu, models_dir), dtype, models_dir)
    kind = "curves measured on" if rates.summary == MICROBENCHMARK else "data sheet of"
    return rates, f"{kind} {gpu}"


def complete(calibration: Path) -> bool:
    """A GPU's calibration without curves knows less than the curves shipped for that GPU."""
    if not calibration.is_file():
        return False
    document = read_json(calibration)
    return document.get("device") != "cuda" or "curves" in document


def plan_of(path: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """What was run, as predict_run wants it: padded prompts have the longest one's length.

    ConfigError for a run with quantised weights.
    """
    config = run["config"]
    if (held := config.get("quantize", "none")) != "none":
        raise ConfigError(
            f"{path} held its weights as {held}: the time of such kernels is not predicted yet. "
            f"See what was measured with: perfkit analyze {path}"
        )
    prompt, new = lengths(path, config)
    return {
        "tp": config["tp"],
        "pp": config["pp"],
        "batch": config["batch"],
        "microbatches": config["microbatches"],
        "prompt_tokens": prompt,
        "new_tokens": new,
        "dtype": config["dtype"],
        "decode": config.get("decode", "eager"),
        "split": tuple(config["split"]) if config["split"] else None,
        "sharding": "deepspeed" if config["tp"] > 1 else "none",
        "reached": experts_reached(run),
    }


def lengths(path: Path, config: Mapping[str, Any]) -> tuple[int, int]:
    """Prompt and new tokens of the longest sequence, from what came out when there is any."""
    outputs = RunFolder(path).outputs
    if not outputs.is_file() or not outputs.stat().st_size:
        return config["prompt_tokens"] or 1, config["new_tokens"]
    records = pl.read_ndjson(outputs)
    return int(records["prompt_tokens"].max()), int(records["token_ids"].list.len().max())  # type: ignore[arg-type]


def headline_table(prediction: Mapping[str, Any], analysis: Analysis) -> pl.DataFrame:
    """HEADLINE: TTFT, TPOT, end to end and throughput of the timed passes."""
    measured = {row["measure"]: row for row in analysis.summary.to_dicts()}
    names = {**MEASURES, "tokens_per_s": "tokens_per_s"}
    rows = []
    for measure, predicted_name in names.items():
        row = compared(predicted_name, prediction, measured.get(measure, {}))
        rows.append({"measure": measure, **row})
    return pl.DataFrame(rows, schema=HEADLINE)


def compared(
    name: str, prediction: Mapping[str, Any], measured: Mapping[str, Any]
) -> dict[str, Any]:
    """One measure's columns of HEADLINE: its prediction beside a row of the analysis' summary."""
    predicted, value = prediction[name], measured.get("median")
    low, high = (prediction.get(f"{name[:-2]}_{end}_s") for end in ("p05", "p95"))
    known = predicted is not None and value
    return {
        "predicted": predicted,
        "predicted_p05": low,
        "predicted_p95": high,
        "measured": value,
        "measured_min": measured.get("min"),
        "measured_max": measured.get("max"),
        "error": (predicted - value) / value if known else None,
        "covered": low <= value <= high if value and low and high else None,
    }


def split_table(prediction: Mapping[str, Any], analysis: Analysis) -> pl.DataFrame:
    """SPLIT: compute and communication of each rank in prefill and decode."""
    measured = {
        (row["rank"], row["phase"]): row
        for row in analysis.split.to_dicts()
        if row["phase"] in ("prefill", "decode")
    }
    rows = []
    for rank in prediction["ranks"]:
        for phase in ("prefill", "decode"):
            found = measured.get((rank["rank"], phase))
            rows.append(
                {
                    "rank": rank["rank"],
                    "phase": phase,
                    "predicted_compute_s": rank[phase]["compute_s"],
                    "measured_compute_s": found["compute_ns"] / 1e9 if found else None,
                    "predicted_comm_s": rank[phase]["comm_s"],
                    "measured_comm_s": found["exposed_comm_ns"] / 1e9 if found else None,
                }
            )
    return pl.DataFrame(rows, schema=SPLIT)


def memory_table(prediction: Mapping[str, Any], path: Path) -> pl.DataFrame:
    """MEMORY: what each rank should hold and what it held."""
    folder, rows = RunFolder(path), []
    parts = ("weights_bytes", "kv_bytes", "activation_bytes", "overhead_bytes")
    for rank in prediction["ranks"]:
        file = folder.rank_file(rank["rank"], "engine.json")
        facts = read_json(file) if file.is_file() else {}
        in_use = memory_in_use(facts)
        rows.append(
            {
                "rank": rank["rank"],
                "predicted_weights_bytes": round(rank["weights_bytes"]),
                "measured_weights_bytes": facts.get("parameter_bytes"),
                "predicted_allocated_bytes": round(sum(rank[part] for part in parts[:-1])),
                "measured_allocated_bytes": in_use.get("max_allocated_bytes"),
                "predicted_total_bytes": round(sum(rank[part] for part in parts)),
                "measured_total_bytes": in_use.get("device_used_bytes"),
            }
        )
    return pl.DataFrame(rows, schema=MEMORY)


def doubts(run: Mapping[str, Any], headline: pl.DataFrame) -> list[str]:
    """What a reader must know before using the numbers."""
    found = []
    if run.get("state") != "finished":
        found.append(f"the run is {run.get('state')}: what it measured before is compared")
    missing = headline.filter(pl.col("measured").is_null())["measure"].to_list()
    if missing:
        found.append(f"not measured: {', '.join(missing)}")
    if run["config"]["load"] == "dummy":
        found.append("weights were random (--load dummy): times hold, text does not")
    return found


def write_tables(comparison: Comparison, path: Path) -> Path:
    """tables/comparison_*.parquet in the run folder; `quality` has the warnings."""
    folder = RunFolder(path).tables
    told = set(comparison.analysis.quality["text"])
    more = [finding("comparison", text) for text in comparison.warnings if text not in told]
    quality = pl.concat([comparison.analysis.quality, pl.DataFrame(more, schema=QUALITY)])
    frames = {
        "headline": comparison.headline,
        "split": comparison.split,
        "memory": comparison.memory,
        "classes": comparison.classes,
        "quality": quality,
    }
    try:
        folder.mkdir(exist_ok=True)
        for name, frame in frames.items():
            frame.write_parquet(folder / f"comparison_{name}.parquet")
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}.") from error
    return folder
