"""`perfkit proposal`: an application for compute time from runs, with the request computed."""

from pathlib import Path

import typer

from perfkit.cli.document import CALIBRATION, FROZEN, GPU, MODELS_DIR, RUNS, deliver, start
from perfkit.errors import ConfigError


def command(
    runs: list[Path] = RUNS,
    out: Path = typer.Option(Path("proposal.pdf"), "-o", "--out", help="The PDF to write."),
    system: str | None = typer.Option(
        None, "--system", help="A system of models/systems, or a TOML file of your own."
    ),
    init: Path | None = typer.Option(
        None, "--init", help="Write the commented starter of the text into this folder, and stop."
    ),
    text: Path | None = typer.Option(
        None, "--text", help="Folder with your proposal.toml and sections. [default: the starter]"
    ),
    pages: int | None = typer.Option(
        None, min=1, help="Limit of pages before the references: exit code 3 above it."
    ),
    reserve: float | None = typer.Option(
        None, min=0, max=100, help="Reserve on the request in percent. [default: proposal.toml's]"
    ),
    allocation: Path | None = typer.Option(
        None, help="A snapshot of `perfkit allocation snapshot`: burn-down and final report."
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
    """Write an access proposal: your text, evidence from runs, and the computed resource request.

    The request comes from studies' plans or measured wall times, in node-hours, GPU-hours and the
    site's own unit. provenance.json beside the PDF names the run behind every number.
    """
    if init is not None:
        start("proposal", init, force=force)
        return
    if system is None:
        raise ConfigError("for which system? Give --system, such as --system leonardo.")
    deliver(
        kind="proposal",
        runs=runs or [],
        out=out,
        system=system,
        text=text,
        pages=pages,
        reserve=None if reserve is None else reserve / 100,
        snapshot=allocation,
        tex=tex,
        sources=sources,
        force=force,
        frozen=frozen,
        calibration=calibration,
        gpu=gpu,
        models_dir=models_dir,
    )
