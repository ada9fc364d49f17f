"""Names the communicators of perfkit's own runs where their source does not: gloo, and nsys when
NCCL's payloads were not exported.

The layout says who is whose peer: all-reduces and broadcasts are of the stage's tensor-parallel
group, barriers of everybody, and a send or receive belongs to the phase that it stands in: pp_send
and pp_recv go to the next stage and come from the one before, tok_send goes to the stages 0, 1 ...
in this order, tok_recv comes from the last one. See perfkit/engine/pipeline.py. A kernel is of the
phase in which it was launched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

STAGE_OPS = ("all_reduce", "broadcast", "all_gather", "reduce_scatter")
SEND_CALL = "c10d::send"

HANDOVERS = pl.Schema(
    {
        "rank": pl.Int32,  # whose host waited
        "start_ns": pl.Int64,  # from
        "end_ns": pl.Int64,  # to
        "sender": pl.Int32,  # for which rank
        "sent_ns": pl.Int64,  # when that one's host began to send
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Tensor-parallel ranks in a stage, and stages: rank = pp_rank * tp + tp_rank."""

    tp: int
    pp: int

    @property
    def num_ranks(self) -> int:
        return self.tp * self.pp

    def sender(self, rank: int, phase: str) -> int:
        """Whom a receive in this phase comes from."""
        return rank - self.tp if phase == "pp_recv" else (self.pp - 1) * self.tp + rank % self.tp

    def receiver(self, rank: int, phase: str, number: int) -> int:
        """Whom the send with this number in its range goes to."""
        return rank + self.tp if phase == "pp_send" else number * self.tp + rank % self.tp

    def channel(self, rank: int, phase: str, number: int = 0) -> str:
        """hidden 0 to 2, or tokens 2 to 0: one direction between this rank and its peer."""
        what, direction = phase.split("_")
        receives = direction == "recv"
        sender = self.sender(rank, phase) if receives else rank
        receiver = rank if receives else self.receiver(rank, phase, number)
        return f"{'hidden' if what == 'pp' else 'tokens'} {sender} to {receiver}"


def layout_of(run: Mapping[str, Any]) -> Layout | None:
    """The layout that run.json records; None for another program's run."""
    config = run.get("config") or {}
    if "tp" not in config or "pp" not in config:
        return None
    return Layout(tp=int(config["tp"]), pp=int(config["pp"]))


