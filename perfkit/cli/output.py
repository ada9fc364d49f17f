"""What every verb shares: the --format option, story lines on stderr, the closing line."""

import shutil
import sys
from enum import StrEnum
from pathlib import Path

import typer

from perfkit.errors import ConfigError


class Format(StrEnum):
    """How a reading command prints its result."""

    table = "table"
    json = "json"
    csv = "csv"
    md = "md"


FORMAT_OPTION = typer.Option(Format.table, "--format", help="How to print the result.")


def result(text: str) -> None:
    """The answer, on stdout."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def check_free(path: Path | None, *, force: bool) -> None:
    """ConfigError when the output file exists; before anything is computed."""
    if path is not None and path.exists() and not force:
        raise ConfigError(f"{path} exists already. Use --force to replace it.")


def deliver(text: str, path: Path | None, *, force: bool) -> None:
    """The answer, in a file when one is named, else on stdout."""
    if path is None:
        result(text)
        return
    check_free(path, force=force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}. Give a file you may write to.",
        ) from error


def story(text: str) -> None:
    """What happens, on stderr."""
    typer.echo(text, err=True)


def closing(written: Path | None, next_command: str) -> None:
    """The last line of a command: what was written, and the next command to type."""
    prefix = f"wrote {written}. " if written else ""
    story(f"{prefix}Next: {next_command}")


def terminal_width() -> int:
    """Columns of the terminal; 80 in a log."""
    return shutil.get_terminal_size((80, 24)).columns
