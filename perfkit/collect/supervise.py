"""Starts ranks, watches them, ends all of them when one fails, and records how each ended.

One rank under srun, every rank of a local run: the same loop. A rank that fails on another node is
seen through the marker file that its supervisor leaves in the run folder, so that no network
connection is needed and nobody waits for a collective's timeout. A collector that dies before it
has started its rank's program costs that rank its trace, never the run: the rank starts without.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from perfkit.collect.witness import EXIT_FILE, SUPERVISOR, alive, die_with_parent
from perfkit.schema import RunFolder, read_if_whole, reserve, write_surely
from perfkit.secrets import without_secret_arguments

POLL_S = 0.05
MARKER_POLL_S = 1.0
# After the first failure the others get this long to fail by themselves and say why,
LAST_WORDS_S = 1.0
# and then this long between being asked to end and being made to.
GRACE_S = 3.0
# Every rank of a Slurm step should have started by then; a rank that has not never will.
ARRIVE_S = 180.0
FAILED_MARKER = "failed.json"
PROGRESS_FD = "PERFKIT_PROGRESS_FD"

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What ends a run: scancel, a time limit, Ctrl-C, a terminal that was closed."""
PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)
"""What means something only to the program, such as "write a checkpoint"."""


@dataclass(frozen=True, slots=True)
class RankStart:
    """How a rank is started, and how without the programs that its collectors put around it."""

    command: Sequence[str]
    environment: Mapping[str, str]
    bare: tuple[Sequence[str], Mapping[str, str]] | None = None
    """None when nothing stands around the rank's witness."""


@dataclass(slots=True)
class RankProcess:
    """One rank's process and how it ended."""

    rank: int
    start: RankStart
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    started_at: str
    ended_ns: int | None = None
    code: int | None = None
    """how the program itself ended, as subprocess has it: negative for a signal"""
    stopped_by_us: bool = False
    without_wrappers: str | None = None
    """why the rank was started again without the collectors around it"""
    collectors: dict[str, Any] | None = None
    """what each collector did on this rank, for status.json; None until its products are there"""

    @property
    def running(self) -> bool:
        return self.ended_ns is None

    @property
    def failed(self) -> bool:
        return not self.running and self.code != 0


@dataclass(slots=True)
class Watch:
    """The supervisor's state: its ranks, the signals it got, the failure it saw elsewhere."""

    folder: RunFolder
    options: "WatchOptions"
    pipe: int
    """what ranks write their progress to"""
    progress: int
    """what it is read from"""
    ranks: list[RankProcess] = field(default_factory=list)
    received: int | None = None
    to_pass_on: list[int] = field(default_factory=list)
    failed_elsewhere: bool = False
    unread: bytes = b""
    echoed: int = 0
    """bytes of the first rank's log that were printed"""
    started: float = field(default_factory=time.monotonic)
    last_marker_look: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """What differs between runs."""

    grace_s: float = GRACE_S
    """how long the others may take to write their products once one has failed"""
    echo: IO[bytes] | None = None
    """where the first rank's output is printed as it comes"""
    arriving: int = 0
    """ranks that must have come to the run folder within ARRIVE_S; 0 does not look"""
    signalled_too: bool = False
    """the ranks got the same signal from elsewhere: Slurm sends it to every process of a step"""
    on_stop: Callable[[int], None] = lambda _number: None
    """told once of the signal that ends the run, before the ranks are"""


def now() -> str:
    """The time of day in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def run_ranks(
    folder: RunFolder,
    starts: Mapping[int, RankStart],
    on_progress: Callable[[str], None],
    options: WatchOptions,
) -> Watch:
    """Start one process for each rank and return when all have ended."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    watch = Watch(folder, options, pipe=writer, progress=reader)
    with _signals_noted(watch):
        try:
            for rank, start in starts.items():
                watch.ranks.append(start_rank(folder, rank, start, writer))
            _watch_until_ended(watch, on_progress)
        finally:
            _stop(watch)
            _echo(watch)
            os.close(writer)
            os.close(reader)
    return watch


