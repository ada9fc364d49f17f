"""What a dispatch leaves on disk while it runs, so that it can be stopped at any moment and go on.

    outputs.jsonl    one line a prompt, written when its batch has come back; never a prompt twice
    dispatch.jsonl   what happened when: parts (one a start), workers, windows, batches

Only the dispatcher writes them. A line that was cut off by the end of a process is dropped.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from perfkit.errors import ConfigError
from perfkit.schema import SCHEMA_VERSION, RunFolder

EVENTS, LOCK = "dispatch.jsonl", ".dispatch-lock"
NAMED = 3
"""prompts that a message names"""


@dataclass(slots=True)
class Refused:
    """Prompts that cannot be answered: how many, and the first few."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, record: Mapping[str, Any]) -> None:
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(f"{record['prompt_id']} ({record['error']})")

    def words(self) -> str | None:
        """One message; None when all could be answered."""
        if not self.count:
            return None
        more = f" and {self.count - len(self.first):,} more" if self.count > NAMED else ""
        return (
            f"{self.count:,} prompt(s) do not fit the model and have no answer: "
            f"{'; '.join(self.first)}{more}. Shorten them or ask for fewer --new-tokens, with "
            "another --out; all others are answered."
        )


class Journal:
    """The two files, open for adding, and which prompts are answered."""

    def __init__(self, folder: RunFolder, num_prompts: int) -> None:
        self.folder = folder
        self.answered = bytearray(num_prompts)
        self._lock = _locked(folder.root / LOCK)
        self._outputs = _open(folder.outputs)
        self._events = _open(folder.root / EVENTS)
        events, _damaged = read_events(folder)
        self.part = 1 + max((event["part"] for event in events), default=-1)
        self.refused = Refused()
        for record in _records(folder.outputs):
            self._note(record)

    @property
    def num_answered(self) -> int:
        return self.answered.count(1)

    def missing(self) -> Iterable[int]:
        """Indices of the prompts without an answer, in order."""
        return (index for index, done in enumerate(self.answered) if not done)

    def keep(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Write the records of prompts that have none yet; how many those were."""
        new = [record for record in records if not self.answered[record["index"]]]
        for record in new:
            self._note(record)
        _add(self._outputs, new)
        return len(new)

    def _note(self, record: Mapping[str, Any]) -> None:
        self.answered[record["index"]] = 1
        if "error" in record:
            self.refused.add(record)

    def event(self, kind: str, **facts: Any) -> None:
        _add(self._events, [{"kind": kind, "part": self.part, **facts}])

    def close(self) -> None:
        self._outputs.close()
        self._events.close()
        self._lock.close()


def read_events(folder: RunFolder) -> tuple[list[dict[str, Any]], int]:
    """Every event in the order in which the dispatcher heard of it; how many cannot be read."""
    events, damaged = [], 0
    for line in _lines(folder.root / EVENTS):
        try:
            events.append(json.loads(line))
        except ValueError:
            damaged += 1
    return events, damaged


def _locked(path: Path) -> IO[bytes]:
    """A file whose lock says that its folder has a dispatcher."""
    try:
        file = path.open("ab")
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"another perfkit dispatch writes {path.parent} now. Wait for its end, or give "
            "another folder with --out.",
        ) from None
    except OSError:
        # Some network file systems know no locks.
        return file
    return file


def _open(path: Path) -> IO[bytes]:
    """For adding lines, without a last half line."""
    try:
        file = path.open("ab+")
        _drop_half_line(file)
    except OSError as error:
        raise _unwritable(path, error) from error
    return file


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot write {path}: {error.strerror}. Give a folder you may write to with --out.",
    )


def _drop_half_line(file: IO[bytes]) -> None:
    size = kept = file.seek(0, os.SEEK_END)
    while kept:
        file.seek(kept - 1)
        if file.read(1) == b"\n":
            break
        kept -= 1
    if kept < size:
        file.truncate(kept)
        file.seek(0, os.SEEK_END)


def _add(file: IO[bytes], records: Iterable[Mapping[str, Any]]) -> None:
    """Lines that are on disk when this returns."""
    for record in records:
        full = {"schema_version": SCHEMA_VERSION, **record}
        file.write(json.dumps(full, separators=(",", ":")).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def _records(path: Path) -> Iterable[dict[str, Any]]:
    """Answers: one that cannot be read might be anybody's, so there is no going on."""
    try:
        yield from map(json.loads, _lines(path))
    except ValueError as error:
        raise ConfigError(
            f"{path} is damaged: {error}. Begin again with --force, or in another folder.",
        ) from error


def _lines(path: Path) -> Iterable[bytes]:
    """Whole lines; of a dispatch that still runs the last one may be half there."""
    try:
        with path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}.") from error
