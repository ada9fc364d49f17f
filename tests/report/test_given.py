"""Which runs a report is of: runs, folders of them, studies; what is missing is named."""

from pathlib import Path

import pytest
from measured_run import a_run
from study_folder import a_half_done_study, a_point
from typer.testing import CliRunner

from perfkit.cli.main import app
from perfkit.errors import ConfigError
from perfkit.report.given import given, names_of
from perfkit.report.side_by_side import find_all

WAITS = "tp8-pp1-b2-r1 of scaling: submitted, no run folder yet"


def test_a_study_stands_for_its_points(tmp_path: Path) -> None:
    what = given([a_half_done_study(tmp_path / "scaling")])
    assert names_of(what.runs) == ["tp1-pp1-b2-r1", "tp2-pp1-b2-r1", "tp4-pp1-b2-r1"]
    assert what.missing == (WAITS,)
    assert what.beside == ()


def test_a_folder_stands_for_its_runs_unless_runs_stand_beside_it(tmp_path: Path) -> None:
    inner, alone = a_run(tmp_path / "some" / "a"), a_run(tmp_path / "b")
    assert given([tmp_path / "some"]).runs == (inner,)
    beside = given([tmp_path / "some", alone])
    assert beside.runs == (alone,)
    assert beside.beside == (f"{tmp_path / 'some'} holds run folders and is none: left out",)


def test_a_run_given_twice_is_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    assert given([run, Path("a"), tmp_path / "." / "a"]).runs == (run,)


def test_a_folder_without_a_run_is_missing_and_the_rest_stays(tmp_path: Path) -> None:
    run, empty = a_run(tmp_path / "a"), tmp_path / "empty"
    empty.mkdir()
    what = given([run, empty])
    assert what.runs == (run,)
    assert what.missing == (
        f"{empty} has no run.json: it is no run folder, or the run never started",
    )
    with pytest.raises(ConfigError, match=r"empty has no run\.json.*perfkit run"):
        given([empty])
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        given([run, tmp_path / "nowhere"])


def test_names_are_as_long_as_it_takes_to_tell_them_apart() -> None:
    assert names_of([Path("/r/one/a"), Path("/r/two/a"), Path("/r/two/b")]) == [
        "one/a",
        "two/a",
        "b",
    ]
    assert names_of([]) == []


def test_a_run_that_cannot_be_read_is_named_and_the_others_stay(tmp_path: Path) -> None:
    whole, torn = a_run(tmp_path / "whole"), a_run(tmp_path / "torn")
    (torn / "run.json").write_text('{"state": ')
    found, unread = find_all([whole, torn])
    assert [one.name for one in found] == ["whole"]
    (line,) = unread
    assert line.startswith("torn: ")
    assert "run.json" in line


@pytest.mark.parametrize("suffix", ["html", "md", "svg", "png"])
def test_every_form_of_a_half_done_study_says_what_is_missing(tmp_path: Path, suffix: str) -> None:
    study, out = a_half_done_study(tmp_path / "scaling"), tmp_path / f"out.{suffix}"
    answer = CliRunner().invoke(app, ["report", str(study), "-o", str(out)])
    assert answer.exit_code == 0, answer.exception
    assert f"missing: {WAITS}\n" in answer.stderr
    assert out.stat().st_size > 500
    if suffix == "md":
        rows = [line for line in out.read_text().splitlines() if line.startswith("| tp")]
        assert [row.split(" | ")[0] for row in rows] == [
            "| tp1-pp1-b2-r1",
            "| tp2-pp1-b2-r1",
            "| tp4-pp1-b2-r1 (failed)",
        ]


def test_figures_of_a_half_done_study_go_by_the_points_names(tmp_path: Path) -> None:
    study, out = a_half_done_study(tmp_path / "scaling"), tmp_path / "figures"
    words = ["figures", str(study), "-o", str(out), "--kinds", "svg"]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.exception
    assert f"missing: {WAITS}\n" in answer.stderr
    names = {path.name for path in out.iterdir()}
    assert {"tp1-pp1-b2-r1-speed-tpot.svg", "tp2-pp1-b2-r1-memory.svg", "tpot-1.svg"} <= names


def test_of_a_study_of_which_nothing_ran_a_table_says_why_there_is_none(tmp_path: Path) -> None:
    a_point(tmp_path / "waiting", "tp1-pp1-b1-r1")
    answer = CliRunner().invoke(app, ["report", str(tmp_path / "waiting"), "--format", "md"])
    assert "tp1-pp1-b1-r1 of waiting: submitted, no run folder yet" in str(answer.exception)