def start_rank(folder: RunFolder, rank: int, start: RankStart, pipe: int) -> RankProcess:
    """One rank in a process group of its own, its output in log.txt, its status on disk."""
    folder.rank(rank).mkdir(parents=True, exist_ok=True)
    reserve(folder.rank(rank))
    log = folder.rank_file(rank, "log.txt").open("ab")
    process = _spawn(start.command, start.environment, log, pipe)
    ours = RankProcess(rank, start, process, log, now())
    write_status(folder, ours)
    return ours


def _spawn(
    command: Sequence[str], environment: Mapping[str, str], log: IO[bytes], pipe: int
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env={**environment, PROGRESS_FD: str(pipe), SUPERVISOR: str(os.getpid())},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        pass_fds=(pipe,),
        start_new_session=True,
        preexec_fn=die_with_parent,
    )


def write_status(folder: RunFolder, ours: RankProcess) -> None:
    """ranks/NNNN/status.json: host, pid, start, end, exit status."""
    code = ours.code
    write_surely(
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
            "command": without_secret_arguments(ours.start.command),
            "without_wrappers": ours.without_wrappers,
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
        _echo(watch)
        _pass_on(watch)
        _note_ends(watch)
        if _must_end(watch):
            return
    _read_progress(watch, on_progress)


def _must_end(watch: Watch) -> bool:
    """True once a rank failed here or elsewhere, or somebody asked this process to stop."""
    if watch.received is not None:
        watch.options.on_stop(watch.received)
        return True
    if any(ours.failed for ours in watch.ranks):
        return True
    if time.monotonic() - watch.last_marker_look >= MARKER_POLL_S:
        watch.last_marker_look = time.monotonic()
        marker = (watch.folder.root / FAILED_MARKER).exists()
        watch.failed_elsewhere = marker or _somebody_never_came(watch)
    return watch.failed_elsewhere


def _somebody_never_came(watch: Watch) -> bool:
    """A node that could not start its rank at all leaves nothing: the others would wait for it."""
    if time.monotonic() - watch.started < ARRIVE_S:
        return False
    files = (watch.folder.rank_file(r, "status.json") for r in range(watch.options.arriving))
    return not all(file.is_file() for file in files)


def _note_ends(watch: Watch) -> None:
    for ours in watch.ranks:
        if ours.running and ours.process.poll() is not None and not _goes_on(watch, ours):
            if _never_started(watch, ours):
                _start_again(watch, ours)
                continue
            ours.ended_ns = time.time_ns()
            ours.code = own_code(watch.folder, ours)
            ours.log.close()
            write_status(watch.folder, ours)
            if ours.failed and not ours.stopped_by_us:
                _leave_marker(watch.folder, ours)


def _goes_on(watch: Watch, ours: RankProcess) -> bool:
    """True when a collector around the program has ended, and program or witness have not."""
    seen = read_exit(watch.folder, ours.rank)
    unended = seen.get("pid") and seen.get("exit_code") is None and seen.get("signal") is None
    return bool(unended) and (alive(int(seen["pid"])) or alive(int(seen["witness"])))


def _never_started(watch: Watch, ours: RankProcess) -> bool:
    """True when a collector ended before the rank's witness could write its first line."""
    untouched = watch.received is None and not ours.stopped_by_us
    seen = watch.folder.rank_file(ours.rank, EXIT_FILE).is_file()
    return untouched and not seen and ours.without_wrappers is None and ours.start.bare is not None


def _start_again(watch: Watch, ours: RankProcess) -> None:
    """The rank's program without the collectors that could not start it."""
    assert ours.start.bare is not None
    command, environment = ours.start.bare
    # nsys, for one, ends with how it is used: the reason is some lines above.
    words = " ".join(log_tail(watch.folder.rank_file(ours.rank, "log.txt"), lines=8).split())
    code = ours.process.returncode
    how = f"exited with {code}" if code >= 0 else f"was killed by {signal_name(-code)}"
    ours.without_wrappers = (
        f"{ours.start.command[0]} {how} before the rank's program started, so the rank ran without "
        f"it{': ' + words if words else ''}"
    )
    ours.process = _spawn(command, environment, ours.log, watch.pipe)
    write_status(watch.folder, ours)


def own_code(folder: RunFolder, ours: RankProcess) -> int:
    """How the program itself ended: its witness knows; a collector around it can hide it."""
    seen = read_exit(folder, ours.rank)
    if seen.get("signal") is not None:
        return -int(seen["signal"])
    if seen.get("exit_code") is not None:
        return int(seen["exit_code"])
    # The witness itself was killed, or never started.
    return ours.process.returncode or -signal.SIGKILL


def read_exit(folder: RunFolder, rank: int) -> Mapping[str, Any]:
    """What the rank's witness wrote; empty where it wrote nothing."""
    return read_if_whole(folder.rank_file(rank, EXIT_FILE)) or {}


def _leave_marker(folder: RunFolder, ours: RankProcess) -> None:
    """Tell the supervisors of the other ranks; the first one to fail keeps the marker."""
    with contextlib.suppress(OSError), (folder.root / FAILED_MARKER).open("x") as marker:
        content = {"rank": ours.rank, "exit_code": shell_code(ours.code or 0)}
        json.dump({"schema_version": 1, **content}, marker)


def shell_code(code: int) -> int:
    """What a shell reports: the exit code, or 128 + signal."""
    return code if code >= 0 else 128 - code


def _stop(watch: Watch) -> None:
    """End what still runs: leave time for its own error, ask, then insist."""
    alone = watch.received is not None and not watch.options.signalled_too
    if not alone and any(ours.running for ours in watch.ranks):
        _wait(watch, LAST_WORDS_S)
    for tell, seconds in (
        # The program alone first: what a profiler around it has recorded is written at its end.
        (_ask_program, watch.options.grace_s),
        (_ask_everybody, GRACE_S),
        (_kill, GRACE_S),
    ):
        for ours in watch.ranks:
            if ours.running:
                ours.stopped_by_us = True
                with contextlib.suppress(ProcessLookupError):
                    tell(watch, ours)
        _wait(watch, seconds)
    for ours in watch.ranks:
        # Whatever a rank itself started must not outlive it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(ours.process.pid, signal.SIGKILL)


def _ask_program(watch: Watch, ours: RankProcess) -> None:
    pid = read_exit(watch.folder, ours.rank).get("pid")
    os.kill(int(pid or ours.process.pid), signal.SIGTERM)


def _ask_everybody(_watch: Watch, ours: RankProcess) -> None:
    os.killpg(ours.process.pid, signal.SIGTERM)


def _kill(_watch: Watch, ours: RankProcess) -> None:
    os.killpg(ours.process.pid, signal.SIGKILL)


def _wait(watch: Watch, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(ours.running for ours in watch.ranks) and time.monotonic() < deadline:
        time.sleep(POLL_S)
        _note_ends(watch)


def _read_progress(watch: Watch, on_progress: Callable[[str], None]) -> None:
    """Pass on whole lines that ranks wrote to the progress pipe."""
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(watch.progress, 65536):
            watch.unread += chunk
    *lines, watch.unread = watch.unread.split(b"\n")
    for line in lines:
        on_progress(line.decode(errors="replace"))


def _echo(watch: Watch) -> None:
    """Print what the first rank has written to its log since the last look."""
    if watch.options.echo is None or not watch.ranks:
        return
    with watch.folder.rank_file(watch.ranks[0].rank, "log.txt").open("rb") as log:
        log.seek(watch.echoed)
        while chunk := log.read(65536):
            watch.options.echo.write(chunk)
            watch.echoed += len(chunk)
    watch.options.echo.flush()


def _pass_on(watch: Watch) -> None:
    """Signals for the program itself go to it alone: they would end a profiler around it."""
    while watch.to_pass_on:
        number = watch.to_pass_on.pop(0)
        for ours in watch.ranks:
            pid = read_exit(watch.folder, ours.rank).get("pid")
            if ours.running and pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), number)


@contextlib.contextmanager
def _signals_noted(watch: Watch) -> Iterator[None]:
    """SIGTERM (scancel, time limit) and the like end the ranks first, then this process."""

    def note(number: int, _frame: object) -> None:
        watch.received = number

    def keep(number: int, _frame: object) -> None:
        watch.to_pass_on.append(number)

    kept = {s: signal.signal(s, note) for s in STOPPING}
    kept |= {s: signal.signal(s, keep) for s in PASSED_ON}
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
