"""Several runs side by side: one row a run, in the order in which they are compared."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.compare.run_facts import configured, joined, told_to_nccl
from perfkit.errors import ConfigError
from perfkit.measures import memory_in_use
from perfkit.report.given import names_of
from perfkit.report.html import Findings, find
from perfkit.report.step_parts import mean_step, step_parts
from perfkit.schema import RunFolder, read_if_whole
from perfkit.timeline.analysis import Analysis

RUNS = pl.Schema(
    {
        "run": pl.String,  # its name (html.Findings), and how the run ended where it did not finish
        "model": pl.String,
        "dtype": pl.String,  # with the quantised weights, if any
        "device": pl.String,  # name of the GPUs, or of the processor of a run on CPUs
        "gpus_of_host": pl.Int64,  # on the host that started the run, whether used or not
        "ranks": pl.Int64,  # one a GPU
        "hosts": pl.Int64,
        "tp": pl.Int64,
        "pp": pl.Int64,
        "microbatches": pl.Int64,
        "batch": pl.Int64,
        "prompt_tokens": pl.Int64,
        "new_tokens": pl.Int64,
        "decode": pl.String,
        "sharding": pl.String,  # what cuts a stage between its ranks; null: not cut, or not known
        "split": pl.String,  # layers of each stage where they were chosen
        "link": pl.String,  # what NCCL moved data over, from its own log
        "load": pl.String,
        "ttft_s": pl.Float64,  # median of the timed passes
        "tpot_s": pl.Float64,
        "tpot_min_s": pl.Float64,
        "tpot_max_s": pl.Float64,
        "tokens_per_s": pl.Float64,
        "predicted_tpot_s": pl.Float64,
        "error": pl.Float64,  # (predicted - measured) / measured TPOT
        "rates": pl.String,  # what the prediction is made of
        "slowed": pl.Float64,  # TPOT of the captured pass / tpot_s: what the profiler cost
        "traced_ranks": pl.Int64,  # those that the step's parts are the mean of
        "step_ns": pl.Float64,  # of the captured pass, as are its parts: STEP_PARTS
        "compute_ns": pl.Float64,
        "transfer_ns": pl.Float64,
        "wait_ns": pl.Float64,
        "untold_comm_ns": pl.Float64,
        "launch_bound_ns": pl.Float64,
        "other_ns": pl.Float64,
        "peak_gpu_bytes": pl.Float64,  # in use on the device, the most of any rank
        "date": pl.String,
        "torch": pl.String,
        "perfkit": pl.String,
        "nccl": pl.String,
        "driver": pl.String,
    }
)
GROUP = ("model", "device", "dtype")
# Rows that differ in the mode of decoding only stand below each other.
ORDER = (
    *GROUP,
    *("ranks", "tp", "pp", "microbatches", "sharding", "batch", "prompt_tokens", "new_tokens"),
    *("decode", "run"),
)


def find_all(
    paths: Sequence[Path],
    *,
    calibration: Path | None = None,
    gpu: str | None = None,
    models_dir: Path | None = None,
) -> tuple[list[Findings], list[str]]:
    """(findings of the run folders in the order of the table, those that cannot be read and why).

    Rates that were asked for and cannot be used are an error.
    """
    found, unread = [], []
    for name, path in zip(names_of(paths), paths, strict=True):
        try:
            found.append(replace(find(path, calibration, gpu, models_dir), name=name))
        except (ConfigError, OSError) as error:
            if calibration or gpu:
                raise
            unread.append(f"{name}: {str(error).splitlines()[0]}")
    return _in_order(found), unread


def _in_order(found: Sequence[Findings]) -> list[Findings]:
    rows = [{**identity(one), "at": index} for index, one in enumerate(found)]
    schema = pl.Schema([*((name, RUNS[name]) for name in ORDER), ("at", pl.Int64())])
    order = pl.DataFrame(rows, schema=schema).sort(*ORDER, nulls_last=True)
    return [found[index] for index in order["at"]]


def runs_table(found: Sequence[Findings]) -> pl.DataFrame:
    """One row a run (RUNS)."""
    return pl.DataFrame([described(one) for one in found], schema=RUNS)


def described(found: Findings) -> dict[str, Any]:
    """One run as a row; what is not recorded is None."""
    analysis, run = found.analysis, found.analysis.run
    gpus, versions = run.get("hardware", {}).get("gpus") or [], run.get("versions", {})
    nccl, parts = analysis.collected.nccl, parts_of(analysis)
    return {
        **identity(found),
        "gpus_of_host": len(gpus) or None,
        "link": joined(nccl["transports"].to_list()) or told_to_nccl(run),
        **speed(found),
        **mean_step(parts),
        "traced_ranks": parts["rank"].n_unique() or None,
        "peak_gpu_bytes": peak_gpu_bytes(found),
        "date": str(run["started_at"])[:10] if run.get("started_at") else None,
        "torch": versions.get("torch"),
        "perfkit": versions.get("perfkit"),
        "nccl": joined(nccl["nccl_version"].to_list()),
        "driver": gpus[0].get("driver_version") if gpus else None,
    }


def identity(found: Findings) -> dict[str, Any]:
    """Which run it is: its name, and what was asked for on which devices."""
    run = found.analysis.run
    state = run.get("state")
    return {
        "run": found.name + ("" if state == "finished" else f" ({state})"),
        **configured(run),
        "decode": decode_mode(found),
        "ranks": len(found.analysis.ranks) or None,
    }


def parts_of(analysis: Analysis) -> pl.DataFrame:
    """What each device's decode step is made of; no row of a rank without a trace."""
    microbatches = int(analysis.run.get("config", {}).get("microbatches") or 1)
    frames = (analysis.activities, analysis.ranges, analysis.waits, analysis.syncs)
    return step_parts(*frames, microbatches=microbatches)


