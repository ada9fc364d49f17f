"""`perfkit figures`: every chart of the report as svg and png."""

from pathlib import Path

import typer

from perfkit.cli.output import closing, result, story
from perfkit.errors import ConfigError, one_of


def command(
    runs: list[Path] = typer.Argument(
        metavar="RUN...", help="Run folders, folders of them, or a study's folder."
    ),
    out: Path = typer.Option(
        ..., "-o", "--out", metavar="FOLDER", help="Where the files go; new, or empty."
    ),
    kinds: str = typer.Option("svg,png", "--kinds", help="svg, png, or both."),
    force: bool = typer.Option(False, "--force", help="Write into a folder that has files."),
    calibration: Path | None = typer.Option(
        None, help="Measured rates to predict with. [default: those in the run folder]"
    ),
    gpu: str | None = typer.Option(None, help="Predict with this GPU's data sheet instead."),
    models_dir: Path | None = typer.Option(None, help="Folder with your own gpus.toml."),
) -> None:
    """Write each chart of the report into a file of its own, and figures.md, which says what each
    one shows.

    Of each run: speed, time split, one decode step, kernels by class, collectives, memory; of
    several together what a step is made of, and scaling. What was not measured has no file.
    """
    from perfkit.report.given import given
    from perfkit.report.html import require_libraries
    from perfkit.report.written import at_least_one

    chosen = [kind.strip() for kind in kinds.split(",") if kind.strip()]
    for kind in chosen or [kinds]:
        one_of("--kinds", kind, ("svg", "png"))
    require_libraries()
    from perfkit.report.figure_files import write_figures

    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not force):
        raise ConfigError(f"{out} exists and is not empty. Give another folder, or --force.")
    what = given(runs)
    for line in what.beside:
        story(line)
    for line in what.missing:
        story(f"missing: {line}")
    found = at_least_one(what, calibration=calibration, gpu=gpu, models_dir=models_dir)
    written = write_figures(found, out, chosen)
    result("\n".join(str(path) for path in written))
    closing(out, f"perfkit report {found[0].path} -o report.html")
