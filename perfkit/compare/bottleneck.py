"""What limited a decode step, as its trace shows it, beside what was predicted to.

host     the slowest ranks' kernels fill less than BUSY of the time between two tokens
comm     NCCL moved data for longer than kernels computed
compute, memory   the nearer roof of the products: their operations or their bytes, of known work,
         over the time that the trace has for them
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.compare.classes import TRANSFER, traced_classes
from perfkit.compare.run import find_rates, plan_of
from perfkit.compare.study_runs import run_name
from perfkit.errors import ConfigError
from perfkit.predict.plan import Plan, decode_pass
from perfkit.predict.rates import Rates
from perfkit.predict.spec import ModelSpec, spec_from_config
from perfkit.predict.time import predict
from perfkit.predict.work import pass_work
from perfkit.schema import open_run
from perfkit.timeline.analysis import analyze_run

BUSY = 0.8
"""captured steps are at 0.93 and more, eager ones that wait for their host below 0.7"""
LIMITS = pl.Schema(
    {
        "run": pl.String,
        "held_in": pl.Boolean,
        "predicted": pl.String,  # compute, memory, host or comm
        "measured": pl.String,
        "right": pl.Boolean,
        "busy": pl.Float64,  # kernels of the slowest ranks over the time between two tokens
    }
)


def bottlenecks(paths: Sequence[Path]) -> tuple[pl.DataFrame, list[str]]:
    """LIMITS of every run with a trace of a GPU, and why the others are left out."""
    rows: list[dict[str, Any]] = []
    left_out = []
    for path in paths:
        try:
            rows.append(bottleneck_of(path))
        except ConfigError as error:
            left_out.append(f"{run_name(path)}: {error}")
    return pl.DataFrame(rows, schema=LIMITS), left_out


def bottleneck_of(path: Path) -> dict[str, Any]:
    """One row of LIMITS; ConfigError for a run without a trace or without timed steps."""
    _folder, run = open_run(path)
    if run.get("task") != "inference" or not run.get("model"):
        raise ConfigError("no run of the engine")
    if {"nsys", "nsys-metrics"}.intersection(run.get("collectors", {})):
        raise ConfigError("timed inside nsys, which costs time")
    plan = Plan(**plan_of(path, run))
    spec = spec_from_config(run["model"]["config"], model_id=run["model"]["id"])
    rates, _source = find_rates(path, run, None, None, None)
    analysis = analyze_run(path)
    steps = [(rank, found) for rank, phase, found in traced_classes(analysis) if phase == "decode"]
    tpot = analysis.measures.filter(kind="timed")["tpot_s"].drop_nulls()
    if not steps or tpot.is_empty():
        raise ConfigError("no trace of a GPU's decode steps, or no timed ones")
    busy = busy_s(steps, plan) / statistics.median(tpot)
    _rank, slowest = max(steps, key=lambda step: total_s(step[1]))
    measured = "host" if busy < BUSY else device_limit(slowest, spec, plan, rates)
    predicted = predict(spec, rates, plan)["bottleneck"]
    return {
        "run": run_name(path),
        "held_in": run_name(path) in rates.held_in,
        "predicted": predicted,
        "measured": measured,
        "right": predicted == measured,
        "busy": busy,
    }


def total_s(classes: dict[str, float | None]) -> float:
    return sum(seconds for seconds in classes.values() if seconds)


def busy_s(steps: Sequence[tuple[int, dict[str, float | None]]], plan: Plan) -> float:
    """Kernels between two tokens: of all stages with one microbatch, else of the slowest."""
    stages = [0.0] * plan.pp
    for rank, classes in steps:
        stages[rank // plan.tp] = max(stages[rank // plan.tp], total_s(classes))
    return sum(stages) if plan.microbatches == 1 else plan.microbatches * max(stages)


def device_limit(
    classes: dict[str, float | None], spec: ModelSpec, plan: Plan, rates: Rates
) -> str:
    moving = classes.get(TRANSFER) or 0.0
    if moving > total_s(classes) - moving:
        return "comm"
    work = pass_work(spec, plan.shard(0, 0), decode_pass(plan))
    products = [k for k in work.kernels if k.kind in ("gemm", "product", "grouped")]
    compute = rates.at(plan.active_ranks)
    operations = sum(float(k.count * k.flops) for k in products) / compute.gemm_flops_per_s
    moved = sum(float(k.count * k.num_bytes) for k in products) / compute.read_bytes_per_s
    return "compute" if operations > moved else "memory"
