"""A study's folder as `perfkit run STUDY` leaves it half done, for tests."""

from pathlib import Path

from measured_run import a_run, edited

from perfkit.study.store import PointFolder, Record, Submission, write_record

JOB = Submission(
    job_id="3", submitted_at="2026-11-23T00:00:00+00:00", hash="a", name="study.x", time_limit_s=600
)


def a_point(study: Path, name: str) -> Path:
    """A point that was submitted; its run folder, which is not there yet."""
    point = PointFolder(study / name)
    record = Record(
        study=study.name, system="dev-cluster", settings={"tp": 1}, made_of={"tp": 1}, jobs=(JOB,)
    )
    point.root.mkdir(parents=True)
    write_record(point, record)
    return point.run.root


def a_half_done_study(folder: Path) -> Path:
    """Two points that ran, one that failed before its first pass, one that waits."""
    a_run(a_point(folder, "tp1-pp1-b2-r1"), tp=1)
    a_run(a_point(folder, "tp2-pp1-b2-r1"), tp=2)
    failed = a_run(a_point(folder, "tp4-pp1-b2-r1"), tp=4, gone=[0, 1, 2, 3])
    edited(failed, state="failed", failure={"rank": 0, "host": "node0", "reason": "exit code 7"})
    a_point(folder, "tp8-pp1-b2-r1")
    return folder
