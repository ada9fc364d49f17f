"""`perfkit status`: the points of studies as they stand now, under Slurm or on this machine."""

import collections
from typing import TYPE_CHECKING, Any

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, result, story

if TYPE_CHECKING:
    from perfkit.report.tables import Column

A_POINT_FAILED = 3


def command(
    study: str | None = typer.Argument(
        None,
        help="A study's name or file, or the folder of its results. [default: all in runs/]",
        show_default=False,
    ),
    format: Format = FORMAT_OPTION,
) -> None:
    """Follow studies, submitted or run here: one row a point. Exit code 3 for a failed point."""
    from perfkit.submit.status import status_rows, studies_at

    roots = studies_at(study)
    rows, problems = status_rows(roots)
    for problem in problems:
        story(f"warning: {problem}")
    result(render(rows, format))
    story(summary(rows))
    closing(None, next_command(rows, study))
    if any(row["state"] == "failed" for row in rows):
        raise typer.Exit(A_POINT_FAILED)


def summary(rows: list[dict[str, Any]]) -> str:
    """2 finished, 1 running."""
    counts = collections.Counter(row["state"] for row in rows)
    return ", ".join(f"{count} {state}" for state, count in counts.most_common())


def next_command(rows: list[dict[str, Any]], study: str | None) -> str:
    """What a user would type now: wait, submit again, or read."""
    states = {row["state"] for row in rows}
    if states & {"waiting", "running"}:
        return f"perfkit status {study}" if study else "perfkit status"
    if "failed" in states:
        failed = next(row for row in rows if row["state"] == "failed")
        return f"less {failed['output']}"
    return f"perfkit analyze {rows[0]['folder']}/run"


def render(rows: list[dict[str, Any]], format: Format) -> str:
    """The rows; causes stand below the table, because they are long."""
    import polars as pl

    from perfkit.report.tables import render as table

    frame = pl.DataFrame(rows, infer_schema_length=None)
    if format in (Format.json, Format.csv):
        return table(frame, [], format.value)
    text = table(frame, _columns(rows), format.value)
    causes = [f"{row['point']}: {row['cause']}\n" for row in rows if row["cause"]]
    return text + "".join(causes)


def _columns(rows: list[dict[str, Any]]) -> "list[Column]":
    from perfkit.report.tables import Column

    names = ["point", "state", "job_id", "slurm_state", "slurm_reason", "run_state"]
    titles = {"job_id": "job", "slurm_state": "Slurm", "slurm_reason": "reason", "run_state": "run"}
    if len({row["study"] for row in rows}) > 1:
        names.insert(0, "study")
    columns = [Column(name=n, title=titles.get(n, n), kind="text") for n in names]
    return [*columns, Column(name="elapsed_s", title="elapsed s")]
