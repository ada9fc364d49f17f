"""Runs a plan's points on this machine, one after another, each as `perfkit run` by itself.

The command is the one that a Slurm job has, and so are the run folder and the record: status,
compare and report read both alike.
"""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Protocol

from perfkit.collect.supervise import STOPPING
from perfkit.collect.witness import die_with_parent
from perfkit.errors import ConfigError, PerfkitError
from perfkit.study.states import State, limit_reached, local_state, tail
from perfkit.study.store import (
    Record,
    Submission,
    made_room,
    now,
    read_run,
    write_record,
)
from perfkit.submit.plan import Planned, Setting
from perfkit.submit.script import folded, job_name, perfkit_run

# A run that was asked to stop may first write what its collectors have.
STOP_S = 60.0
LOCK = ".lock"

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a point ended, and the seconds from its start to its end."""

    state: State
    took_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """Outcomes of the points that were run, by name, and the signal that ended the study."""

    outcomes: Mapping[str, Outcome]
    received: int | None


class Watcher(Protocol):
    """Who is told of each point's start, of each line that its run prints, and of its end."""

    def begin(self, point: str, number: int, count: int) -> None: ...
    def line(self, text: str) -> None: ...
    def end(self, outcome: Outcome) -> None: ...


@dataclass(slots=True)
class Stop:
    """The signal that asked this process to stop, and the run it is passed on to."""

    received: int | None = None
    process: subprocess.Popen[bytes] | None = None

    def follow(self, process: subprocess.Popen[bytes]) -> None:
        """Pass the signal on to this run, also one that came while it was started."""
        self.process = process
        if self.received is not None:
            process.send_signal(self.received)

    def note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        if self.process is not None:
            self.process.send_signal(number)


@contextlib.contextmanager
def signals_noted() -> Iterator[Stop]:
    """A signal ends the point that runs, in order, and then the study."""
    stop = Stop()
    before = {number: signal.signal(number, stop.note) for number in STOPPING}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """ConfigError while another process runs points of the same study: both would be slowed."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another perfkit runs points of {root} at this moment. Wait for it, or give "
                "another folder with --out.",
            ) from None
        yield


def run_points(setting: Setting, plan: Sequence[Planned], watcher: Watcher) -> Ended:
    """Run what is to be run, in order.

    A point that fails is left behind; a signal to this process ends the study.
    """
    todo = [one for one in plan if one.todo]
    outcomes: dict[str, Outcome] = {}
    if not todo:
        return Ended(outcomes, None)
    with locked(setting.wishes.root), signals_noted() as stop:
        for number, one in enumerate(todo, start=1):
            watcher.begin(one.point.name, number, len(todo))
            started = time.monotonic()
            state = run_point(setting, one, watcher.line, stop)
            outcome = Outcome(state, time.monotonic() - started)
            outcomes[one.point.name] = outcome
            watcher.end(outcome)
            if stop.received is not None:
                break
    return Ended(outcomes, stop.received)


def run_point(setting: Setting, one: Planned, tell: Tell, stop: Stop) -> State:
    """One point to its end, within the study's time limit."""
    folder = one.folder
    job_id = f"local-{len(one.record.jobs) + 1 if one.record else 1}"
    lines = perfkit_run(setting.model.argument, one.point.settings, folder.run.root)
    folder.root.mkdir(parents=True, exist_ok=True)
    with made_room(folder, one.record):
        process = start(lines)
    stop.follow(process)
    job = record_job(setting, one, job_id, process)
    with folder.output(job_id).open("wb") as log:
        log.write(f"{folded(lines)}\n".encode())
        reader = threading.Thread(target=copy_lines, args=(process, log, tell), daemon=True)
        reader.start()
        try:
            process.wait(job.time_limit_s)
        except subprocess.TimeoutExpired:
            end(process)
            log.write(f"perfkit: {limit_reached(job)}\n".encode())
        # A daemon of a collector may hold the other end open for ever.
        reader.join(timeout=5)
    stop.process = None
    return local_state(job, read_run(folder), tail(folder.output(job_id)))


def start(lines: Sequence[Sequence[str]]) -> subprocess.Popen[bytes]:
    """`perfkit run ...` in a session of its own: a signal reaches it once, through us."""
    words = [word for line in lines for word in line]
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )


def record_job(
    setting: Setting, one: Planned, job_id: str, process: subprocess.Popen[bytes]
) -> Submission:
    """point.json, as soon as there is a process to record."""
    study = setting.study
    job = Submission(
        job_id=job_id,
        submitted_at=now(),
        hash=one.hash or "",
        name=job_name(study.name, one.point.name),
        time_limit_s=study.time_limit_s,
        host=socket.gethostname(),
        pid=process.pid,
    )
    record = Record(
        study=study.name,
        kind=study.kind,
        system=setting.system.name,
        settings=one.point.settings,
        made_of=one.made_of,
        jobs=(*(one.record.jobs if one.record else ()), job),
    )
    try:
        write_record(one.folder, record)
    except OSError as error:
        end(process)
        raise PerfkitError(f"{one.folder.record} cannot be written: {error.strerror}.") from error
    return job


def copy_lines(process: subprocess.Popen[bytes], log: IO[bytes], tell: Tell) -> None:
    """What the run prints goes to its file, and line by line to who watches."""
    assert process.stdout is not None
    # The file is closed when the run has ended, even if somebody still holds the other end.
    with contextlib.suppress(ValueError), process.stdout as lines:
        for line in lines:
            log.write(line)
            log.flush()
            tell(line.decode(errors="replace").rstrip())


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask the run to stop, and make it when it does not."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
