"""What a check of `perfkit doctor` may ask of this machine, behind one object.

Every question has a time limit: a tool that hangs costs its own line, never the command. Tests
give the checks recorded answers by overriding the methods. Standard library only.
"""

import contextlib
import fcntl
import glob
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from perfkit.paths import cache_folder

COMMAND_TIMEOUT_S = 6.0
TIMED_OUT = 124
NOT_STARTED = 127


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer of one check. `lost`: what does not work like this; `fix`: the command to type."""

    state: str
    """ok, missing, or fixable (not ok, and one command changes that)"""
    found: str
    lost: str | None = None
    fix: str | None = None


def ok(found: str) -> Finding:
    return Finding("ok", found)


def missing(found: str, lost: str) -> Finding:
    return Finding("missing", found, lost)


def fixable(found: str, lost: str, fix: str) -> Finding:
    return Finding("fixable", found, lost, fix)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said; `code` is 124 when it hung and 127 when it could not start."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def works(self) -> bool:
        return self.code == 0

    @property
    def text(self) -> str:
        return self.out + self.err

    @property
    def reason(self) -> str:
        """The last line it printed, errors first: why it failed."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return lines[-1].strip()[:200] if lines else f"exit code {self.code}, no message"


@dataclass(eq=False)
class Probe:
    """This machine. `out` is the folder that runs would be written to."""

    out: Path = field(default_factory=Path.cwd)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    seconds: float = 12.0
    cache: Path = field(default_factory=cache_folder)

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + self.seconds
        self._guard = threading.Lock()
        self._gates: dict[tuple[str, ...], threading.Lock] = {}
        self._answers: dict[tuple[str, ...], Answer] = {}

    def run(self, command: Sequence[str], timeout: float = COMMAND_TIMEOUT_S) -> Answer:
        """Run a command once, however many checks ask; the same answer for all of them."""
        key = tuple(command)
        with self._guard:
            gate = self._gates.setdefault(key, threading.Lock())
        with gate:
            if key not in self._answers:
                left = max(0.1, min(timeout, self.deadline - time.monotonic()))
                self._answers[key] = run_limited(key, left, self.environ)
            return self._answers[key]

    def read(self, path: str) -> str | None:
        """A file's text; None when it cannot be read."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def which(self, name: str) -> str | None:
        return shutil.which(name, path=self.environ.get("PATH"))

    def glob(self, pattern: str) -> list[str]:
        """Paths that match, the highest version first."""
        return sorted(glob.glob(pattern), key=natural, reverse=True)  # noqa: PTH207

    def resolve(self, path: str) -> str:
        return str(Path(path).resolve())

    def space(self, path: str) -> tuple[int, int] | None:
        """(total, free) bytes of the file system that holds the path."""
        try:
            usage = shutil.disk_usage(path)
        except OSError:
            return None
        return usage.total, usage.free

    def try_folder(self, path: str) -> tuple[str | None, str | None]:
        """Why a file cannot be written there, and why it cannot be locked; None where it can."""
        try:
            with tempfile.TemporaryFile(dir=path) as file:
                file.write(b"x")
                return None, lock_refused(file.fileno())
        except OSError as error:
            return str(error.strerror), None

    def installed(self, package: str) -> str | None:
        """Version of an installed Python package, without importing it."""
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    def requirements(self) -> list[str]:
        """perfkit's own requirements, such as `deepspeed<0.20,>=0.19; extra == 'run'`."""
        try:
            return importlib.metadata.requires("perfkit") or []
        except importlib.metadata.PackageNotFoundError:
            return []


def lock_refused(descriptor: int) -> str | None:
    """Why a POSIX lock is refused (Lustre without `flock`, NFS without lockd)."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return str(error.strerror)
    return None


def natural(text: str) -> list[tuple[int, str]]:
    """Sort key in which 2025.10 comes after 2025.3."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def run_limited(command: Sequence[str], timeout: float, environ: Mapping[str, str]) -> Answer:
    """Run a command; kill it and everything that it started when it hangs."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except OSError as error:
        return Answer(NOT_STARTED, err=f"{command[0]}: {error.strerror}")
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _abandon(process)
        return Answer(TIMED_OUT, err=f"no answer from {Path(command[0]).name} in {timeout:.0f} s")
    return Answer(process.returncode, out, err)


def _abandon(process: subprocess.Popen[str]) -> None:
    """Kill the whole session: a shell script's `sleep` would keep the pipes open."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=0.5)
    process.poll()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