def with_groups(activities: pl.DataFrame, ranges: pl.DataFrame, layout: Layout) -> pl.DataFrame:
    """The same rows, those of unnamed communicators named.

    A send's call takes the place of gloo's own row of it, which ends only when somebody waits.
    """
    of_stage = pl.col("op").is_in(STAGE_OPS)
    stage = (pl.col("rank") // layout.tp).cast(pl.String)
    unnamed = pl.col("group").is_null() & pl.col("op").is_not_null()
    barrier = pl.col("op") == "barrier"
    group = pl.when(of_stage).then(pl.lit("stage ") + stage).when(barrier).then(pl.lit("world"))
    size = pl.when(of_stage).then(layout.tp).when(barrier).then(layout.num_ranks)
    named = activities.with_columns(
        group=pl.when(unnamed).then(group.otherwise(None)).otherwise(pl.col("group")),
        num_ranks=pl.when(unnamed).then(size.otherwise(None)).otherwise(pl.col("num_ranks")),
    )
    parts = [_rank_named(rows, ranges, layout) for _key, rows in named.group_by("rank")]
    return pl.concat(parts).sort("rank", "start_ns", "end_ns") if parts else named


def _rank_named(rows: pl.DataFrame, ranges: pl.DataFrame, layout: Layout) -> pl.DataFrame:
    rank = int(rows["rank"][0])
    mine = ranges.filter(pl.col("rank") == rank)
    cpu = pl.col("device") == "cpu"
    receives = rows.filter(cpu, pl.col("op") == "recv", pl.col("group").is_null())
    calls = rows.filter(cpu, pl.col("name") == SEND_CALL)
    kernels = rows.filter(~cpu, pl.col("op") == "send_recv", pl.col("group").is_null())
    taken = pl.concat([receives, calls, kernels])
    rest = rows.join(taken, on=["device", "stream", "name", "start_ns"], how="anti")
    return pl.concat(
        [
            rest,
            _received(receives, mine, rank, layout),
            _sent(calls, mine, rank, layout),
            _launched(kernels, mine, rank, layout),
        ]
    )


def _launched(rows: pl.DataFrame, ranges: pl.DataFrame, rank: int, layout: Layout) -> pl.DataFrame:
    """NCCL's send-receive kernels by the phase that launched them; activations go one way."""
    known = rows.filter(pl.col("launch_ns").is_not_null())
    unknown = rows.filter(pl.col("launch_ns").is_null())
    phases = phase_at(known["launch_ns"].to_numpy(), ranges, ("pp_send", "pp_recv"))
    names = [None if phase is None else phase[0] for phase in phases]
    groups = [name and layout.channel(rank, name) for name in names]
    ops = [None if name is None else name.removeprefix("pp_") for name in names]
    op = pl.coalesce(pl.Series("op", ops, dtype=pl.String), pl.col("op"))
    return pl.concat([_labelled(known, groups).with_columns(op=op), unknown])


def _received(rows: pl.DataFrame, ranges: pl.DataFrame, rank: int, layout: Layout) -> pl.DataFrame:
    phases = phase_at(rows["end_ns"].to_numpy() - 1, ranges, ("pp_recv", "tok_recv"))
    return _labelled(rows, [phase and layout.channel(rank, phase[0]) for phase in phases])


def _sent(rows: pl.DataFrame, ranges: pl.DataFrame, rank: int, layout: Layout) -> pl.DataFrame:
    ordered = rows.sort("start_ns")
    phases = phase_at(ordered["start_ns"].to_numpy(), ranges, ("pp_send", "tok_send"))
    groups: list[str | None] = []
    numbers: dict[tuple[str, int], int] = {}
    for phase in phases:
        if phase is None:
            groups.append(None)
            continue
        number = numbers.get(phase, 0)
        numbers[phase] = number + 1
        groups.append(layout.channel(rank, phase[0], number))
    sends = _labelled(ordered, groups)
    known = pl.col("group").is_not_null()
    kind = pl.when(known).then(pl.lit("collective")).otherwise(pl.col("kind").cast(pl.String))
    return sends.with_columns(
        kind=kind.cast(rows.schema["kind"]), op=pl.when(known).then(pl.lit("send"))
    )


def _labelled(rows: pl.DataFrame, groups: Sequence[str | None]) -> pl.DataFrame:
    group = pl.Series("group", groups, dtype=pl.String)
    size = pl.when(group.is_not_null()).then(2).cast(pl.Int32)
    return rows.with_columns(group, num_ranks=size)


def token_handovers(ranges: pl.DataFrame, layout: Layout) -> pl.DataFrame:
    """Token ids that hosts wait for (HANDOVERS): the i-th tok_recv is of the i-th tok_send.

    They travel over gloo from the last stage to each other one of its column, beside the devices.
    """
    numbered = ranges.sort("rank", "start_ns").with_columns(
        number=pl.int_range(pl.len()).over("rank", "phase")
    )
    receives = numbered.filter(pl.col("phase") == "tok_recv").with_columns(
        sender=(layout.pp - 1) * layout.tp + pl.col("rank") % layout.tp
    )
    sends = numbered.filter(pl.col("phase") == "tok_send").select(
        "number", sender="rank", sent_ns="start_ns"
    )
    both = receives.join(sends, on=["sender", "number"]).sort("rank", "number")
    return both.select(pl.col(name).cast(dtype) for name, dtype in HANDOVERS.items())


def phase_at(
    times: NDArray[np.int64], ranges: pl.DataFrame, phases: Sequence[str]
) -> list[tuple[str, int] | None]:
    """(phase, number of its range) that each moment lies in; None outside of all of them."""
    wanted = ranges.filter(pl.col("phase").is_in(phases)).sort("start_ns")
    starts, ends = wanted["start_ns"].to_numpy(), wanted["end_ns"].to_numpy()
    names = wanted["phase"].to_list()
    index = np.searchsorted(starts, times, side="right") - 1
    return [
        (names[i], int(i)) if i >= 0 and time <= ends[i] else None
        for i, time in zip(index, times, strict=True)
    ]
