"""One or several analyses in one of the formats that every reading command has."""

from collections.abc import Sequence

import polars as pl

from perfkit.report.ending import first_lines
from perfkit.report.tables import as_json
from perfkit.report.time_split import text
from perfkit.report.time_split_json import document
from perfkit.timeline.analysis import Analysis


def printed(analyses: Sequence[Analysis], fmt: str, top: int) -> str:
    """One document for one analysis; several stand under `runs` in JSON, and below each other."""
    if fmt == "json":
        documents = [document(analysis) for analysis in analyses]
        return as_json(documents[0] if len(documents) == 1 else {"runs": documents})
    if fmt == "csv":
        return pl.concat([_split_with_source(analysis) for analysis in analyses]).write_csv()
    return "\n".join(text(analysis, fmt, top) for analysis in analyses)


def beside(analyses: Sequence[Analysis], fmt: str) -> list[str]:
    """What a CSV has no place for, for stderr: how each run ended, who is missing, warnings."""
    if fmt != "csv":
        return []
    return [line for one in analyses for line in told_beside(one, one.warnings)]


def told_beside(analysis: Analysis, warnings: Sequence[str]) -> list[str]:
    """The first lines of a run and its warnings, each once."""
    ending = first_lines(analysis)
    return [*ending, *(f"warning: {text}" for text in warnings if text not in ending)]


def _split_with_source(analysis: Analysis) -> pl.DataFrame:
    """The split in exact ns; a rank without a trace has a row with nothing in it."""
    missing = pl.DataFrame({"rank": analysis.missing_traces}, schema={"rank": pl.Int32})
    rows = pl.concat([analysis.split, missing], how="diagonal").sort("rank", maintain_order=True)
    return rows.select(pl.lit(str(analysis.source)).alias("source"), pl.all())
