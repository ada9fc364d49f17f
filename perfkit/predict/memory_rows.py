"""Rows of `perfkit memory`: one per kind of rank, or one for an idealised even split."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from perfkit.errors import ConfigError
from perfkit.predict.memory import (
    Workload,
    activation_bytes,
    check_work,
    kv_bytes,
    overhead_bytes,
    rank_parts,
    verdict,
)
from perfkit.predict.spec import ModelSpec, dtype_bytes, kv_bytes_per_token, num_parameters
from perfkit.predict.tensors import check_layout, layout_note


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Values a user sets instead of the model's own or the computed ones."""

    params: float | None = None
    kv_heads: int | None = None
    activations_bytes: float | None = None
    overhead_bytes: float | None = None


def memory_rows(
    spec: ModelSpec,
    work: Workload,
    *,
    tp: int,
    pp: int,
    split: Sequence[int] | None = None,
    gpu: str | None = None,
    capacity_bytes: int | None = None,
    overrides: Overrides | None = None,
) -> list[dict[str, Any]]:
    """One row per kind of rank: ranks that need the same are listed together in `ranks`."""
    over = overrides or Overrides()
    check_work(spec, work)
    check_layout(spec, tp=tp, pp=pp, split=split)
    if over.params is not None or over.kv_heads is not None:
        raise ConfigError(
            "--params and --kv-heads describe no tensors that could be sharded. "
            "Use them with --gpus N (an even split).",
        )
    inputs = _inputs(spec, work, tp=tp, pp=pp, num_gpus=tp * pp, gpu=gpu, sharding="deepspeed")
    rows: list[dict[str, Any]] = []
    for pp_rank in range(pp):
        for tp_rank in range(tp):
            parts = rank_parts(
                spec, work, tp=tp, pp=pp, tp_rank=tp_rank, pp_rank=pp_rank, split=split
            )
            row = {**inputs, "stage": pp_rank, **_total(_override(parts, over), capacity_bytes)}
            _join(rows, row, pp_rank * tp + tp_rank)
    return rows


def even_row(
    spec: ModelSpec,
    work: Workload,
    *,
    num_gpus: int,
    gpu: str | None = None,
    capacity_bytes: int | None = None,
    overrides: Overrides | None = None,
) -> dict[str, Any]:
    """An idealised even split: weights and KV cache divided by the number of GPUs.

    First users' table: 70e9 parameters, 64 kv heads, 2 + 6 GiB, 8 GPUs, context 2048 gives
    16.30 + 0.625 + 8 = 24.92 GiB.
    """
    over = overrides or Overrides()
    check_work(spec, work)
    if num_gpus < 1:
        raise ConfigError(f"--gpus {num_gpus}: use 1 or more.")
    if over.kv_heads and spec.latent:
        raise ConfigError(
            f"--kv-heads: {spec.id} caches one vector a token for all heads, so the number of kv "
            "heads changes nothing. Leave it out.",
        )
    params = float(over.params or num_parameters(spec))
    spec = replace(spec, num_kv_heads=over.kv_heads) if over.kv_heads else spec
    layers = range(spec.num_layers)
    whole_kv = kv_bytes(spec, work, layers=layers, kv_heads=spec.num_kv_heads)
    parts: dict[str, float] = {
        "weights_bytes": params * dtype_bytes(work.dtype) / num_gpus,
        "kv_bytes": whole_kv / num_gpus,
        "activation_bytes": activation_bytes(
            spec,
            work,
            kv_heads=spec.num_kv_heads / num_gpus,
            columns=spec.intermediate / num_gpus,
            expert_columns=spec.expert_intermediate / num_gpus,
            shared_columns=spec.shared_intermediate / num_gpus,
            last=True,
        ),
        "overhead_bytes": overhead_bytes(tp=num_gpus, pp=1),
    }
    inputs = _inputs(spec, work, tp=None, pp=None, num_gpus=num_gpus, gpu=gpu, sharding="even")
    total = _total(_override(parts, over), capacity_bytes)
    return {**inputs, "params": params, "stage": None, **total, "ranks": f"each of {num_gpus}"}


def override_notes(spec: ModelSpec, over: Overrides) -> list[str]:
    """One sentence per override that differs from the model's own value."""
    notes = []
    own = num_parameters(spec)
    if over.params is not None and over.params != own:
        notes.append(
            f"--params {over.params:,.0f}: the model has {own:,} parameters, "
            f"so weights are {over.params / own:.3f} times the real ones"
        )
    if over.kv_heads is not None and over.kv_heads != spec.num_kv_heads:
        notes.append(_kv_note(spec, over.kv_heads))
    if over.activations_bytes is not None:
        notes.append("--activations-gib replaces the computed activation peak")
    if over.overhead_bytes is not None:
        notes.append("--overhead-gib replaces the context, workspace and NCCL estimate")
    return notes


def _kv_note(spec: ModelSpec, kv_heads: int) -> str:
    ratio = kv_heads / spec.num_kv_heads
    size = f"{ratio:.3g} times too large" if ratio > 1 else f"{1 / ratio:.3g} times too small"
    kind = "grouped-query attention" if spec.query_heads_per_kv_head > 1 else "one per query head"
    return f"--kv-heads {kv_heads}: the model has {spec.num_kv_heads} ({kind}), so KV is {size}"


def _inputs(spec: ModelSpec, work: Workload, **layout: Any) -> dict[str, Any]:
    return {
        "model": spec.id,
        "params": float(num_parameters(spec)),
        "kv_heads": spec.num_kv_heads,
        "kv_bytes_per_token": kv_bytes_per_token(spec, dtype_bytes(work.dtype)),
        "dtype": work.dtype,
        "batch": work.batch,
        "microbatches": work.microbatches,
        "context": work.context,
        "prompt": work.prompt or work.context,
        **layout,
        "note": layout_note(spec, layout["tp"]) if layout["tp"] else None,
    }


def _override(parts: dict[str, float], over: Overrides) -> dict[str, float]:
    given = {
        "activation_bytes": over.activations_bytes,
        "overhead_bytes": over.overhead_bytes,
    }
    return {**parts, **{name: value for name, value in given.items() if value is not None}}


def _total(parts: dict[str, float], capacity_bytes: int | None) -> dict[str, Any]:
    total = sum(parts.values())
    margin = None if capacity_bytes is None else capacity_bytes - total
    return {
        **{name: float(value) for name, value in parts.items()},
        "total_bytes": float(total),
        "capacity_bytes": capacity_bytes,
        "margin_bytes": margin,
        "verdict": verdict(total, capacity_bytes),
    }


def _join(rows: list[dict[str, Any]], row: dict[str, Any], rank: int) -> None:
    """Add the rank to an equal row, else start one."""
    for other in rows:
        if {k: v for k, v in other.items() if k != "ranks"} == row:
            other["ranks"] += f" {rank}"
            return
    rows.append({**row, "ranks": str(rank)})
