"""`perfkit init`: a commented study to start from."""

import shlex
from pathlib import Path

import typer

from perfkit.cli.output import closing, result
from perfkit.errors import one_of
from perfkit.files import check_free, write_text


def command(
    name: str | None = typer.Argument(
        None, help="Name of the study, or its file. [default: the kind, or study]"
    ),
    kind: str | None = typer.Option(
        None,
        help="strong-scaling, weak-scaling, batch, precision, context or profiler-overhead. "
        "[default: anything may vary]",
    ),
    model: str = typer.Option(
        "smollm2-135m-instruct", help="Model of the study: an id, or a folder with config.json."
    ),
    models_dir: Path | None = typer.Option(None, help="Your own models folder, searched first."),
    force: bool = typer.Option(False, "--force", help="Replace a file of that name."),
) -> None:
    """Write a commented study, NAME.toml, that is valid as it stands."""
    from perfkit.study.starter import KINDS, file_for, starter

    if kind is not None:
        one_of("--kind", kind, KINDS)
    path = file_for(name or kind or "study")
    check_free(path, force=force)
    write_text(path, starter(path.stem, kind, model, models_dir))
    result(str(path))
    closing(path, shlex.join(["perfkit", "validate", str(path)]))
