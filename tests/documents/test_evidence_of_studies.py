"""Run folders as users have them: points of studies, half of them failed or not run yet."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from document_parts import a_paper, timed_run
from measured_run import a_run, edited
from study_folder import a_half_done_study, a_point

from perfkit.documents.evidence import read_evidence
from perfkit.documents.write import write
from perfkit.report.given import names_of
from perfkit.schema import read_json


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return a_half_done_study(tmp_path / "scaling")


def test_points_go_by_their_own_names_and_what_is_missing_is_said(study: Path) -> None:
    evidence = read_evidence([study])
    assert [run.name for run in evidence.runs] == [
        "tp1-pp1-b2-r1",
        "tp2-pp1-b2-r1",
        "tp4-pp1-b2-r1",
    ]
    assert evidence.left_out == ("tp8-pp1-b2-r1 of scaling: submitted, no run folder yet",)


def test_numbers_of_a_half_done_study_lead_to_their_points(study: Path, tmp_path: Path) -> None:
    written = write(a_paper(tmp_path / "p.pdf", study))
    assert "tp4-pp1-b2-r1 is failed" in written.warnings
    cells = read_json(written.provenance)["tables"]["T2"]["cells"]
    walls = {cell["text"]: cell["runs"] for cell in cells if cell["column"].startswith("Wall")}
    assert walls == {"0.290": ["tp2-pp1-b2-r1"]}
    assert [row[0].text for row in written.content.tables["runs"].rows] == [
        "tp1-pp1-b2-r1",
        "tp2-pp1-b2-r1",
    ]


def test_folders_of_one_name_are_told_apart_by_the_folder_above(tmp_path: Path) -> None:
    for hour, name in enumerate(("one/a", "two/a", "two/b")):
        edited(timed_run(tmp_path / name), started_at=f"2026-11-23T0{hour}:00:00+00:00")
    evidence = read_evidence([tmp_path / "one", tmp_path / "two"])
    assert sorted(run.name for run in evidence.runs) == ["b", "one/a", "two/a"]
    assert names_of([]) == []


def test_a_folder_given_twice_is_one_run(tmp_path: Path) -> None:
    run = timed_run(tmp_path / "one")
    assert len(read_evidence([run, tmp_path, tmp_path / "." / "one"]).runs) == 1


def test_a_copy_of_a_run_does_not_count_twice(tmp_path: Path) -> None:
    copied = shutil.copytree(timed_run(tmp_path / "one"), tmp_path / "published")
    evidence = read_evidence([tmp_path / "one", copied])
    assert [run.name for run in evidence.runs] == ["one"]
    assert evidence.left_out == ("published: the same run as one",)


@pytest.mark.parametrize(
    "command",
    [
        ["paper", "-o", "out.pdf"],
        ["proposal", "--system", "leonardo", "-o", "out.pdf"],
        ["bundle", "-o", "out.pdf"],
    ],
)
@pytest.mark.parametrize("runs", ["nothing", "waiting", "failed"])
def test_every_command_renders_what_there_is_and_says_what_is_not(
    command: list[str], runs: str, tmp_path: Path
) -> None:
    (tmp_path / "nothing").mkdir()
    a_point(tmp_path / "waiting", "tp1-pp1-b1-r1")
    edited(a_run(tmp_path / "failed", gone=[0]), state="failed", failure=None)
    done = subprocess.run(
        [sys.executable, "-m", "perfkit", command[0], runs, *command[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "out.pdf\n"), done.stderr
    assert (tmp_path / "out.pdf").stat().st_size > 5000
    said = {
        "nothing": "left out: nothing has no run",
        "waiting": "left out: tp1-pp1-b1-r1 of waiting: submitted, no run folder yet",
        "failed": "warning: failed is failed",
    }
    assert said[runs] in done.stderr
    if command[0] != "bundle":
        assert "not measured: T2 Strong scaling" in done.stderr
