"""The table of the runs themselves: what was asked for, measured, and predicted of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from perfkit.documents.accuracy_tables import Predictions, Tpot
from perfkit.documents.evidence import Evidence, Run
from perfkit.documents.tables import (
    Cell,
    DocTable,
    absent,
    group_row,
    left,
    number,
    percent,
    right,
    without_empty_columns,
    word,
)
from perfkit.report.side_by_side_text import layout, tokens
from perfkit.report.tables import significant

RUN_MODEL = "srun -N2 -n4 perfkit run MODEL --tp 2 --pp 2 --out runs/x"
CAPTION = (
    "The recorded runs, bfloat16 unless said otherwise. Measured: medians of timed passes, their "
    "range in brackets. Predicted: from rates of the machine"
)
HEADS = (
    left("run"),
    left("model"),
    left("layout, decode"),
    right("batch"),
    right("prompt + new"),
    right("TTFT [ms]", "measured"),
    right("TPOT [ms]", "measured"),
    right("tokens/s", "measured"),
    right("TPOT [ms]", "predicted"),
    right("error", "computed"),
)
PLAIN, BEFORE = "bfloat16", "*"


def runs_table(evidence: Evidence, predictions: Predictions) -> DocTable:
    """One row a run that measured anything; an error only where the rates have nothing of it."""
    if not evidence.timed:
        return absent("runs", CAPTION, "no run among them has a timed pass", RUN_MODEL)
    free = [run for run in evidence.timed if not run.inside]
    inside = [run for run in evidence.timed if run.inside]
    rows = [_run_row(run, predictions.tpot(run)) for run in free]
    if inside:
        title = "timed inside a profiler around the process: the times carry its cost"
        rows.append(group_row(title, len(HEADS)))
        rows += [_run_row(run, predictions.tpot(run)) for run in inside]
    note = " ".join(_notes(free, predictions))
    table = DocTable(id="runs", caption=CAPTION, heads=HEADS, rows=tuple(rows), note=note)
    return without_empty_columns(table)


def _notes(runs: Sequence[Run], predictions: Predictions) -> Iterator[str]:
    if any(predictions.tpot(run).before for run in runs):
        yield f"{BEFORE} predicted, and the prediction kept, before the run started."
    fitted = [run.name for run in runs if run.name in predictions.held_in]
    if fitted:
        yield f"No error where a number of the rates comes from the run: {', '.join(fitted)}."


def _run_row(run: Run, tpot: Tpot) -> tuple[Cell, ...]:
    row = run.row
    predicted = number(tpot.predicted_s, run.name, scale=1e3, query=tpot.query)
    if tpot.before:
        predicted = replace(predicted, text=f"{predicted.text} {BEFORE}")
    return (
        word(run.name if run.finished else f"{run.name} ({run.record.get('state')})"),
        word(model_words(row)),
        word(layout(row)),
        number(row["batch"]),
        word(tokens(row)),
        number(row["ttft_s"], run.name, scale=1e3, query="summary.ttft_s.median"),
        _tpot(run),
        number(row["tokens_per_s"], run.name, query="summary.tokens_per_s.median"),
        predicted,
        percent(tpot.error, run.name, sign=True, query=tpot.query.replace("predicted", "error")),
    )


def _tpot(run: Run) -> Cell:
    """18.9 (18.7 - 19.3): median and range of the passes."""
    low, high = run.row["tpot_min_s"], run.row["tpot_max_s"]
    query = "summary.tpot_s.median, min, max"
    cell = number(run.row["tpot_s"], run.name, scale=1e3, query=query)
    if low is None or significant(low * 1e3) == significant(high * 1e3):
        return cell
    text = f"{cell.text} ({significant(low * 1e3)} - {significant(high * 1e3)})"
    return Cell(text=text, runs=cell.runs, query=query)


def model_words(row: Mapping[str, Any]) -> str:
    """llama-3.1-8b, fp8 weights on H200."""
    kind, _comma, extra = str(row["dtype"] or "").partition(", ")
    words = (row["model"], "" if kind == PLAIN else kind, extra)
    text = ", ".join(word for word in words if word)
    return f"{text} on {device_words(row['device'])}" if row["device"] else text


def device_words(device: str | None) -> str:
    """H200: everybody knows whose."""
    return str(device or "").replace("NVIDIA ", "")
