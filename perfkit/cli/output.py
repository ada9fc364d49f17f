"""What every verb shares: the --format option, story lines on stderr, the closing line."""

import shutil
import sys
from enum import StrEnum
from pathlib import Path

import typer

from perfkit.files import check_free, write_text


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


def deliver(text: str, path: Path | None, *, force: bool) -> None:
    """The answer, in a file when one is named, else on stdout."""
    if path is None:
        result(text)
        return
    check_free(path, force=force)
    write_text(path, text)


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
