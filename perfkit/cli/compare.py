"""`perfkit compare`: the prediction of a run beside its measurement."""

from pathlib import Path

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, result, story


def command(
    run: Path = typer.Argument(help="Run folder that `perfkit run` wrote."),
    calibration: Path | None = typer.Option(
        None, help="Measured rates to predict with. [default: those in the run folder]"
    ),
    gpu: str | None = typer.Option(
        None, help="Predict with this GPU's data sheet instead, e.g. h200-sxm."
    ),
    models_dir: Path | None = typer.Option(None, help="Folder with your own gpus.toml."),
    format: Format = FORMAT_OPTION,
) -> None:
    """Set predicted beside measured: TTFT, TPOT, throughput, time split and memory."""
    from perfkit.compare.run import compare_run, write_tables
    from perfkit.report.comparison import printed
    from perfkit.report.time_split_output import told_beside

    comparison = compare_run(run, calibration=calibration, gpu=gpu, models_dir=models_dir)
    written = write_tables(comparison, run)
    result(printed(comparison, format.value))
    if format is Format.csv:
        for line in told_beside(comparison.analysis, comparison.warnings):
            story(line)
    closing(written, f"perfkit report {run} -o report.html")
