"""How good the predictions are: of runs predicted before they started, and of others, afterwards.

Runs that a number of the rates comes from are in no score; nor are those timed inside a profiler.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from perfkit.compare.accuracy import GROUPS, PREDICTED, predicted_runs, scores
from perfkit.compare.frozen import Frozen
from perfkit.documents.evidence import Evidence, Run
from perfkit.documents.tables import Cell, DocTable, absent, left, number, percent, right, word

AGAIN, FROZEN = "accuracy", "frozen"
"""ids of the tables: predicted again with today's model, and as said before the runs"""
CAPTIONS = {
    AGAIN: "How far predictions are off, |predicted - measured| / measured: each run predicted "
    "again from the rates of its machine",
    FROZEN: "How far predictions are off that were made and kept before the runs, "
    "|predicted - measured| / measured",
}
GET = {
    AGAIN: "perfkit accuracy runs/",
    FROZEN: "perfkit predict MODEL --gpu ID --format json -o frozen-ID.json before a run, then "
    "--frozen frozen-ID.json",
}
MEASURES = {
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "tokens_per_s": "throughput",
    "allocated_bytes": "memory allocated",
}
SHOWN_GROUPS = ("all", "graph", "eager", "TP > 1", "PP > 1, graph", "PP > 1, eager")
SCORES = {
    "mean": "mean_error",
    "median": "median_error",
    "p90": "p90_error",
    "bias": "bias",
    "coverage": "coverage",
}
HEADS = (
    left("measure"),
    left("runs of"),
    right("runs", "computed"),
    right("mean error", "computed"),
    right("median", "computed"),
    right("90th pct.", "computed"),
    right("bias", "computed"),
    right("in 90 % interval", "computed"),
)

Values = dict[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tpot:
    """What was predicted of a run's TPOT, and how far off it is where that is a test."""

    predicted_s: float | None
    error: float | None
    query: str
    before: bool
    """made and kept before the run"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Both of compare.accuracy.PREDICTED, under the names of the runs here."""

    frozen: pl.DataFrame
    """of runs that were predicted before they started"""
    again: pl.DataFrame
    """of the others: a model may have learnt from what the first ones showed"""

    @property
    def held_in(self) -> frozenset[str]:
        """Runs that a number of the rates comes from."""
        return frozenset(self.again.filter("held_in")["run"])

    def tpot(self, run: Run) -> Tpot:
        """As said before the run where that is known, else from the rates of its machine."""
        for row in self.frozen.filter(run=run.name, measure="tpot_s").to_dicts():
            query = f"{FROZEN}.tpot_s.predicted"
            return Tpot(predicted_s=row["predicted"], error=row["error"], query=query, before=True)
        tested = not run.inside and run.name not in self.held_in
        return Tpot(
            predicted_s=run.row["predicted_tpot_s"],
            error=run.row["error"] if tested else None,
            query=f"comparison_headline.tpot_s.predicted, {run.row['rates']}",
            before=False,
        )


def read_predictions(evidence: Evidence, frozen: Sequence[Frozen]) -> Predictions:
    """Of the runs that can be predicted."""
    before, again = [_none()], [_none()]
    for run in evidence.runs:
        found = predicted_runs([run.path], frozen)[0] if frozen else _none()
        to = again if found.is_empty() else before
        found = predicted_runs([run.path])[0] if found.is_empty() else found
        to.append(found.with_columns(run=pl.lit(run.name)))
    return Predictions(frozen=pl.concat(before), again=pl.concat(again))


def _none() -> pl.DataFrame:
    return pl.DataFrame(schema=PREDICTED)


def score_table(id: str, predicted: pl.DataFrame) -> DocTable:
    """AGAIN or FROZEN."""
    found = scores(predicted)
    if found.is_empty():
        why = {
            AGAIN: "none of the runs can be predicted again",
            FROZEN: "no run was predicted before it started",
        }
        return absent(id, CAPTIONS[id], why[id], GET[id])
    rows = tuple(
        _score_row(id, row, scored(predicted, row))
        for row in found.to_dicts()
        if row["group"] in SHOWN_GROUPS
    )
    note = not_scored(predicted.filter("held_in")["run"].n_unique())
    return DocTable(id=id, caption=CAPTIONS[id], heads=HEADS, rows=rows, note=note)


def not_scored(held: int) -> str:
    """How many runs were left out because the rates have something from them."""
    if not held:
        return ""
    runs, are = ("run", "is") if held == 1 else ("runs", "are")
    return f"{held} {runs} that a number of the rates comes from {are} not scored."


def scored(predicted: pl.DataFrame, score: Mapping[str, Any]) -> list[str]:
    """The runs that a score is of."""
    belongs = GROUPS[score["group"]]
    rows = predicted.filter(~pl.col("held_in"), pl.col("error").is_not_null()).to_dicts()
    return [row["run"] for row in rows if row["measure"] == score["measure"] and belongs(row)]


def _score_row(id: str, row: Mapping[str, Any], runs: Sequence[str]) -> tuple[Cell, ...]:
    def share(column: str, *, sign: bool = False) -> Cell:
        return percent(row[column], *runs, sign=sign, query=query_of(id, row, column))

    return (
        word(MEASURES[row["measure"]]),
        word(row["group"]),
        number(row["runs"], *runs, query=query_of(id, row, "runs")),
        share("mean_error"),
        share("median_error"),
        share("p90_error"),
        share("bias", sign=True),
        share("coverage"),
    )


def query_of(id: str, row: Mapping[str, Any], column: str) -> str:
    return f"{id}.{row['measure']}.{row['group']}.{column}"


def score_values(id: str, predicted: pl.DataFrame) -> Values:
    """What sentences take of a score table: {"TPOT, graph": {"mean": ...}}."""
    found: Values = {}
    for row in scores(predicted).to_dicts():
        if row["group"] not in SHOWN_GROUPS:
            continue
        runs = scored(predicted, row)
        values = {
            name: {
                "text": f"{100 * row[column]:{'+' if name == 'bias' else ''}.1f} %",
                "runs": runs,
                "query": query_of(id, row, column),
            }
            for name, column in SCORES.items()
            if row[column] is not None
        }
        count = {"text": str(row["runs"]), "runs": runs, "query": query_of(id, row, "runs")}
        found[f"{MEASURES[row['measure']]}, {row['group']}"] = {**values, "runs": count}
    return found
