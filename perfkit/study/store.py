"""The folder of a study's results: one folder for each point, with what was asked and submitted.

runs/STUDY/POINT/
  point.json       settings, what they were made of and its hash, job ids with submit times
  job.sbatch       the script of the last job
  run/             the run folder that `perfkit run` wrote
  slurm-JOB.out    what the job printed; local-N.out without Slurm
  earlier/JOB/     script and run folder of a job before the last one

Without Slurm, `perfkit run STUDY` on one machine, a job is a process there and called local-N.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perfkit.errors import ConfigError
from perfkit.schema import RunFolder, read_json, write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One job of a point."""

    job_id: str
    submitted_at: str
    hash: str
    name: str
    """job name: a number that Slurm gave again later belongs to another name"""
    time_limit_s: int
    host: str | None = None
    """of a job without Slurm: where its process ran"""
    pid: int | None = None

    @property
    def local(self) -> bool:
        return self.host is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """point.json."""

    study: str
    kind: str | None = None
    """of the study, such as strong-scaling"""
    system: str
    settings: Mapping[str, Any]
    made_of: Mapping[str, Any]
    """of the last job"""
    jobs: tuple[Submission, ...]

    @property
    def last(self) -> Submission:
        return self.jobs[-1]


@dataclass(frozen=True, slots=True)
class PointFolder:
    """Paths inside one point's folder."""

    root: Path

    @property
    def record(self) -> Path:
        return self.root / "point.json"

    @property
    def script(self) -> Path:
        return self.root / "job.sbatch"

    @property
    def refused_script(self) -> Path:
        return self.root / "job.refused.sbatch"

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.root / "run")

    def output(self, job_id: str) -> Path:
        """local-N is a name by itself, a number is Slurm's."""
        return self.root / (f"slurm-{job_id}.out" if job_id.isdecimal() else f"{job_id}.out")

    def earlier(self, job_id: str) -> Path:
        return self.root / "earlier" / job_id


def read_record(folder: PointFolder) -> Record | None:
    """point.json, or None where nothing was submitted; ConfigError when it cannot be read."""
    if not folder.record.is_file():
        return None
    content = read_json(folder.record)
    try:
        jobs = tuple(Submission(**job) for job in content["jobs"])
        return Record(
            study=content["study"],
            kind=content.get("kind"),
            system=content["system"],
            settings=content["settings"],
            made_of=content["made_of"],
            jobs=jobs,
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{folder.record} is not what `perfkit submit` wrote: {error}") from error


def write_record(folder: PointFolder, record: Record) -> None:
    """point.json, whole or not at all."""
    write_json(
        folder.record,
        {
            "study": record.study,
            "kind": record.kind,
            "system": record.system,
            "point": folder.root.name,
            "hash": record.last.hash,
            "settings": dict(record.settings),
            "made_of": dict(record.made_of),
            "jobs": [asdict(job) for job in record.jobs],
        },
    )


def read_run(folder: PointFolder) -> dict[str, Any] | None:
    """run.json of the point's run folder; None while there is none, or while it is replaced."""
    try:
        return read_json(folder.run.run_json)
    except ConfigError:
        return None


def of_job(run: Mapping[str, Any], job: Submission) -> bool:
    """Whether a run.json was written by this job; a run that does not say is taken to be."""
    if job.local:
        supervisor = run.get("supervisor") or {}
        return (supervisor.get("host"), supervisor.get("pid")) == (job.host, job.pid)
    slurm = run.get("slurm") or {}
    return str(slurm.get("SLURM_JOB_ID", job.job_id)) == job.job_id


def set_aside(folder: PointFolder, job_id: str) -> None:
    """Move what an ended job left to earlier/JOB: nothing of it is lost, and run/ is free again."""
    target = folder.earlier(job_id)
    for path in (folder.script, folder.run.root):
        if path.exists():
            target.mkdir(parents=True, exist_ok=True)
            path.rename(target / path.name)


def put_back(folder: PointFolder, job_id: str) -> None:
    """Undo set_aside, when the job that was to follow was refused."""
    source = folder.earlier(job_id)
    if not source.exists():
        return
    for path in (folder.script, folder.run.root):
        if (source / path.name).exists():
            (source / path.name).rename(path)
    source.rmdir()
    if not any(source.parent.iterdir()):
        source.parent.rmdir()


@contextlib.contextmanager
def made_room(folder: PointFolder, record: Record | None) -> Iterator[None]:
    """run/ and job.sbatch of the job before stand aside, and come back when this one is refused."""
    if record is None and not folder.run.root.exists():
        yield
        return
    before = record.last.job_id if record else f"unrecorded-{now()}"
    set_aside(folder, before)
    try:
        yield
    except BaseException:
        put_back(folder, before)
        raise


def point_folders(root: Path, pattern: str = "*") -> list[PointFolder]:
    """Every point that was submitted below a study's folder, by name."""
    return [PointFolder(path.parent) for path in sorted(root.glob(f"{pattern}/point.json"))]


def now() -> str:
    """The time of day in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
