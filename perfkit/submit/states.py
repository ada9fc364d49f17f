"""How a point under Slurm stands: its own run.json first, then what Slurm says of its last job."""

from collections.abc import Mapping
from typing import Any

from perfkit.study.states import State, last_words, limit_reached, local_state, run_failure, tail
from perfkit.study.store import PointFolder, Record, Submission, of_job, read_run
from perfkit.study.walltime import flush_s
from perfkit.submit.queue import Answer, SlurmJob, ask


def ask_of(records: list[Record | None]) -> Answer:
    """What Slurm says of the points' last jobs; of those that ran without it, nothing is asked."""
    return ask([one.last.job_id for one in records if one is not None and not one.last.local])


def current_state(folder: PointFolder, record: Record | None, answer: Answer) -> State:
    """A point's state from its folder and Slurm's answer."""
    if record is None:
        return State(name="new")
    job = record.last
    output = tail(folder.output(job.job_id))
    if job.local:
        return local_state(job, read_run(folder), output)
    slurm = answer.jobs.get(job.job_id)
    return state_of(job, read_run(folder), slurm, asked=answer.asked, output=output)


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
        return limit_reached(job)
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
