"""How a point stands: its own run.json first, then what Slurm says of its last job.

new        nothing was submitted
waiting    the job is in the queue
running    the job runs, or still ends
finished   run.json says so
failed     the job has ended and the run has not finished
skipped    it cannot run, or does not fit
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perfkit.submit.queue import SlurmJob
from perfkit.submit.store import Submission, of_job
from perfkit.submit.walltime import flush_s, format_walltime


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A point's state with what it rests on."""

    name: str
    run: str | None = None
    """run.json's own word"""
    cause: str | None = None
    """of a failure"""


def state_of(
    job: Submission | None,
    run: Mapping[str, Any] | None,
    slurm: SlurmJob | None,
    *,
    asked: bool,
    output: str = "",
) -> State:
    """The state of a point whose last job is `job`.

    `asked` is False when Slurm could not be asked; `output` is the end of what the job printed.
    """
    if job is None:
        return State(name="new")
    run = run if run is not None and of_job(run, job) else None
    word = str(run["state"]) if run else None
    slurm = slurm if slurm is not None and slurm.name in ("", job.name) else None
    if word == "finished":
        return State(name="finished", run=word)
    if slurm is not None and (slurm.waiting or slurm.active):
        return State(name="waiting" if slurm.waiting else "running", run=word)
    if not asked and word in (None, "running", "preparing"):
        return State(name="waiting" if word is None else "running", run=word)
    return State(name="failed", run=word, cause=cause(job, run, slurm, output))


def cause(
    job: Submission, run: Mapping[str, Any] | None, slurm: SlurmJob | None, output: str
) -> str:
    """Why a job failed: its time limit, what Slurm did to it, its own failure, its last words."""
    said = run_failure(run) or last_words(output)
    if reached_limit(job, run, slurm):
        limit = format_walltime(job.time_limit_s)
        return f"reached its time limit of {limit}: give [job] time_limit more"
    if slurm is None:
        return said or "not in the queue, unknown to accounting, and it left no run.json"
    if slurm.state in ("FAILED", "COMPLETED"):
        # Slurm says so of every job whose script ended by itself: no cause.
        return said or f"ended with exit code {slurm.exit_code} and left no finished run"
    return f"Slurm: {slurm.state}" + (f"; {said}" if said else "")


def reached_limit(job: Submission, run: Mapping[str, Any] | None, slurm: SlurmJob | None) -> bool:
    """True at the limit, or when the tasks were told before it: Slurm is up to 60 s early."""
    if slurm is None or slurm.state == "TIMEOUT":
        return slurm is not None
    early_s = (flush_s(job.time_limit_s) or 0) + 60
    told = (run or {}).get("state") == "stopped" and slurm.state != "CANCELLED"
    return told and (slurm.elapsed_s or 0) >= job.time_limit_s - early_s


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
