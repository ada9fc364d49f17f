"""A prediction for every combination of the given values: one row each, refused ones included."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from perfkit.errors import ConfigError
from perfkit.executors import num_cores
from perfkit.predict.memory import ALLOCATOR_SLACK, rank_parts
from perfkit.predict.network import Network
from perfkit.predict.rates import Rates
from perfkit.predict.schedule import BOTTLENECKS
from perfkit.predict.spec import ModelSpec
from perfkit.predict.tensors import layout_note
from perfkit.predict.time import DECODES, Plan, can_run, check_mode, evaluate, why_not, workload

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
"""of an evaluation's results, in seconds; a row has them in ms"""
RESULTS = (
    "tokens_per_s",
    "compute_share",
    "comm_share",
    "wait_share",
    "host_share",
    "bubble",
    "bottleneck",
)
AXES = ("tp", "pp", "batch", "prompt_tokens", "new_tokens", "decode", "microbatches")
"""rows are in this order, the last value changing fastest"""
ROWS = (
    *("model", "machine", "rates", "tp", "pp", "num_gpus", "batch", "microbatches"),
    *("prompt_tokens", "new_tokens", "dtype", "decode", "sharding"),
    *(f"{name}_ms" for name in TIMES),
    *RESULTS,
    *MEMORY_PARTS,  # of the fullest rank
    *("total_bytes", "capacity_bytes", "fits", "note", "refused", "nodes", "node_hours_per_mtok"),
)
"""columns of a prediction; null where a plan cannot run, `refused` says why"""
SMALL: dict[str, Any] = {
    "order": pl.Int64,
    **dict.fromkeys(("tp", "pp", "microbatches"), pl.Int32),
    **dict.fromkeys(("batch", "prompt_tokens", "new_tokens"), pl.Int64),
    "decode": pl.Enum(DECODES),
    **{f"{name}_ms": pl.Float64 for name in TIMES},
    **dict.fromkeys(RESULTS[:-1], pl.Float64),
    **dict.fromkeys((*MEMORY_PARTS, "total_bytes"), pl.Float64),
    **dict.fromkeys(("bottleneck", "fits"), pl.UInt32),  # places in their lists of words
    "refused": pl.String,
}
VERDICTS = ("fits", "tight", "does not fit")

Columns = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Block:
    """Plans of one layout: batch [b, 1, 1], prompt [1, n, 1] and new tokens [1, 1, m] span a cube.

    What depends on some of them only, is computed for those only.
    """

    plan: Plan
    order: Any
    """[b, n, m] places in the grid"""


def predict_frame(
    spec: ModelSpec,
    rates: Rates,
    axes: Mapping[str, Sequence[Any]],
    *,
    capacity_bytes: int | None = None,
    network: Network | None = None,
) -> pl.DataFrame:
    """One row for each combination of the axes: inputs, results, memory of the fullest rank.

    `axes` are fields of Plan: {"tp": [1, 2], "batch": [1, 8]}. Without microbatches a plan has
    what `perfkit run` takes, min(pp, batch). A plan that cannot run has its reason in `refused` and
    nulls. With a network also nodes, and node_hours_per_mtok: whole nodes for a million new tokens.
    """

    def frames_of(block: Block) -> list[pl.DataFrame]:
        layout = {name: pl.lit(value) for name, value in _layout(block.plan).items()}
        return [
            pl.DataFrame(columns, schema_overrides=SMALL).with_columns(**layout)
            for columns in _evaluated(spec, rates, block, capacity_bytes)
        ]

    with ThreadPoolExecutor(num_cores()) as pool:  # numpy and polars run outside Python's lock
        frames = [frame for found in pool.map(frames_of, blocks(axes)) for frame in found]
    whole = pl.concat([pl.DataFrame(schema=SMALL), *frames], how="diagonal_relaxed").sort("order")
    return _finished(whole, spec, rates, axes, capacity_bytes, network)


def _finished(
    found: pl.DataFrame,
    spec: ModelSpec,
    rates: Rates,
    axes: Mapping[str, Sequence[Any]],
    capacity_bytes: int | None,
    network: Network | None,
) -> pl.DataFrame:
    """ROWS: what all rows share, words for their numbers, nodes."""
    shared = {
        "model": spec.id,
        "machine": rates.name,
        "rates": rates.summary,
        "dtype": rates.dtype,
        "sharding": axes.get("sharding", [Plan().sharding])[0],
    }
    notes = {tp: layout_note(spec, tp) for tp in axes.get("tp", [1]) if tp <= spec.num_kv_heads}
    told = {tp: note for tp, note in notes.items() if note}
    nodes, times = pl.lit(None, pl.Int64), [f"{name}_ms" for name in TIMES]
    if network:
        nodes = (pl.col("num_gpus") + network.gpus_per_node - 1) // network.gpus_per_node
    return (
        found.with_columns(
            **{name: pl.lit(word, pl.Enum([word])) for name, word in shared.items()},
            num_gpus=pl.col("tp").cast(pl.Int64) * pl.col("pp"),
            bottleneck=_words("bottleneck", BOTTLENECKS),
            fits=_words("fits", VERDICTS),
            capacity_bytes=pl.lit(capacity_bytes, pl.Int64),
            note=pl.col("tp").replace_strict(told, default=None, return_dtype=pl.String)
            if told
            else pl.lit(None, pl.String),
        )
        .with_columns(pl.col(times).fill_nan(None), nodes=nodes)
        .with_columns(
            node_hours_per_mtok=pl.col("nodes") * 1e6 / pl.col("tokens_per_s") / 3600,
        )
        .select(ROWS)
    )


