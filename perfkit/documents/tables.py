"""A table of a document: cells that say which runs they are from, columns that say how they are
known. Rendered by typst, LaTeX and provenance.json; nothing here knows how it looks.

given      the user's own words, or a file of models/
measured   from runs, recorded
predicted  from the model, with rates that are not from these runs
computed   arithmetic on the columns beside it
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from perfkit.report.tables import MISSING, PRECISION, significant

Kind = Literal["given", "measured", "predicted", "computed"]
NOT_MEASURED, NOT_GIVEN = "not measured", "not given"
Align = Literal["left", "right"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One printed value."""

    text: str = MISSING
    runs: tuple[str, ...] = ()
    """names of the runs that it is from"""
    query: str = ""
    """where it stands: summary.tpot_s.median"""
    kind: Kind | None = None
    """where it differs from its column's"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One column."""

    title: str
    kind: Kind = "given"
    align: Align = "right"


@dataclass(frozen=True, slots=True, kw_only=True)
class DocTable:
    """A table, or the reason why there is none and what would bring it."""

    id: str
    """T1 to T14 of the forms, or runs, accuracy"""
    caption: str
    heads: tuple[Head, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    note: str = ""
    missing: str = ""
    """why it is empty; empty when it is not"""
    get: str = ""
    """the command that would fill it"""
    lack: str = NOT_MEASURED
    """what an empty one is called: NOT_MEASURED or NOT_GIVEN"""
    total: bool = False
    """the last row is the sum"""

    @property
    def runs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(run for row in self.rows for one in row for run in one.runs))


def absent(id: str, caption: str, why: str, get: str, lack: str = NOT_MEASURED) -> DocTable:
    """A table of which nothing is known."""
    return DocTable(id=id, caption=caption, missing=why, get=get, lack=lack)


def word(value: Any, *runs: str, query: str = "") -> Cell:
    """A text as it is; a dash for None and for nothing."""
    return Cell(text=MISSING if value in (None, "") else str(value), runs=runs, query=query)


def number(value: float | None, *runs: str, scale: float = 1.0, query: str = "") -> Cell:
    """Three significant digits, whole numbers in full; a dash for what is not known."""
    if value is None:
        return Cell(query=query)
    whole = isinstance(value, int) and scale == 1
    return Cell(text=f"{value:,}" if whole else digits(value * scale), runs=runs, query=query)


def digits(value: float) -> str:
    """Three significant digits; what would round to 1000 is written 1,000."""
    return significant(round(value) if abs(value) >= 10**PRECISION - 0.5 else value)


def percent(value: float | None, *runs: str, query: str = "", sign: bool = False) -> Cell:
    """A ratio in percent, one decimal."""
    if value is None:
        return Cell(query=query)
    return Cell(text=f"{100 * value:{'+' if sign else ''}.1f} %", runs=runs, query=query)


def group_row(title: str, columns: int) -> tuple[Cell, ...]:
    """The title of the rows below it: words in the first cell, nothing in the others."""
    return (Cell(text=title), *(Cell(text=""),) * (columns - 1))


def is_group(row: Sequence[Cell]) -> bool:
    return len(row) > 1 and not any(one.text for one in row[1:])


def left(title: str, kind: Kind = "given") -> Head:
    return Head(title=title, kind=kind, align="left")


def right(title: str, kind: Kind = "given") -> Head:
    return Head(title=title, kind=kind)


def as_data(table: DocTable) -> dict[str, Any]:
    """What the templates read."""
    return {
        "id": table.id,
        "caption": table.caption,
        "note": table.note,
        "missing": table.missing,
        "get": table.get,
        "lack": table.lack,
        "total": table.total,
        "heads": [
            {"title": head.title, "kind": head.kind, "align": head.align} for head in table.heads
        ],
        "rows": [[one.text for one in row] for row in table.rows],
    }


def origins(table: DocTable) -> list[dict[str, Any]]:
    """Every cell that holds a number of a run: where it is printed, and where it is from."""
    return [
        {
            "row": number,
            "column": head.title,
            "text": one.text,
            "kind": one.kind or head.kind,
            "query": one.query,
            "runs": list(one.runs),
        }
        for number, row in enumerate(table.rows, start=1)
        for head, one in zip(table.heads, row, strict=True)
        if one.runs
    ]


def without_empty_columns(table: DocTable, keep: Sequence[str] = ()) -> DocTable:
    """Columns in which every cell is a dash say nothing; those in `keep` stay."""
    used = [
        head.title in keep or any(row[at].text not in ("", MISSING) for row in table.rows)
        for at, head in enumerate(table.heads)
    ]
    return replace(
        table,
        heads=tuple(_only(table.heads, used)),
        rows=tuple(tuple(_only(row, used)) for row in table.rows),
    )


def _only(values: Sequence[Any], used: Iterable[bool]) -> list[Any]:
    return [value for value, wanted in zip(values, used, strict=True) if wanted]
