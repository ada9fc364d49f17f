"""How a point stands, from its own run.json; what Slurm adds is in submit/states.py.

new        nothing was started
waiting    the job is in the queue
running    the job runs, or still ends
finished   run.json says so
failed     the job has ended and the run has not finished
skipped    it cannot run, or does not fit
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from perfkit.study.store import Submission, of_job
from perfkit.study.walltime import format_walltime

# The end of what a job printed, where it says why it failed.
OUTPUT_BYTES = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A point's state with what it rests on."""

    name: str
    run: str | None = None
    """run.json's own word"""
    cause: str | None = None
    """of a failure"""


def local_state(job: Submission, run: Mapping[str, Any] | None, output: str = "") -> State:
    """The state of a point whose last job is a process of `perfkit run STUDY`.

    On another machine nobody can see whether the process lives, so run.json is taken at its word.
    """
    run = run if run is not None and of_job(run, job) else None
    word = str(run["state"]) if run else None
    if word == "finished":
        return State(name="finished", run=word)
    here = job.host == socket.gethostname()
    if is_perfkit(job.pid) if here else word in (None, "preparing", "running"):
        return State(name="running", run=word)
    return State(name="failed", run=word, cause=local_cause(job, run, output))


def local_cause(job: Submission, run: Mapping[str, Any] | None, output: str) -> str:
    """Why a run on this machine failed: its time limit, its own failure, its last words."""
    if limit_reached(job) in output:
        return limit_reached(job)
    said = run_failure(run) or last_words(output)
    return said or "its process was killed, and it left no run.json"


def is_perfkit(pid: int | None) -> bool:
    """Whether this process of this machine lives and is perfkit's: numbers are given again."""
    try:
        return b"perfkit" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def limit_reached(job: Submission) -> str:
    limit = format_walltime(job.time_limit_s)
    return f"reached its time limit of {limit}: give [job] time_limit more"


def run_s(run: Mapping[str, Any] | None) -> float | None:
    """Seconds from a run's start to its end by run.json; None where it has no end."""
    if run is None or not run.get("started_at") or not run.get("ended_at"):
        return None
    start, end = (datetime.fromisoformat(run[key]) for key in ("started_at", "ended_at"))
    return (end - start).total_seconds()


def run_failure(run: Mapping[str, Any] | None) -> str | None:
    """run.json's failure as one line: rank, host and reason."""
    failure = (run or {}).get("failure")
    if not failure:
        return None
    reason = " ".join(str(failure.get("reason", "")).split())
    if "rank" not in failure:
        return reason
    return f"rank {failure['rank']} on {failure.get('host')}: {reason}"


def last_words(output: str) -> str | None:
    """The first of perfkit's own messages in what a job printed, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("perfkit: ")]
    if ours:
        return ours[0].removeprefix("perfkit: ")
    return lines[-1] if lines else None


def tail(path: Path) -> str:
    """The end of a text file; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - OUTPUT_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
