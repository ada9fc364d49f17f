"""`perfkit figures`: every chart of the report as svg and png."""

from pathlib import Path

import typer

from perfkit.cli.output import closing, result, story
from perfkit.errors import ConfigError, one_of


def command(
    runs: list[Path] = typer.Argument(
        metavar="RUN...", help="Run folders; files among them are left out."
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
    from perfkit.report.html import require_libraries
    from perfkit.report.side_by_side import find_all, run_folders

    chosen = [kind.strip() for kind in kinds.split(",") if kind.strip()]
    for kind in chosen or [kinds]:
        one_of("--kinds", kind, ("svg", "png"))
    require_libraries()
    from perfkit.report.figure_files import write_figures

    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not force):
        raise ConfigError(f"{out} exists and is not empty. Give another folder, or --force.")
    folders, files = run_folders(runs)
    for file in files:
        story(f"{file} is not a run folder: left out")
    found = find_all(folders, calibration=calibration, gpu=gpu, models_dir=models_dir)
    written = write_figures(found, out, chosen)
    result("\n".join(str(path) for path in written))
    closing(out, f"perfkit report {folders[0]} -o report.html")
