"""What `perfkit paper` and `perfkit proposal` share: options, the story, and the checks."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from perfkit.cli.accuracy import frozen_files
from perfkit.cli.output import closing, result, story
from perfkit.errors import CheckFailed

if TYPE_CHECKING:
    from perfkit.documents.content import Wanted

RUNS = typer.Argument(
    None,
    metavar="[RUN]...",
    help="Run folders, or folders of them: traces/, runs/STUDY that `perfkit submit` filled.",
    show_default=False,
)
FROZEN = typer.Option(
    [],
    "--frozen",
    metavar="FILE",
    help="Predictions kept before the runs (`perfkit predict --format json -o FILE`), to be scored "
    "apart. May be given several times, or be a folder with frozen-*.json.",
)
CALIBRATION = typer.Option(
    None, help="Measured rates to predict with. [default: those in the run folder]"
)
GPU = typer.Option(None, help="Predict with this GPU's data sheet instead, e.g. h200-sxm.")
MODELS_DIR = typer.Option(None, help="Your own models folder, searched first.")


def start(kind: str, folder: Path, *, force: bool) -> None:
    """Write the starter."""
    from perfkit.documents.text import write_starter

    for path in write_starter(kind, folder, force=force):
        result(str(path))
    closing(folder, f"perfkit {kind} runs/*/ --text {folder} -o {kind}.pdf")


def asked(
    *,
    frozen: list[Path],
    calibration: Path | None,
    gpu: str | None,
    models_dir: Path | None,
    **given: Any,
) -> "Wanted":
    """What the options say, as perfkit.documents takes it."""
    from perfkit.compare.run_facts import Rates
    from perfkit.documents.content import Wanted

    return Wanted(frozen=frozen_files(frozen), rates=Rates(calibration, gpu, models_dir), **given)


def deliver(**options: Any) -> None:
    """Write the document, tell what it lacks, and fail on a limit that does not hold."""
    from perfkit.documents.write import write

    wanted = asked(**options)
    written = write(wanted)
    for line in written.left_out:
        story(f"left out: {line}")
    for line in written.warnings:
        story(f"warning: {line}")
    for one in written.missing:
        get = f" To get it: {one.get}" if one.get else ""
        story(f"{one.lack}: {one.id} {one.caption}: {one.missing}.{get}")
    after = written.pages - written.body_pages
    more = f", and {after} with references and appendices" if after else ""
    story(f"{written.body_pages} pages{more}. Where numbers are from: {written.provenance}")
    result(str(written.out))
    next_command = (
        f"perfkit bundle RUNS --text {wanted.text} -o bundle.tar.gz"
        if wanted.text
        else f"perfkit {wanted.kind} --init my-{wanted.kind}"
    )
    closing(written.out, next_command)
    if written.too_long:
        raise CheckFailed("; ".join(written.too_long) + ". Shorten it, or raise the limit.")