def decode_mode(found: Findings) -> str | None:
    """eager or graph; a graph that could not be captured is said to be none."""
    config = found.analysis.run.get("config") or {}
    if "model_id" not in config:
        return None
    # Runs from before there was --decode were eager.
    mode = str(config.get("decode", "eager"))
    captured = [facts.get("decode", {}).get("captured") for facts in engine_facts(found)]
    return f"{mode}, not captured" if mode == "graph" and False in captured else mode


def engine_facts(found: Findings) -> list[dict[str, Any]]:
    """engine.json of every rank that left one."""
    folder = RunFolder(found.path)
    files = [folder.rank_file(rank, "engine.json") for rank in found.analysis.ranks]
    return [facts for file in files if (facts := read_if_whole(file))]


def peak_gpu_bytes(found: Findings) -> float | None:
    sizes = [memory_in_use(facts).get("device_used_bytes") for facts in engine_facts(found)]
    return max((float(size) for size in sizes if size is not None), default=None)


def speed(found: Findings) -> dict[str, Any]:
    """Medians of the timed passes, the prediction, and what the profiler cost, in s."""
    measured = {row["measure"]: row for row in found.analysis.summary.to_dicts()}
    tpot = measured.get("tpot_s", {})
    median, captured = tpot.get("median"), tpot.get("captured")
    (predicted,) = found.headline.filter(measure="tpot_s").to_dicts()
    in_ms = predicted["predicted"]
    return {
        "ttft_s": measured.get("ttft_s", {}).get("median"),
        "tpot_s": median,
        "tpot_min_s": tpot.get("min"),
        "tpot_max_s": tpot.get("max"),
        "tokens_per_s": measured.get("tokens_per_s", {}).get("median"),
        "predicted_tpot_s": None if in_ms is None else in_ms / 1e3,
        "error": predicted["error"],
        "rates": found.rates_source,
        "slowed": captured / median if captured and median else None,
    }


def groups(runs: pl.DataFrame) -> list[pl.DataFrame]:
    """The runs of each model on each kind of device."""
    return runs.partition_by(GROUP, maintain_order=True)
