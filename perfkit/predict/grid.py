"""A prediction for every combination of the given values: one row each, refused ones included."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from perfkit.errors import ConfigError
from perfkit.predict.memory import verdict
from perfkit.predict.network import Network
from perfkit.predict.rates import Rates
from perfkit.predict.spec import ModelSpec
from perfkit.predict.tensors import layout_note
from perfkit.predict.time import Plan, predict

MEMORY_PARTS = ("weights_bytes", "kv_bytes", "activation_bytes", "overhead_bytes")
TIMES = (
    "ttft",
    "ttft_p05",
    "ttft_p95",
    "tpot",
    "tpot_p05",
    "tpot_p95",
    "end_to_end",
)
"""of predict's results, in seconds; a row has them in ms"""
RESULTS = (
    "tokens_per_s",
    "compute_share",
    "comm_share",
    "wait_share",
    "host_share",
    "bubble",
    "bottleneck",
)


def plans(axes: Mapping[str, Sequence[Any]]) -> Iterator[Plan]:
    """Every combination of the values of Plan's fields: {"tp": [1, 2], "batch": [1, 8]}.

    Without microbatches a plan has what `perfkit run` takes: min(pp, batch).
    """
    for values in itertools.product(*axes.values()):
        plan = Plan(**dict(zip(axes, values, strict=True)))
        yield plan if "microbatches" in axes else replace(plan, microbatches=in_flight(plan))


def in_flight(plan: Plan) -> int:
    """As many microbatches as stages fill the pipeline; a batch cannot be cut finer than 1."""
    return max(1, min(plan.pp, plan.batch))


def predict_rows(
    spec: ModelSpec,
    rates: Rates,
    wanted: Iterable[Plan],
    *,
    capacity_bytes: int | None = None,
    network: Network | None = None,
) -> list[dict[str, Any]]:
    """One row per plan: inputs, predicted results, memory of the fullest rank, or `refused`.

    With a network also nodes, and node_hours_per_mtok: whole nodes for a million new tokens.
    """
    rows = [_row(spec, rates, plan, capacity_bytes) for plan in wanted]
    return [{**row, **_nodes(row, network)} for row in rows]


def _nodes(row: Mapping[str, Any], network: Network | None) -> dict[str, float | None]:
    nodes = network.num_nodes(row["num_gpus"]) if network else None
    hours = None
    if nodes and row["tokens_per_s"]:
        hours = nodes * 1e6 / row["tokens_per_s"] / 3600
    return {"nodes": nodes, "node_hours_per_mtok": hours}


def numbers(text: str, option: str) -> list[int]:
    """A list or range of integers: "1,2,4" or "1:256:8" (start:stop:step, stop included)."""
    found: list[int] = []
    for part in text.split(","):
        found.extend(_part(part.strip(), option))
    return found


def _part(part: str, option: str) -> Iterable[int]:
    try:
        bounds = [int(word) for word in part.split(":")]
    except ValueError:
        bounds = []
    if len(bounds) == 1:
        return bounds
    if len(bounds) in (2, 3) and bounds[-1] > 0 and bounds[0] <= bounds[1]:
        return range(bounds[0], bounds[1] + 1, bounds[2] if len(bounds) == 3 else 1)
    raise ConfigError(
        f"{option} {part!r} is neither a number nor start:stop:step. Use 1,2,4 or 1:256:8.",
    )


def _row(spec: ModelSpec, rates: Rates, plan: Plan, capacity_bytes: int | None) -> dict[str, Any]:
    try:
        found, refused = predict(spec, rates, plan), None
    except ConfigError as error:
        found, refused = {}, str(error)
    return {
        **_inputs(spec, rates, plan),
        **{f"{name}_ms": _ms(found.get(f"{name}_s")) for name in TIMES},
        **{name: found.get(name) for name in RESULTS},
        **_memory(found.get("ranks", []), capacity_bytes),
        "note": layout_note(spec, plan.tp) if refused is None else None,
        "refused": refused,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _inputs(spec: ModelSpec, rates: Rates, plan: Plan) -> dict[str, Any]:
    return {
        "model": spec.id,
        "machine": rates.name,
        "rates": rates.summary,
        "tp": plan.tp,
        "pp": plan.pp,
        "num_gpus": plan.tp * plan.pp,
        "batch": plan.batch,
        "microbatches": plan.microbatches,
        "prompt_tokens": plan.prompt_tokens,
        "new_tokens": plan.new_tokens,
        "dtype": plan.dtype,
        "decode": plan.decode,
        "sharding": plan.sharding,
    }


def _memory(ranks: list[dict[str, Any]], capacity_bytes: int | None) -> dict[str, Any]:
    """The fullest rank decides."""
    if not ranks:
        return dict.fromkeys((*MEMORY_PARTS, "total_bytes", "capacity_bytes", "fits"))
    parts = max(([rank[name] for name in MEMORY_PARTS] for rank in ranks), key=sum)
    return {
        **dict(zip(MEMORY_PARTS, map(float, parts), strict=True)),
        "total_bytes": float(sum(parts)),
        "capacity_bytes": capacity_bytes,
        "fits": verdict(sum(parts), capacity_bytes),
    }
