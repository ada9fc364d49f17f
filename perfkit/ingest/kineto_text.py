"""The text of a Kineto file (.json or .json.gz) in pieces of whole events, never all at once.

A piece ends before a comma that stands between two objects. That such a comma is between two
events, not inside of one, shows when the piece is decoded: then every bracket in it is closed.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from isal import igzip, isal_zlib

from perfkit.errors import ConfigError

# Pieces that stay in a processor's cache are decoded a third faster than those of 4 MiB.
BLOCK_BYTES = 2**19
# isal's stubs call its exceptions instances.
UNREADABLE: tuple[type[Exception], ...] = (OSError, isal_zlib.error)  # type: ignore[assignment]
GZIP = b"\x1f\x8b"
BETWEEN = re.compile(rb"\}\s*,\s*\{")
# How far before the end of a block an end of an event is looked for: first near, then anywhere.
WINDOWS = (2**12, 2**16, 2**40)
EVENTS = re.compile(rb'"traceEvents"\s*:\s*\[')


def pieces(path: Path) -> Iterator[bytes]:
    """The text, cut between events; with commas put between them again, they are the text."""
    rest: list[bytes] = []
    for block in _blocks(path):
        cut = _last_between(block)
        if cut is None:
            rest.append(block)
            continue
        yield b"".join([*rest, memoryview(block)[:cut]])
        rest = [block[cut + 1 :]]
    yield b"".join(rest)


def split_head(piece: bytes) -> tuple[bytes, bytes | None]:
    """What stands before the first event, with its opening bracket, and the rest."""
    found = EVENTS.search(piece)
    return (piece[: found.end()], piece[found.end() :]) if found else (piece, None)


def _last_between(block: bytes) -> int | None:
    """Where the last comma between two objects is."""
    for window in WINDOWS:
        found = list(BETWEEN.finditer(block, max(0, len(block) - window)))
        if found:
            return block.index(b",", found[-1].start())
        if window >= len(block):
            break
    return None


def _blocks(path: Path) -> Iterator[bytes]:
    """The file's text, unpacked; ConfigError when it cannot be read."""
    try:
        with path.open("rb") as file:
            packed = file.read(len(GZIP)) == GZIP
            file.seek(0)
            source: IO[bytes] = igzip.open(file) if packed else file  # type: ignore[no-untyped-call]
            while block := source.read(BLOCK_BYTES):
                yield block
    except EOFError as error:
        raise unusable(path, "its gzip data is cut off") from error
    except UNREADABLE as error:
        raise unusable(path, f"cannot be read ({error})") from error


def unusable(path: Path, found: str) -> ConfigError:
    """A file that is not whole."""
    return ConfigError(
        f"{path} {found}: the profiler was stopped while it wrote it, or the copy is incomplete. "
        "Copy it again, or run again and let the captured pass end.",
    )
