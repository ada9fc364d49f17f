"""Submits what a plan asks for; each job is recorded before the next one is submitted."""

from collections.abc import Iterator, Sequence

from perfkit.errors import PerfkitError
from perfkit.study.store import (
    Record,
    Submission,
    made_room,
    now,
    write_record,
)
from perfkit.submit.plan import Planned
from perfkit.submit.queue import Refused, check_sbatch, sbatch
from perfkit.submit.script import Job, job_name, job_script, read_template


def submit_all(jobs: Sequence[tuple[Planned, Job]]) -> Iterator[tuple[Planned, str]]:
    """Submit in order and give each job's id as soon as it is recorded.

    The first script that sbatch refuses ends it: what was submitted stays, and the point that was
    refused stays as it was.
    """
    check_sbatch()
    template = read_template()
    for one, job in jobs:
        yield one, _submit(one, job, template)


def _submit(one: Planned, job: Job, template: str) -> str:
    text = job_script(job, template)
    folder = one.folder
    folder.root.mkdir(parents=True, exist_ok=True)
    with made_room(folder, one.record):
        folder.script.write_text(text, encoding="utf-8")
        try:
            job_id = sbatch(folder.script)
        except Refused as error:
            folder.script.rename(folder.refused_script)
            raise Refused(
                f"sbatch refused point {one.point.name}: {error}\nIts script is kept in "
                f"{folder.refused_script}. What was submitted before stays recorded.",
            ) from error
    folder.refused_script.unlink(missing_ok=True)
    _record(one, job, job_id)
    return job_id


def _record(one: Planned, job: Job, job_id: str) -> None:
    submission = Submission(
        job_id=job_id,
        submitted_at=now(),
        hash=job.hash,
        name=job_name(job.study, job.point.name),
        time_limit_s=job.time_limit_s,
    )
    record = Record(
        study=job.study,
        kind=job.kind,
        system=job.system.name,
        settings=job.point.settings,
        made_of=one.made_of,
        jobs=(*(one.record.jobs if one.record else ()), submission),
    )
    try:
        write_record(one.folder, record)
    except OSError as error:
        raise PerfkitError(
            f"job {job_id} was submitted, but {one.folder.record} cannot be written: "
            f"{error.strerror}. End it with: scancel {job_id}",
        ) from error
