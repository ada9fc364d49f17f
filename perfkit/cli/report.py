"""`perfkit report`: one run as a page, or several side by side as a page, Markdown or picture."""

from enum import StrEnum
from pathlib import Path

import typer

from perfkit.cli.output import closing, deliver, result, story
from perfkit.files import check_free


class Kind(StrEnum):
    """What is written."""

    html = "html"
    md = "md"
    svg = "svg"
    png = "png"


def command(
    runs: list[Path] = typer.Argument(
        metavar="RUN...",
        help="Run folders that `perfkit run` wrote, folders of them, or a study's folder.",
    ),
    out: Path | None = typer.Option(
        None,
        "-o",
        "--out",
        help="The file to write: .html, .md (the table of the runs), .svg or .png (their picture). "
        "[default: report.html; Markdown goes to stdout]",
    ),
    format: Kind | None = typer.Option(
        None, "--format", help="What to write. [default: as the file's name ends, else html]"
    ),
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

    It needs no network and no other file. Several runs stand side by side in one table, with a
    picture of their decode steps; up to eight have all their charts on that page, too. A failed
    run, a half-done study, or a run without a trace or rates gets a page as well: what was not
    measured is a dash, and the first lines say what is missing.
    """
    from perfkit.report.given import given
    from perfkit.report.written import markdown_of, write

    what = given(runs)
    for line in what.beside:
        story(line)
    for line in what.missing:
        story(f"missing: {line}")
    kind = format or kind_of(out)
    rates = {"calibration": calibration, "gpu": gpu, "models_dir": models_dir}
    if kind is Kind.md:
        check_free(out, force=force)
        deliver(markdown_of(what, **rates), out, force=force)
        closing(out, f"perfkit report {what.runs[0]} -o report.html")
        return
    named = out or Path(f"report.{kind.value}")
    written = write(what, named, kind.value, force=force, **rates)
    result(str(written))
    run = what.runs[0] if what.runs else "RUN"
    closing(written, f"perfkit analyze {run} --kernels 10")


def kind_of(out: Path | None) -> Kind:
    """As the name ends; a page where it ends otherwise."""
    suffix = out.suffix.removeprefix(".") if out else ""
    return Kind(suffix) if suffix in list(Kind) else Kind.html
