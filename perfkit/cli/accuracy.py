"""`perfkit accuracy`: how far predictions are off, over recorded runs."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, result, story
from perfkit.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

    from perfkit.report.tables import Column

TITLES = {
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "tokens_per_s": "throughput",
    "allocated_bytes": "memory allocated",
}


def command(
    runs: list[Path] = typer.Argument(
        help="Run folders, a folder of them such as traces/, or a study's."
    ),
    frozen: list[Path] = typer.Option(
        [],
        "--frozen",
        metavar="FILE",
        help="Score what `perfkit predict --format json -o FILE` said before the runs, instead of "
        "predicting again. May be given several times, or be a folder with frozen-*.json.",
    ),
    bottleneck: bool = typer.Option(
        False,
        "--bottleneck",
        help="Instead of errors: what was predicted to limit a decode step, and what its trace "
        "says did.",
    ),
    each: bool = typer.Option(False, "--each", help="A row for each run instead of the scores."),
    format: Format = FORMAT_OPTION,
) -> None:
    """Predict recorded runs again and score the errors: MAPE, median, p90, bias, coverage.

    Runs that a calibration's numbers come from are predicted, too, but not scored.
    """
    import polars as pl

    from perfkit.compare.accuracy import predicted_runs, scores
    from perfkit.compare.frozen import read_frozen
    from perfkit.report.tables import render

    if bottleneck:
        show_bottlenecks(run_folders(runs), format)
        return
    files = [read_frozen(path) for path in frozen_files(frozen)]
    for file in files:
        story(f"frozen {file.made_at:%Y-%m-%d %H:%M} UTC: {file.path}, sha256 {file.sha256}")
    predicted, left_out = predicted_runs(run_folders(runs), files)
    for line in left_out:
        story(f"left out: {line}")
    held_in = predicted.filter("held_in")["run"].unique(maintain_order=True).to_list()
    if held_in:
        story(f"not scored, numbers of the calibration come from them: {', '.join(held_in)}")
    if predicted.is_empty():
        raise ConfigError("none of the runs can be predicted, see above. Record one: perfkit run.")
    frame = predicted if each else scores(predicted)
    if format in (Format.table, Format.md):
        frame = frame.with_columns(pl.col("measure").replace(TITLES))
        if each:
            frame = frame.with_columns(_readable(name) for name in ("predicted", "measured"))
    columns = each_columns() if each else score_columns()
    how = "Predicted before the runs" if frozen else "Predicted again"
    title = f"{how}, beside what was measured" if each else "Errors of predictions"
    result(render(frame, columns, format.value, title=title))
    closing(None, f"perfkit accuracy {runs[0]} --each" if not each else "perfkit compare RUN")


def show_bottlenecks(paths: list[Path], format: Format) -> None:
    """A row a run with a trace, and in how many the prediction was right."""
    from perfkit.compare.bottleneck import bottlenecks
    from perfkit.report.tables import Column, render

    frame, left_out = bottlenecks(paths)
    for line in left_out:
        story(f"left out: {line}")
    if frame.is_empty():
        raise ConfigError("no run has a trace of a GPU. Record one: perfkit run --collect kineto")
    columns = [
        Column(name="run", title="run", kind="text"),
        Column(name="predicted", title="predicted", kind="text"),
        Column(name="measured", title="measured", kind="text"),
        Column(name="busy", title="kernels fill", kind="percent"),
    ]
    result(render(frame, columns, format.value, title="What limits a decode step"))
    scored = frame.filter(~frame["held_in"])
    right = int(scored["right"].sum())
    story(f"right in {right} of {scored.height} runs that no number of the calibration comes from")
    closing(None, "perfkit compare RUN")


def _readable(name: str) -> "pl.Expr":
    """Milliseconds, tokens a second, GiB: what people compare."""
    import polars as pl

    scale = (
        pl.when(pl.col("measure") == TITLES["allocated_bytes"])
        .then(2.0**-30)
        .when(pl.col("measure") == TITLES["tokens_per_s"])
        .then(1.0)
        .otherwise(1e3)
    )
    return pl.col(name) * scale


def frozen_files(paths: list[Path]) -> list[Path]:
    """The files, and those in the folders; ConfigError for a folder without any."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("frozen-*.json")) if path.is_dir() else [path]
        if not inside:
            raise ConfigError(
                f"{path} has no frozen-*.json. Make one: perfkit predict -o FILE.json"
            )
        found += inside
    return found


def run_folders(paths: list[Path]) -> list[Path]:
    """The paths that are run folders, those inside the others, and those of a study's points."""
    from perfkit.compare.study_runs import find_runs

    found = find_runs(paths)
    for line in found.missing:
        story(f"no run: {line}")
    if not found.runs:
        raise ConfigError(f"no run in {', '.join(map(str, paths))}. See what waits: perfkit status")
    return found.runs


def score_columns() -> "list[Column]":
    from perfkit.report.tables import Column

    return [
        Column(name="measure", title="measure", kind="text"),
        Column(name="group", title="runs of", kind="text"),
        Column(name="runs", title="runs", kind="integer"),
        Column(name="mean_error", title="MAPE", kind="percent"),
        Column(name="median_error", title="median", kind="percent"),
        Column(name="p90_error", title="p90", kind="percent"),
        Column(name="bias", title="bias", kind="signed"),
        Column(name="coverage", title="in 90 % interval", kind="percent"),
        Column(name="noise", title="passes differ by", kind="percent"),
    ]


def each_columns() -> "list[Column]":
    from perfkit.report.tables import Column

    return [
        Column(name="run", title="run", kind="text"),
        Column(name="measure", title="measure", kind="text"),
        Column(name="predicted", title="predicted [ms, 1/s, GiB]"),
        Column(name="measured", title="measured"),
        Column(name="error", title="error", kind="signed"),
        Column(name="spread", title="passes differ by", kind="percent"),
    ]
