"""`perfkit report`: one run as one HTML file to read, send and print."""

from pathlib import Path

import typer

from perfkit.cli.output import closing, result


def command(
    run: Path = typer.Argument(help="Run folder that `perfkit run` wrote."),
    out: Path = typer.Option(Path("report.html"), "-o", "--out", help="The file to write."),
    force: bool = typer.Option(False, "--force", help="Replace the file given with -o."),
    calibration: Path | None = typer.Option(
        None, help="Measured rates to predict with. [default: those in the run folder]"
    ),
    gpu: str | None = typer.Option(
        None, help="Predict with this GPU's data sheet instead, e.g. h200-sxm."
    ),
    models_dir: Path | None = typer.Option(None, help="Folder with your own gpus.toml."),
) -> None:
    """Write a self-contained HTML page: predicted beside measured, time split, memory, sources.

    It needs no network and no other file. A failed run, or one without a trace or rates, gets a
    page too: what was not measured is a dash, and the first line says so.
    """
    from perfkit.report.html import write_report

    written = write_report(
        run, out, force=force, calibration=calibration, gpu=gpu, models_dir=models_dir
    )
    result(str(written))
    closing(written, f"perfkit analyze {run} --kernels 10")
