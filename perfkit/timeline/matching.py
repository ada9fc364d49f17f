"""Which activity of one rank is the same collective as which of another.

The i-th all-reduce of a communicator on one rank is the i-th on every other rank of it: that is how
collectives work. So rows are numbered in order of start by (group, op), and a number that every
rank of the group has is matched. Where ranks count differently nothing of that (group, op) is
matched, for one missing row would pair all that follow wrongly; the quality table says so.

A send and its receive are matched in the same way, by (group, sender, receiver).
"""

from collections.abc import Sequence
from typing import Any

import polars as pl

from perfkit.ingest.frames import finding

COLLECTIVE_KINDS = ("collective", "kernel")

MATCHED = pl.Schema(
    {
        "rank": pl.Int32,
        "device": pl.String,
        "op": pl.String,
        "group": pl.String,
        "sequence": pl.Int64,  # counts from 0 in (group, op)
        "num_ranks": pl.Int32,  # ranks that took part, all of them matched
        "bytes": pl.Int64,
        "start_ns": pl.Int64,  # by the clock of this rank's host
        "end_ns": pl.Int64,
        "entered_ns": pl.Int64,  # when this rank was ready for the others: start, or a send's call
    }
)

# On these a rank can leave before the last one has come (a broadcast's source, say): their entries
# still say who waited, their ends nothing about clocks.
ROOTED = ("broadcast", "reduce", "gather", "scatter")


def match_collectives(
    activities: pl.DataFrame, ranks: Sequence[int]
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Rows of collectives that every rank of their group has (MATCHED), and what has no partner.

    `ranks` are the ranks of which there is a trace: one without can be matched with nothing.
    """
    rows = collective_rows(activities)
    pairs, others = point_to_point(rows), rows.filter(~pl.col("op").is_in(["send", "recv"]))
    numbered = pl.concat([_numbered(others), pairs], how="diagonal_relaxed")
    counts = numbered.group_by("group", "op", "rank").len()
    known = counts.group_by("group", "op").agg(
        present=pl.col("rank").n_unique(), least=pl.col("len").min(), most=pl.col("len").max()
    )
    expected = numbered.group_by("group", "op").agg(expected=pl.col("num_ranks").max())
    known = known.join(expected, on=["group", "op"], nulls_equal=True)
    whole = (pl.col("present") == pl.col("expected")) & (pl.col("least") == pl.col("most"))
    good = known.filter(whole & (pl.col("expected") > 1)).select("group", "op")
    matched = numbered.join(good, on=["group", "op"], how="semi", nulls_equal=True)
    matched = matched.sort("group", "op", "sequence", "rank")
    return matched.select(pl.col(n).cast(t) for n, t in MATCHED.items()), _findings(
        known.filter(~whole & (pl.col("expected") > 1)), numbered, ranks
    )


def collective_rows(activities: pl.DataFrame) -> pl.DataFrame:
    """Activities that stand for one collective of a named communicator."""
    return activities.filter(
        pl.col("op").is_not_null(),
        pl.col("group").is_not_null(),
        pl.col("kind").cast(pl.String).is_in(COLLECTIVE_KINDS),
    )


def _numbered(rows: pl.DataFrame) -> pl.DataFrame:
    """With `sequence`: the row's number in (rank, group, op) by start."""
    ordered = rows.sort("rank", "start_ns", "end_ns")
    number = pl.int_range(pl.len()).over("rank", "group", "op")
    return ordered.with_columns(sequence=number, entered_ns=pl.col("start_ns"))


def point_to_point(rows: pl.DataFrame) -> pl.DataFrame:
    """Sends and receives of groups of two, as one operation "send-recv" of (group, sender).

    In a larger group nothing says who the other side is: those rows are left out.
    """
    numbered = _numbered(
        rows.filter(pl.col("op").is_in(["send", "recv"]), pl.col("num_ranks") == 2)
    )
    sends = pl.col("op") == "send"
    senders = numbered.filter(sends)["rank"].unique().sort()
    if not len(senders):
        return numbered.clear()
    members = numbered.group_by("group").agg(members=pl.col("rank").unique().sort())
    both = numbered.join(members.filter(pl.col("members").list.len() == 2), on="group")
    peer = (
        pl.when(pl.col("members").list.first() == pl.col("rank"))
        .then(pl.col("members").list.last())
        .otherwise(pl.col("members").list.first())
    )
    sender = pl.when(sends).then(pl.col("rank")).otherwise(peer)
    receiver = pl.when(sends).then(peer).otherwise(pl.col("rank"))
    return both.with_columns(op=pl.format("send {} to {}", sender, receiver)).drop("members")


def _findings(
    unmatched: pl.DataFrame, numbered: pl.DataFrame, ranks: Sequence[int]
) -> list[dict[str, Any]]:
    found = []
    for row in unmatched.sort("group", "op").to_dicts():
        mine = (pl.col("group") == row["group"]) & (pl.col("op") == row["op"])
        count = numbered.filter(mine).height
        if row["present"] < row["expected"]:
            why = f"traces of {row['present']} of its {row['expected']} ranks are here"
        else:
            why = f"its ranks have between {row['least']} and {row['most']} of them"
        text = (
            f"{count} {row['op']} of communicator {row['group']} are not matched over ranks: {why}"
        )
        severity = "warning" if row["present"] == row["expected"] or len(ranks) > 1 else "info"
        found.append(finding("unmatched-collectives", text, count=count, severity=severity))
    return found
