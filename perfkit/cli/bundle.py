"""`perfkit bundle`: an archive for a DOI."""

from pathlib import Path

import typer

from perfkit.cli.document import CALIBRATION, FROZEN, GPU, MODELS_DIR, RUNS, asked
from perfkit.cli.output import closing, result, story


def command(
    runs: list[Path] = RUNS,
    out: Path = typer.Option(Path("bundle.tar.gz"), "-o", "--out", help="The archive to write."),
    text: Path | None = typer.Option(
        None, "--text", help="Folder with your paper.toml and sections. [default: the starter]"
    ),
    force: bool = typer.Option(False, "--force", help="Replace the archive."),
    frozen: list[Path] = FROZEN,
    calibration: Path | None = CALIBRATION,
    gpu: str | None = GPU,
    models_dir: Path | None = MODELS_DIR,
) -> None:
    """Pack a paper's sources, the runs' tables, reproduce.md, SYSTEM.md and ARTIFACT.md.

    Home folders, addresses of machines and what looks like a secret are taken out; an archive in
    which something is left is not written (exit code 3). The same input gives the same bytes.
    """
    from perfkit.documents.bundle import bundle

    wanted = asked(
        kind="paper",
        runs=runs or [],
        out=out,
        text=text,
        force=force,
        frozen=frozen,
        calibration=calibration,
        gpu=gpu,
        models_dir=models_dir,
    )
    packed = bundle(wanted, out)
    for line in packed.paper.left_out:
        story(f"left out: {line}")
    for line in packed.paper.warnings:
        story(f"warning: {line}")
    count = len(packed.paper.content.evidence.runs)
    story(f"{packed.files} files of {count} runs, {packed.num_bytes / 1e6:.2f} MB")
    result(str(packed.path))
    closing(packed.path, f"tar -tzf {packed.path}")
