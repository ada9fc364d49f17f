"""T7: memory of the fullest GPU, predicted for layouts that were not run, measured where it was."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfkit.documents.evidence import Evidence, Run
from perfkit.documents.measured_tables import model_words
from perfkit.documents.tables import (
    Cell,
    DocTable,
    absent,
    group_row,
    left,
    number,
    right,
    without_empty_columns,
    word,
)
from perfkit.errors import ConfigError
from perfkit.measures import memory_in_use
from perfkit.predict.cards import load_spec
from perfkit.predict.gpus import Gpu, load_gpu
from perfkit.predict.memory import GIB, Workload
from perfkit.predict.memory_rows import memory_rows
from perfkit.report.tables import significant
from perfkit.study.forecast import fits
from perfkit.study.systems import System

PARTS = ("weights_bytes", "kv_bytes", "activation_bytes", "overhead_bytes")
HEADS = (
    left("layout"),
    right("batch x tokens"),
    *(right(f"{part} [GiB]", "predicted") for part in ("weights", "KV", "activ.", "other")),
    right("in use [GiB]", "predicted"),
    right("in use [GiB]", "measured"),
    right("of [GiB]"),
    left("verdict", "computed"),
)
FIT_BATCH, FIT_CONTEXT = 8, 4096
FIT_PP = (1, 2, 3, 4)
WITHIN = "within nominal"


def memory_table(
    evidence: Evidence, model: str | None, system: System | None, models_dir: Path | None
) -> DocTable:
    """T7: predicted for the layouts that the system has room for, measured where it was run."""
    caption = "Memory of the fullest GPU: predicted by part, and measured where it was run"
    rows: list[tuple[Cell, ...]] = []
    note = ""
    if model and system and system.gpu:
        gpu = load_gpu(system.gpu, models_dir)
        rows += _predicted(model, gpu, system, models_dir)
        note = f"Layouts on {system.name} are predicted with bfloat16 weights and caches."
        if gpu.memory_bytes is None:
            note += f" What its GPU reports as memory is not known: {gpu.nominal_memory_gb:g} GB "
            note += f"is its nominal size, and {WITHIN} is below 1e9 bytes for each GB of it."
    rows += _measured(evidence, model)
    if not rows:
        why = "no run recorded the memory of a GPU, and no model and system are named"
        return absent("T7", caption, why, f"perfkit memory {model or 'MODEL'} --tp 2 --gpu GPU")
    return without_empty_columns(
        DocTable(id="T7", caption=caption, heads=HEADS, rows=tuple(rows), note=note)
    )


def _predicted(
    model: str, gpu: Gpu, system: System, models_dir: Path | None
) -> list[tuple[Cell, ...]]:
    """Each layout of a node's GPUs and a few stages."""
    spec, work = load_spec(model, models_dir), Workload(batch=FIT_BATCH, context=FIT_CONTEXT)
    rows = [group_row(f"{model} on {gpu.name}, not run: predicted only", len(HEADS))]
    tp = 1
    while tp <= (system.gpus_per_node or 1):
        for pp in FIT_PP:
            try:
                found = memory_rows(spec, work, tp=tp, pp=pp, gpu=gpu.id)
            except ConfigError:
                continue  # a model that this many ranks cannot divide
            fullest = max(found, key=lambda row: float(row["total_bytes"]))
            rows.append(_fit_row(f"TP{tp} PP{pp}", gpu, fullest))
        tp *= 2
    return rows


def _fit_row(layout: str, gpu: Gpu, row: Mapping[str, Any]) -> tuple[Cell, ...]:
    total, nominal = row["total_bytes"], gpu.nominal_memory_gb
    within = WITHIN if total <= nominal * 1e9 else "not known"
    size = significant(gpu.memory_bytes / GIB) if gpu.memory_bytes else f"{nominal:g} GB"
    return (
        word(layout),
        word(f"{FIT_BATCH} x {FIT_CONTEXT:,}"),
        *(number(row[part], scale=1 / GIB) for part in PARTS),
        number(total, scale=1 / GIB),
        Cell(),
        word(size),
        word(fits(total, gpu) or within),
    )


def fullest_runs(evidence: Evidence, model: str | None = None) -> list[Run]:
    """Of each model, GPU and layout the run that held most."""
    largest: dict[tuple[Any, ...], Run] = {}
    for run in evidence.timed:
        row = run.row
        if not row["peak_gpu_bytes"] or (model and row["model"] != model):
            continue
        key = (row["model"], row["device"], row["dtype"], row["tp"], row["pp"])
        if key not in largest or largest[key].row["peak_gpu_bytes"] < row["peak_gpu_bytes"]:
            largest[key] = run
    return list(largest.values())


def fullest_rank(run: Run) -> dict[str, Any]:
    """engine.json of the rank that held most."""
    return max(run.engine(), key=lambda one: memory_in_use(one).get("device_used_bytes") or 0)


def predicted_parts(run: Run) -> dict[str, float]:
    """PARTS of the fullest predicted rank; nothing of a run that is not predicted."""
    ranks = (run.findings.prediction or {}).get("ranks", ())
    sizes = [{part: float(rank[part]) for part in PARTS} for rank in ranks]
    return max(sizes, key=lambda one: sum(one.values()), default={})


def _measured(evidence: Evidence, model: str | None) -> list[tuple[Cell, ...]]:
    """Rows of the fullest runs, below the model and the GPU that they are of."""
    groups: dict[str, list[Run]] = {}
    for run in fullest_runs(evidence, model):
        groups.setdefault(model_words(run.row), []).append(run)
    found: list[tuple[Cell, ...]] = []
    for title, runs in groups.items():
        found.append(group_row(f"{title}, measured", len(HEADS)))
        found += [_measured_row(run) for run in runs]
    return found


def _measured_row(run: Run) -> tuple[Cell, ...]:
    row, fullest, parts = run.row, fullest_rank(run), predicted_parts(run)
    query = f"engine.json of rank {fullest.get('rank')}: device_used_bytes"
    context = (row["prompt_tokens"] or 0) + (row["new_tokens"] or 0)
    return (
        word(f"TP{row['tp']} PP{row['pp']}"),
        word(f"{row['batch']} x {context:,}"),
        *(_gib(parts.get(part), run.name, f"comparison_memory.{part}") for part in PARTS),
        _gib(sum(parts.values()) or None, run.name, "comparison_memory.predicted_total_bytes"),
        _gib(memory_in_use(fullest).get("device_used_bytes"), run.name, query),
        _gib(fullest.get("device_total_bytes"), run.name, "engine.json: device_total_bytes"),
        Cell(text="ran", runs=(run.name,), query="run.json: state", kind="measured"),
    )


def _gib(size: float | None, run: str, query: str) -> Cell:
    return number(None if size is None else float(size), run, scale=1 / GIB, query=query)
