"""Slurm's commands: sbatch to submit, squeue and sacct to ask. The only module that calls them."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perfkit.errors import PerfkitError, ToolMissing

ANSWER_S = 60
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "RESIZING")
ACTIVE = ("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED")
# %T state, %r why it waits, %M time used; the name comes last because it may hold anything.
SQUEUE = "%i|%T|%r|%M|%j"
SACCT = "JobIDRaw,State,ExitCode,Elapsed,JobName"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmJob:
    """What Slurm says of a job now."""

    job_id: str
    state: str
    """one word: PENDING, RUNNING, COMPLETED, TIMEOUT, OUT_OF_MEMORY ..."""
    reason: str | None = None
    """why it waits"""
    elapsed_s: int | None = None
    exit_code: str | None = None
    """as sacct has it: code:signal"""
    name: str = ""

    @property
    def waiting(self) -> bool:
        return self.state in WAITING

    @property
    def active(self) -> bool:
        return self.state in ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What Slurm says of some jobs; one that it does not know is left out."""

    jobs: Mapping[str, SlurmJob]
    asked: bool
    """False when the queue could not be asked at all"""
    problems: tuple[str, ...] = ()


class Refused(PerfkitError):
    """sbatch did not take a script."""


def check_sbatch() -> None:
    """ToolMissing, with what to do, where there is no sbatch."""
    if shutil.which("sbatch") is None:
        raise ToolMissing(
            "sbatch is not on PATH. Submit from a login node of the cluster (perhaps after "
            "`module load slurm`), or see the scripts here with --dry-run.",
        )


def sbatch(script: Path) -> str:
    """Submit a script; the job id. Refused carries what sbatch said."""
    done = _run(["sbatch", "--parsable", str(script)])
    if done.returncode != 0:
        raise Refused(_said(done))
    # JOB or JOB;CLUSTER
    job_id = done.stdout.strip().splitlines()[-1].partition(";")[0]
    if not job_id.isdecimal():
        raise Refused(f"its answer holds no job id: {done.stdout!r}")
    return job_id


def ask(job_ids: Sequence[str]) -> Answer:
    """What Slurm says of each job that it knows.

    squeue first: for some seconds sacct still calls a running job pending.
    """
    if not job_ids:
        return Answer(jobs={}, asked=True)
    queue, problem = _squeue(job_ids)
    ended = [job for job in job_ids if job not in queue]
    past, further = _sacct(ended) if ended else ({}, None)
    problems = tuple(text for text in (problem, further) if text)
    return Answer(jobs={**past, **queue}, asked=problem is None, problems=problems)


def _squeue(job_ids: Sequence[str]) -> tuple[dict[str, SlurmJob], str | None]:
    """(jobs in the queue, why it could not be asked)."""
    if shutil.which("squeue") is None:
        return {}, "squeue is not on PATH: what waits and what runs is not known"
    done = _run(["squeue", "-h", "-o", SQUEUE, "-j", ",".join(job_ids)])
    # A single job that has left the queue is an error for squeue; among others it is left out.
    if done.returncode != 0 and "Invalid job id" not in done.stderr:
        return {}, f"squeue fails: {_said(done)}"
    rows = (line.split("|", 4) for line in done.stdout.splitlines())
    found = [
        SlurmJob(
            job_id=row[0],
            state=row[1],
            reason=None if row[2] in ("None", "") else row[2],
            elapsed_s=seconds(row[3]),
            name=row[4],
        )
        for row in rows
        if len(row) == 5
    ]
    # A job that squeue still shows after its end is left to sacct, which has its exit code.
    return {job.job_id: job for job in found if job.waiting or job.active}, None


def _sacct(job_ids: Sequence[str]) -> tuple[dict[str, SlurmJob], str | None]:
    """(jobs that accounting knows, why it could not be asked)."""
    if shutil.which("sacct") is None:
        return {}, "sacct is not on PATH: how jobs ended is known from their run folders only"
    done = _run(["sacct", "-n", "-P", "-X", "-o", SACCT, "-j", ",".join(job_ids)])
    if done.returncode != 0:
        return {}, f"sacct fails: {_said(done)}"
    rows = (line.split("|", 4) for line in done.stdout.splitlines())
    found = [
        SlurmJob(
            job_id=row[0],
            # CANCELLED by 1000
            state=row[1].partition(" ")[0],
            elapsed_s=seconds(row[3]),
            exit_code=row[2],
            name=row[4],
        )
        for row in rows
        if len(row) == 5
    ]
    return {job.job_id: job for job in found}, None


def seconds(text: str) -> int | None:
    """[D-]HH:MM:SS or MM:SS as squeue and sacct print it; None for anything else."""
    matched = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)(?:\.\d+)?", text.strip())
    if matched is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in matched.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """The command to its end; one that hangs is an error that names it."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PerfkitError(f"{command[0]} did not answer within {ANSWER_S} s.") from error


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """The last lines of stderr."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return "; ".join(lines[-3:]) or f"exit code {done.returncode}"
