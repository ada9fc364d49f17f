"""`perfkit paper`: a paper from runs, with every number bound to a run."""

from pathlib import Path

import typer

from perfkit.cli.document import CALIBRATION, FROZEN, GPU, MODELS_DIR, RUNS, deliver, start


def command(
    runs: list[Path] = RUNS,
    out: Path = typer.Option(Path("paper.pdf"), "-o", "--out", help="The PDF to write."),
    init: Path | None = typer.Option(
        None, "--init", help="Write the commented starter of the text into this folder, and stop."
    ),
    text: Path | None = typer.Option(
        None, "--text", help="Folder with your paper.toml and sections. [default: the starter]"
    ),
    pages: int | None = typer.Option(
        None, min=1, help="Limit of pages before the references: exit code 3 above it."
    ),
    tex: Path | None = typer.Option(
        None, "--tex", help="Folder for LaTeX: tables/*.tex (booktabs) and figures/*.pdf."
    ),
    sources: Path | None = typer.Option(
        None, "--sources", help="Folder to keep the typst sources in."
    ),
    force: bool = typer.Option(False, "--force", help="Replace files that are there."),
    frozen: list[Path] = FROZEN,
    calibration: Path | None = CALIBRATION,
    gpu: str | None = GPU,
    models_dir: Path | None = MODELS_DIR,
) -> None:
    """Write a paper: your text, and tables and figures from runs. Predicted is never measured.

    What no run has is printed as "not measured", with what to run. provenance.json beside the PDF
    names the run behind every number.
    """
    if init is not None:
        start("paper", init, force=force)
        return
    deliver(
        kind="paper",
        runs=runs or [],
        out=out,
        text=text,
        pages=pages,
        tex=tex,
        sources=sources,
        force=force,
        frozen=frozen,
        calibration=calibration,
        gpu=gpu,
        models_dir=models_dir,
    )
