"""Starts ranks, watches them, ends all of them when one fails, and records how each ended.

One rank under srun, every rank of a local run: the same loop. A rank that fails on another node is
seen through the marker file that its supervisor leaves in the run folder, so that no network
connection is needed and nobody waits for a collective's timeout.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from perfkit.collect.witness import EXIT_FILE, die_with_parent
from perfkit.schema import RunFolder, read_json, write_json

POLL_S = 0.05
MARKER_POLL_S = 1.0
# After the first failure the others get this long to fail by themselves and say why,
LAST_WORDS_S = 1.0
# and then this long between being asked to end and being made to.
GRACE_S = 3.0
FAILED_MARKER = "failed.json"
PROGRESS_FD = "PERFKIT_PROGRESS_FD"


@dataclass(slots=True)
class RankProcess:
    """One rank's process and how it ended."""

    rank: int
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    started_at: str
    ended_ns: int | None = None
    code: int | None = None
    """how the program itself ended, as subprocess has it: negative for a signal"""
    stopped_by_us: bool = False
    collectors: dict[str, Any] = field(default_factory=dict)
    """what each collector did on this rank, for status.json"""

    @property
    def running(self) -> bool:
        return self.ended_ns is None

    @property
    def failed(self) -> bool:
        return not self.running and self.code != 0


@dataclass(slots=True)
class Watch:
    """The supervisor's state: its ranks, the signal it got, the failure it saw elsewhere."""

    folder: RunFolder
    ranks: list[RankProcess]
    received: int | None = None
    failed_elsewhere: bool = False
    progress: int | None = None
    unread: bytes = b""
    last_marker_look: float = field(default=0.0)
    grace_s: float = GRACE_S


def now() -> str:
    """The time of day in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def run_ranks(
    folder: RunFolder,
    commands: Mapping[int, tuple[Sequence[str], Mapping[str, str]]],
    on_progress: Callable[[str], None],
    grace_s: float = GRACE_S,
) -> Watch:
    """Start one process for each rank, (command, environment), and return when all have ended.

    `grace_s` is how long the others may take to write their products once one has failed.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    watch = Watch(folder, [], progress=reader, grace_s=grace_s)
    with _signals_noted(watch):
        try:
            for rank, (command, environment) in commands.items():
                watch.ranks.append(start_rank(folder, rank, command, environment, writer))
            os.close(writer)
            _watch_until_ended(watch, on_progress)
        finally:
            _stop(watch)
            os.close(reader)
    return watch


def start_rank(
    folder: RunFolder, rank: int, command: Sequence[str], environment: Mapping[str, str], pipe: int
) -> RankProcess:
    """One rank in a process group of its own, its output in log.txt, its status on disk."""
    folder.rank(rank).mkdir(parents=True, exist_ok=True)
    log = folder.rank_file(rank, "log.txt").open("wb")
    process = subprocess.Popen(
        command,
        env={**environment, PROGRESS_FD: str(pipe)},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        pass_fds=(pipe,),
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    ours = RankProcess(rank, process, log, now())
    write_status(folder, ours)
    return ours


def write_status(folder: RunFolder, ours: RankProcess) -> None:
    """ranks/NNNN/status.json: host, pid, start, end, exit status."""
    code = ours.code
    write_json(
        folder.rank_file(ours.rank, "status.json"),
        {
            "rank": ours.rank,
            "host": socket.gethostname(),
            "pid": ours.process.pid,
            "state": state_of(ours),
            "started_at": ours.started_at,
            "ended_at": None if ours.running else now(),
            "ended_ns": ours.ended_ns,
            "exit_code": code if code is None or code >= 0 else None,
            "signal": signal_name(-code) if code is not None and code < 0 else None,
            "collectors": ours.collectors,
        },
    )


def state_of(ours: RankProcess) -> str:
    """running, finished, failed, or stopped (ended by its supervisor because of another rank)."""
    if ours.running:
        return "running"
    if ours.code == 0:
        return "finished"
    return "stopped" if ours.stopped_by_us else "failed"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _watch_until_ended(watch: Watch, on_progress: Callable[[str], None]) -> None:
    while any(ours.running for ours in watch.ranks):
        time.sleep(POLL_S)
        _read_progress(watch, on_progress)
        _note_ends(watch)
        if _must_end(watch):
            return
    _read_progress(watch, on_progress)


def _must_end(watch: Watch) -> bool:
    """True once a rank failed here or elsewhere, or somebody asked this process to stop."""
    if watch.received is not None or any(ours.failed for ours in watch.ranks):
        return True
    if time.monotonic() - watch.last_marker_look >= MARKER_POLL_S:
        watch.last_marker_look = time.monotonic()
        watch.failed_elsewhere = (watch.folder.root / FAILED_MARKER).exists()
    return watch.failed_elsewhere


def _note_ends(watch: Watch) -> None:
    for ours in watch.ranks:
        if ours.running and ours.process.poll() is not None:
            ours.ended_ns = time.time_ns()
            ours.code = own_code(watch.folder, ours)
            ours.log.close()
            write_status(watch.folder, ours)
            if ours.failed and not ours.stopped_by_us:
                _leave_marker(watch.folder, ours.rank)


def own_code(folder: RunFolder, ours: RankProcess) -> int:
    """How the program itself ended: its witness knows; a collector around it can hide it."""
    file = folder.rank_file(ours.rank, EXIT_FILE)
    seen = read_json(file) if file.is_file() else {}
    if seen.get("signal") is not None:
        return -int(seen["signal"])
    if seen.get("exit_code") is not None:
        return int(seen["exit_code"])
    # The witness itself was killed, or never started.
    return ours.process.returncode or -signal.SIGKILL


def _leave_marker(folder: RunFolder, rank: int) -> None:
    """Tell the supervisors of the other ranks; the first one to fail keeps the marker."""
    with contextlib.suppress(FileExistsError), (folder.root / FAILED_MARKER).open("x") as marker:
        json.dump({"schema_version": 1, "rank": rank}, marker)


def _stop(watch: Watch) -> None:
    """End what still runs: leave time for its own error, ask, then insist."""
    if watch.received is None and any(ours.running for ours in watch.ranks):
        _wait(watch, LAST_WORDS_S)
    for insistence in (signal.SIGTERM, signal.SIGKILL):
        for ours in watch.ranks:
            if ours.running:
                ours.stopped_by_us = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(ours.process.pid, insistence)
        _wait(watch, watch.grace_s)
    for ours in watch.ranks:
        # Whatever a rank itself started must not outlive it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(ours.process.pid, signal.SIGKILL)


def _wait(watch: Watch, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(ours.running for ours in watch.ranks) and time.monotonic() < deadline:
        time.sleep(POLL_S)
        _note_ends(watch)


def _read_progress(watch: Watch, on_progress: Callable[[str], None]) -> None:
    """Pass on whole lines that ranks wrote to the progress pipe."""
    assert watch.progress is not None
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(watch.progress, 65536):
            watch.unread += chunk
    *lines, watch.unread = watch.unread.split(b"\n")
    for line in lines:
        on_progress(line.decode(errors="replace"))


@contextlib.contextmanager
def _signals_noted(watch: Watch) -> Any:
    """SIGTERM (scancel, time limit) and SIGINT end the ranks first, then this process."""

    def note(number: int, _frame: object) -> None:
        watch.received = number

    kept = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def log_tail(path: Path, lines: int = 12) -> str:
    """The last lines of a rank's log, for an error message."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
