"""A prediction for every combination of the given values: one row each, refused ones included."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from perfkit.collect.facts import usable_cores
from perfkit.errors import ConfigError
from perfkit.predict.memory import VERDICTS, fit, rank_parts
from perfkit.predict.plan import DECODES, Plan, check_mode, obstacle, sequences, why_not, workload
from perfkit.predict.rates import Rates
from perfkit.predict.schedule import BOTTLENECKS
from perfkit.predict.spec import ModelSpec
from perfkit.predict.tensors import layout_note
from perfkit.predict.time import evaluate

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
FLOATS = (
    *(f"{name}_ms" for name in TIMES),
    *RESULTS[:-1],
    *MEMORY_PARTS,
    "total_bytes",
)
WORDS = {"bottleneck": BOTTLENECKS, "fits": VERDICTS, "decode": DECODES}
"""columns that hold the place of a word; -1 for none"""
COUNTS = ("tp", "pp", "microbatches", "batch", "prompt_tokens", "new_tokens")

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
) -> pl.DataFrame:
    """One row for each combination of the axes: inputs, results, memory of the fullest rank.

    `axes` are fields of Plan: {"tp": [1, 2], "batch": [1, 8]}. Without microbatches a plan has
    what `perfkit run` takes, min(pp, batch). A plan that cannot run has its reason in `refused` and
    nulls. Rates with a network give nodes, too, and node_hours_per_mtok: whole nodes for a million
    new tokens.
    """
    table = Table(int(np.prod(_lengths(axes))))

    def fill(block: Block) -> None:
        _fill(table, spec, rates, block, capacity_bytes)

    with ThreadPoolExecutor(usable_cores()) as pool:  # numpy works outside Python's lock
        list(pool.map(fill, blocks(axes)))
    return _finished(table.frame(), spec, rates, axes, capacity_bytes)


class Table:
    """The grid's columns, one array each, which blocks of rows are written into."""

    def __init__(self, rows: int) -> None:
        self.columns: Columns = {
            **{name: np.zeros(rows, dtype=np.int64) for name in COUNTS},
            **{name: np.full(rows, -1, dtype=np.int8) for name in WORDS},
            **{name: np.full(rows, np.nan) for name in FLOATS},
        }
        self.refused: dict[int, str] = {}

    def write(self, order: Any, values: Columns) -> None:
        for name, found in values.items():
            self.columns[name][order] = found

    def refuse(self, order: Any, reasons: Iterable[str]) -> None:
        """No results for these rows: why not."""
        for name in FLOATS:
            self.columns[name][order] = np.nan
        for name in ("bottleneck", "fits"):
            self.columns[name][order] = -1
        self.refused |= dict(zip(order.tolist(), reasons, strict=True))

    def frame(self) -> pl.DataFrame:
        found = pl.DataFrame(self.columns)
        if not self.refused:
            return found.with_columns(refused=pl.lit(None, pl.String))
        reasons = pl.DataFrame(
            {"row": list(self.refused), "refused": list(self.refused.values())},
            schema={"row": pl.UInt32, "refused": pl.String},
        )
        numbered = found.with_row_index("row")
        return numbered.join(reasons, on="row", how="left", maintain_order="left").drop("row")


def _finished(
    found: pl.DataFrame,
    spec: ModelSpec,
    rates: Rates,
    axes: Mapping[str, Sequence[Any]],
    capacity_bytes: int | None,
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
    ranks, nodes = pl.col("tp") * pl.col("pp"), pl.lit(None, pl.Int64)
    if rates.network:
        nodes = rates.network.num_nodes(ranks)
    return (
        found.with_columns(
            pl.col(FLOATS).fill_nan(None),
            *(_words(name, words) for name, words in WORDS.items()),
            **{name: pl.lit(word, pl.Enum([word])) for name, word in shared.items()},
            num_gpus=ranks,
            capacity_bytes=pl.lit(capacity_bytes, pl.Int64),
            note=pl.col("tp").replace_strict(told, default=None, return_dtype=pl.String)
            if told
            else pl.lit(None, pl.String),
            nodes=nodes,
        )
        .with_columns(node_hours_per_mtok=pl.col("nodes") * 1e6 / pl.col("tokens_per_s") / 3600)
        .select(ROWS)
    )


def _words(name: str, words: Sequence[str]) -> pl.Expr:
    """The words whose places a column has."""
    places = list(range(len(words)))
    found = pl.col(name).replace_strict(
        places, list(words), default=None, return_dtype=pl.Enum(words)
    )
    return found.alias(name)


def _lengths(axes: Mapping[str, Sequence[Any]]) -> list[int]:
    return [len(axes.get(name, [None])) for name in AXES]


def blocks(axes: Mapping[str, Sequence[Any]]) -> Iterator[Block]:
    """The grid, cut into layouts: tp, pp, decode and microbatches are one value each."""
    values = {name: list(axes.get(name, [getattr(Plan(), name)])) for name in AXES[:-1]}
    given = list(axes.get("microbatches", [None]))
    lengths = _lengths(axes)
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


def _fill(
    table: Table, spec: ModelSpec, rates: Rates, block: Block, capacity_bytes: int | None
) -> None:
    """The block's rows that can run, and the reason of each that cannot."""
    plan, order = block.plan, block.order
    inputs = sequences(plan)
    layout = {"tp": plan.tp, "pp": plan.pp, "microbatches": plan.microbatches}
    mode = DECODES.index(plan.decode) if plan.decode in DECODES else -1
    table.write(order, {**inputs, **layout, "decode": mode})
    codes = np.broadcast_to(obstacle(spec, plan), order.shape)
    stopped = codes >= 0
    try:
        check_mode(spec, rates, plan)
        if not stopped.all():
            # Rows that cannot run are computed with the others, from lengths that fit a formula.
            safe = replace(plan, **{name: np.maximum(1, sizes) for name, sizes in inputs.items()})
            table.write(order, _columns(spec, rates, safe, capacity_bytes))
    except ConfigError as error:
        table.refuse(order.ravel(), itertools.repeat(str(error), order.size))
        return
    left = [np.broadcast_to(sizes, order.shape)[stopped].tolist() for sizes in inputs.values()]
    reasons = (
        why_not(
            spec,
            code,
            batch=batch,
            prompt_tokens=prompt,
            new_tokens=new,
            microbatches=plan.microbatches,
        )
        for code, batch, prompt, new in zip(codes[stopped].tolist(), *left, strict=True)
    )
    table.refuse(order[stopped], reasons)


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
    if capacity_bytes is None:
        return found
    return {**found, "fits": fit(found["total_bytes"], capacity_bytes)}


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
