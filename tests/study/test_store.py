"""A point's folder: what is recorded, and what a new job leaves of the one before."""

from dataclasses import replace
from pathlib import Path

import pytest

from perfkit.errors import ConfigError
from perfkit.schema import write_json
from perfkit.study.store import (
    PointFolder,
    Record,
    Submission,
    point_folders,
    put_back,
    read_record,
    set_aside,
    write_record,
)

FIRST = Submission(
    job_id="3",
    submitted_at="2026-11-23T00:00:00+00:00",
    hash="aaaaaaaaaaaa",
    name="study.tp1-pp1-r1",
    time_limit_s=600,
)
RECORD = Record(
    study="study", system="dev-cluster", settings={"tp": 1}, made_of={"tp": 1}, jobs=(FIRST,)
)


@pytest.fixture
def folder(tmp_path: Path) -> PointFolder:
    """A point after its first job."""
    point = PointFolder(tmp_path / "tp1-pp1-r1")
    write_json(point.run.run_json, {"state": "finished"})
    point.script.write_text("the first script\n")
    write_record(point, RECORD)
    return point


def test_a_record_comes_back_as_it_was(folder: PointFolder) -> None:
    assert read_record(folder) == RECORD
    second = replace(FIRST, job_id="4", hash="bbbbbbbbbbbb")
    write_record(folder, replace(RECORD, jobs=(FIRST, second)))
    found = read_record(folder)
    assert found is not None
    assert found.last == second


def test_a_record_of_something_else_is_refused(folder: PointFolder) -> None:
    write_json(folder.record, {"study": "study"})
    with pytest.raises(ConfigError, match="is not what `perfkit submit` wrote"):
        read_record(folder)


def test_the_job_before_is_kept_and_can_come_back(folder: PointFolder) -> None:
    set_aside(folder, "3")
    assert not folder.run.root.exists()
    assert (folder.earlier("3") / "job.sbatch").read_text() == "the first script\n"
    assert (folder.earlier("3") / "run" / "run.json").is_file()
    put_back(folder, "3")
    assert folder.run.run_json.is_file()
    assert folder.script.read_text() == "the first script\n"
    assert not (folder.root / "earlier").exists()


def test_a_study_lists_the_points_that_were_submitted(folder: PointFolder) -> None:
    (folder.root.parent / "not-a-point").mkdir()
    assert point_folders(folder.root.parent) == [folder]
