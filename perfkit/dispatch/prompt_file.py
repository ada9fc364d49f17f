"""A prompt file that is never in memory as a whole: where each prompt stands; some of them read.

A prompt is known by its index, its place in the file from 0 (blank lines do not count), because
an id may be missing. Sixteen bytes a prompt are held here; the workers read the texts themselves.
"""

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from perfkit.errors import ConfigError

TEXT_KEYS = ("text", "prompt")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt as a worker reads it."""

    index: int
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Asked:
    """Some prompts of a file, for a worker that reads them there."""

    number: int
    path: str
    indices: tuple[int, ...]
    spans: tuple[tuple[int, int], ...] | None
    """first byte and bytes of each in a .jsonl file; None in a .parquet file"""


@dataclass(frozen=True, slots=True)
class PromptFile:
    """What is known of the file before any prompt is run."""

    path: Path
    sha256: str
    count: int
    starts: Sequence[int]
    sizes: Sequence[int]

    def asked(self, number: int, indices: Sequence[int]) -> Asked:
        """The prompts with these indices, in order."""
        spans = tuple((self.starts[i], self.sizes[i]) for i in indices) if self.starts else None
        return Asked(number, str(self.path), tuple(indices), spans)


class Line(msgspec.Struct):
    """What a line may hold, among other keys."""

    text: Any = None
    prompt: Any = None
    id: Any = None


LINE = msgspec.json.Decoder(Line | str)


def open_prompts(path: Path) -> PromptFile:
    """Look at every prompt of a .jsonl or .parquet file once; ConfigError for what cannot be used.

    A .jsonl line is a string, or an object with its prompt under "text" or "prompt" and perhaps an
    "id"; a .parquet file has such columns.
    """
    readers = {".jsonl": _open_lines, ".parquet": _open_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(
            f"{path} is not named .jsonl or .parquet. Write one JSON object a line, such as "
            '{"id": "a", "text": "..."}, or a parquet file with a column "text".',
        )
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        found = reader(path.resolve(), sha256)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist. Check the path of the prompts.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Name a file.") from error
    if not found.count:
        raise ConfigError(f"{path} holds no prompts. Write at least one.")
    return found


def _open_lines(path: Path, sha256: str) -> PromptFile:
    starts, sizes = array("Q"), array("Q")
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                _decoded(line, f"{path} line {number}")
                starts.append(start)
                sizes.append(len(line))
            start += len(line)
    return PromptFile(path, sha256, len(starts), starts, sizes)


def _decoded(line: bytes, where: str) -> tuple[Any, str]:
    """(id or None, text) of one line."""
    try:
        found = LINE.decode(line)
    except msgspec.DecodeError as error:
        raise ConfigError(
            f'{where} is not a prompt: {error}. Write one object a line: {{"text": "..."}}.',
        ) from error
    if isinstance(found, str):
        return None, _filled(found, where)
    text = found.text if found.text is not None else found.prompt
    return found.id, _filled(text, where)


def _filled(text: Any, where: str) -> str:
    if isinstance(text, str) and text.strip():
        return text
    raise ConfigError(f'{where} has no text under "text" or "prompt". Write some there.')


def _open_parquet(path: Path, sha256: str) -> PromptFile:
    import polars as pl

    try:
        lazy = pl.scan_parquet(path)
        text = _text_column(lazy.collect_schema(), path)
        empty = pl.col(text).is_null() | (pl.col(text).str.strip_chars() == "")
        facts = lazy.select(count=pl.len(), first=empty.arg_true().first()).collect()
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"{path} is no parquet file that polars reads: {error}.") from error
    count, first = facts.row(0)
    if first is not None:
        raise ConfigError(f"{path} row {first} has no text in its column {text!r}. Write some.")
    return PromptFile(path, sha256, int(count), (), ())


def _text_column(schema: Any, path: Path) -> str:
    import polars as pl

    for name in TEXT_KEYS:
        if schema.get(name) == pl.String:
            return name
    raise ConfigError(
        f"{path} has no column of strings named text or prompt (found: {', '.join(schema)}). "
        "Name the column of the prompts so.",
    )


def read(asked: Asked) -> Iterator[Prompt]:
    """The prompts that were asked for, read from the file."""
    entries = _read_parquet(asked) if asked.spans is None else _read_lines(asked, asked.spans)
    for index, (known, text) in zip(asked.indices, entries, strict=True):
        yield Prompt(index, f"prompt-{index + 1}" if known is None else str(known), text)


def _read_lines(asked: Asked, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[str | None, str]]:
    with Path(asked.path).open("rb") as file:
        for start, size in spans:
            file.seek(start)
            yield _decoded(file.read(size), f"{asked.path} at byte {start}")


def _read_parquet(asked: Asked) -> Iterator[tuple[str | None, str]]:
    import polars as pl

    first, last = asked.indices[0], asked.indices[-1]
    lazy = pl.scan_parquet(asked.path)
    schema = lazy.collect_schema()
    known = pl.col("id").cast(pl.String) if "id" in schema else pl.lit(None, pl.String)
    text = pl.col(_text_column(schema, Path(asked.path)))
    rows = lazy.slice(first, last - first + 1).select(known.alias("id"), text.alias("text"))
    yield from rows.collect()[[index - first for index in asked.indices]].iter_rows()
