"""T1 to T3, scalability in the columns that the forms of PRACE and EuroHPC ask for.

The first five columns have the form's own words. Weak scaling has no speed-up column.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from perfkit.compare.scaling import scaling
from perfkit.documents.evidence import Evidence
from perfkit.documents.measured_tables import model_words
from perfkit.documents.tables import (
    Cell,
    DocTable,
    Head,
    absent,
    group_row,
    left,
    number,
    percent,
    right,
    word,
)
from perfkit.report.scaling import PRACE_STRONG, PRACE_WEAK

CAPTIONS = {
    "T1": "Scalability: typical test case",
    "T2": "Strong scaling: the same work on more GPUs",
    "T3": "Weak scaling: the same batch for each GPU",
}
STRONG = "perfkit submit STUDY --system SYSTEM, with a study of kind strong-scaling"
WEAK = "perfkit submit STUDY --system SYSTEM, with a study of kind weak-scaling"
NO_STRONG = "no two of the runs do the same work on different numbers of GPUs"
NO_WEAK = "no two of the runs have the same batch for each GPU on different numbers of GPUs"
UNITS = {"wall_s": " [s]"}
FORM = {
    column.name: right(column.title + UNITS.get(column.name, ""), "measured")
    for column in PRACE_STRONG
}
WEAK_FORM = {column.name: FORM[column.name] for column in PRACE_WEAK}
Row = Mapping[str, Any]


def scaling_of(evidence: Evidence) -> pl.DataFrame:
    """compare.scaling.SCALING of the document's runs, under their names here."""
    return scaling([run.facts for run in evidence.runs])


def series_of(frame: pl.DataFrame, kind: str) -> Sequence[Sequence[Row]]:
    """The rows of each series of a kind: the first, which the others are set against, then by GPUs.

    Rows that were timed inside a profiler, which costs time, are left out, and so are those that
    measured nothing.
    """
    timed = frame.filter(pl.col("inside").is_null(), pl.col("wall_s").is_not_null(), kind=kind)
    ordered = timed.sort("series", pl.col("first").not_(), "gpus", "pp", maintain_order=True)
    return [part.to_dicts() for part in ordered.partition_by("series", maintain_order=True)]


def typical(series: Sequence[Sequence[Row]]) -> Sequence[Row]:
    """The series with the most sizes, of those the one with most prompts and tokens a second."""
    return max(
        series,
        key=lambda rows: (
            len({row["gpus"] for row in rows}),
            rows[0]["prompts"] or 0,
            rows[0]["tokens_per_s"] or 0,
        ),
        default=[],
    )


def scaling_tables(frame: pl.DataFrame) -> list[DocTable]:
    """T1, T2, T3."""
    strong, weak = (series_of(frame, kind) for kind in ("strong", "weak"))
    return [typical_table(strong), strong_table(strong), weak_table(weak)]


def typical_table(strong: Sequence[Sequence[Row]]) -> DocTable:
    """T1: of the typical series the fastest layout of each size, in the form's columns alone."""
    if not strong:
        return absent("T1", CAPTIONS["T1"], NO_STRONG, STRONG)
    best: dict[int, Row] = {}
    for row in typical(strong):
        if row["gpus"] not in best or row["wall_s"] < best[row["gpus"]]["wall_s"]:
            best[row["gpus"]] = row
    rows = [best[gpus] for gpus in sorted(best)]
    return DocTable(
        id="T1",
        caption=f"{CAPTIONS['T1']}: {work_words(rows[0])}",
        heads=tuple(FORM.values()),
        rows=tuple(_form_cells(row, FORM) for row in rows),
    )


def strong_table(strong: Sequence[Sequence[Row]]) -> DocTable:
    """T2: every series, with what the model predicted and what is not believed."""
    if not strong:
        return absent("T2", CAPTIONS["T2"], NO_STRONG, STRONG)
    heads = (
        left("layout"),
        *FORM.values(),
        right("Parallel efficiency", "measured"),
        right("passes differ by", "measured"),
        right("Speed-up", "predicted"),
    )

    def cells(row: Row) -> tuple[Cell, ...]:
        runs = row["runs"]
        return (
            word(layout_words(row)),
            *_form_cells(row, FORM),
            percent(row["efficiency"], *runs, query="scaling.efficiency"),
            percent(row["spread"], *runs, query="scaling.spread"),
            number(row["predicted_speedup"], *runs, query="scaling.predicted_speedup"),
        )

    rows = _titled(strong, cells, len(heads), per_gpu=False)
    return DocTable(id="T2", caption=CAPTIONS["T2"], heads=heads, rows=rows, note=_doubts(strong))


def weak_table(weak: Sequence[Sequence[Row]]) -> DocTable:
    """T3."""
    if not weak:
        return absent("T3", CAPTIONS["T3"], NO_WEAK, WEAK)
    heads = (
        left("layout"),
        *WEAK_FORM.values(),
        right("Weak efficiency", "measured"),
        right("Weak efficiency", "predicted"),
    )

    def cells(row: Row) -> tuple[Cell, ...]:
        runs, predicted = row["runs"], row["predicted_efficiency"]
        return (
            word(layout_words(row)),
            *_form_cells(row, WEAK_FORM),
            percent(row["efficiency"], *runs, query="scaling.efficiency"),
            percent(predicted, *runs, query="scaling.predicted_efficiency"),
        )

    rows = _titled(weak, cells, len(heads), per_gpu=True)
    return DocTable(id="T3", caption=CAPTIONS["T3"], heads=heads, rows=rows, note=_doubts(weak))


def _titled(
    series: Sequence[Sequence[Row]],
    cells: Callable[[Row], tuple[Cell, ...]],
    columns: int,
    *,
    per_gpu: bool,
) -> tuple[tuple[Cell, ...], ...]:
    """Each series below a row that says what it runs."""
    found: list[tuple[Cell, ...]] = []
    for rows in series:
        found.append(group_row(work_words(rows[0], per_gpu=per_gpu), columns))
        found += map(cells, rows)
    return tuple(found)


def _form_cells(row: Row, form: Mapping[str, Head]) -> tuple[Cell, ...]:
    """The form's columns; every process has one GPU."""
    values = {**row, "processes": row["gpus"]}
    return tuple(number(values[name], *row["runs"], query=f"scaling.{name}") for name in form)


def work_words(row: Row, *, per_gpu: bool = False) -> str:
    """llama-3.1-8b, graph, batch 8, 2048 + 33 tokens."""
    gpus = row["gpus"] if per_gpu else 1
    batch = f"batch {row['prompts'] // gpus}{' for each GPU' if per_gpu else ''}"
    lengths = f"{row['prompt_tokens'] or 'file'} + {row['new_tokens']} tokens"
    return f"{model_words(row)}, {row['decode']}, {batch}, {lengths}"


def layout_words(row: Row) -> str:
    """TP1 PP2 M2."""
    microbatches = f" M{row['microbatches']}" if (row["microbatches"] or 1) > 1 else ""
    network = f" {row['network']}" if row["network"] else ""
    return f"TP{row['tp']} PP{row['pp']}{microbatches}{network}"


def _doubts(series: Sequence[Sequence[Row]]) -> str:
    """What is not believed, and why; the network stands in the row's layout already."""
    rows = [row for rows in series for row in rows]
    return " ".join(
        f"{work_words(row)}, {layout_words(row)}: {row['note']}."
        for row in rows
        if row["note"] and row["note"] != row["network"]
    )