def _words(name: str, words: Sequence[str]) -> pl.Expr:
    """The words whose places a column has."""
    places = list(range(len(words)))
    return pl.col(name).replace_strict(places, list(words), return_dtype=pl.Enum(words))


def blocks(axes: Mapping[str, Sequence[Any]]) -> Iterator[Block]:
    """The grid, cut into layouts: tp, pp, decode and microbatches are one value each."""
    values = {name: list(axes.get(name, [getattr(Plan(), name)])) for name in AXES[:-1]}
    given = list(axes.get("microbatches", [None]))
    lengths = [*(len(found) for found in values.values()), len(given)]
    places = np.arange(int(np.prod(lengths))).reshape(lengths)
    rest = {name: axes[name][0] for name in axes if name not in AXES}
    batch, prompt, new = np.ix_(
        *(np.array(values[name]) for name in ("batch", "prompt_tokens", "new_tokens"))
    )
    for (i, tp), (j, pp), (k, decode), (m, wanted) in itertools.product(
        *(enumerate(values[name]) for name in ("tp", "pp", "decode")), enumerate(given)
    ):
        order = places[i, j, :, :, :, k, m]
        in_flight = np.full(len(batch), wanted) if wanted else np.clip(batch[:, 0, 0], 1, pp)
        for microbatches in np.unique(in_flight):
            here = in_flight == microbatches
            plan = Plan(
                tp=tp,
                pp=pp,
                decode=decode,
                microbatches=int(microbatches),
                batch=batch[here],
                prompt_tokens=prompt,
                new_tokens=new,
                **rest,
            )
            yield Block(plan, order[here])


def _evaluated(
    spec: ModelSpec, rates: Rates, block: Block, capacity_bytes: int | None
) -> Iterator[Columns]:
    """The block's rows that can run, and those that cannot with the reason of each."""
    plan, shape = block.plan, block.order.shape
    inputs = {name: getattr(plan, name) for name in ("batch", "prompt_tokens", "new_tokens")}
    able = np.broadcast_to(can_run(spec, plan), shape)
    try:
        check_mode(spec, rates, plan)
        # Rows that cannot run are computed with the others, from lengths that break no formula.
        safe = replace(plan, **{name: np.maximum(1, sizes) for name, sizes in inputs.items()})
        found = _columns(spec, rates, safe, capacity_bytes) if able.any() else {}
    except ConfigError as error:
        yield {**_chosen({**inputs, "order": block.order}, shape, True), "refused": str(error)}
        return
    columns = {**found, **inputs, "order": block.order}
    if able.any():
        yield _chosen(columns, shape, able)
    if not able.all():
        left = _chosen({**inputs, "order": block.order}, shape, ~able)
        rows = zip(*(left[name].tolist() for name in inputs), strict=True)
        reasons = [
            why_not(spec, batch, plan.microbatches, prompt, new) for batch, prompt, new in rows
        ]
        yield {**left, "refused": reasons}


def _chosen(columns: Columns, shape: tuple[int, ...], rows: Any) -> Columns:
    """Each column over the whole cube, the chosen rows of it."""
    rows = np.broadcast_to(rows, shape)
    return {name: np.broadcast_to(values, shape)[rows] for name, values in columns.items()}


def _columns(spec: ModelSpec, rates: Rates, plan: Plan, capacity_bytes: int | None) -> Columns:
    found = evaluate(spec, rates, plan)
    return {
        **{f"{name}_ms": 1e3 * found[f"{name}_s"] for name in TIMES},
        **{name: found[name] for name in RESULTS},
        **_memory(spec, rates, plan, capacity_bytes),
    }


def _memory(spec: ModelSpec, rates: Rates, plan: Plan, capacity_bytes: int | None) -> Columns:
    """Parts of the fullest rank: the first of some stage, whose shards are the largest."""
    work = workload(plan, rates.device)
    fullest: Columns = {}
    for stage in range(plan.pp):
        parts: Columns = rank_parts(
            spec, work, tp=plan.tp, pp=plan.pp, tp_rank=0, pp_rank=stage, split=plan.split
        )
        parts["total_bytes"] = sum(parts[name] for name in MEMORY_PARTS)
        if fullest:
            more = parts["total_bytes"] > fullest["total_bytes"]
            parts = {name: np.where(more, parts[name], fullest[name]) for name in parts}
        fullest = parts
    found = {name: np.asarray(sizes, dtype=float) for name, sizes in fullest.items()}
    return {**found, **_fits(found["total_bytes"], capacity_bytes)}


def _fits(total: Any, capacity_bytes: int | None) -> Columns:
    if capacity_bytes is None:
        return {}
    verdicts = (total * ALLOCATOR_SLACK > capacity_bytes).astype(int) + (total > capacity_bytes)
    return {"fits": verdicts}


def _layout(plan: Plan) -> Columns:
    return {
        "tp": plan.tp,
        "pp": plan.pp,
        "microbatches": plan.microbatches,
        "decode": plan.decode,
    }


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
