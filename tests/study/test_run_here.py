"""`perfkit run STUDY` on this machine: real runs of a tiny model, their failures and their ends."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import save_tiny

from perfkit.cli.run_study import setting_here
from perfkit.schema import read_json
from perfkit.study.file import load_study
from perfkit.submit.plan import Wishes, make_plan
from perfkit.submit.run_here import Outcome, locked, run_points

Done = subprocess.CompletedProcess[str]

STUDY = """
kind = "batch"
model = "llama-untied"

[job]
time_limit = "00:05:00"

[run]
new_tokens = {new_tokens}
repeats = 1
collect = "none"
prompt_tokens = 4

[[points]]
batch = 1
prompts = "long.txt"

[[points]]
batch = 2
prompts = "short.jsonl"
"""
MENDED = '{"text": "one prompt"}'
FIRST, SECOND = "tp1-pp1-b1-long-r1", "tp1-pp1-b2-short-r1"


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
    return subprocess.Popen(
        [sys.executable, "-m", "perfkit", *arguments],
        cwd=folder,
        env=kept,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def perfkit(folder: Path, *arguments: str) -> Done:
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=300)
    return Done(process.args, process.returncode, out, err)


def row_of(text: str, point: str) -> list[str]:
    """The words of a point's row in the plan."""
    return next(line.split() for line in text.splitlines() if line.strip().startswith(point))


def states(folder: Path) -> dict[str, Any]:
    done = perfkit(folder, "status", "study", "--format", "json")
    return {row["point"]: row for row in json.loads(done.stdout)["rows"]}


def save_study(folder: Path, *, new_tokens: int = 4, short: str = "no JSON") -> None:
    (folder / "long.txt").write_text("one two three four five six seven eight nine ten\n")
    (folder / "short.jsonl").write_text(f"{short}\n")
    (folder / "study.toml").write_text(STUDY.format(new_tokens=new_tokens))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    save_tiny("llama-untied", folder)
    return folder


class Ran:
    """A study with one good and one bad point, run; and its state before the bad one is mended."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.results = folder, folder / "runs" / "study"
        save_study(folder)
        before = sorted(folder.rglob("*"))
        self.dry = perfkit(folder, "run", "study.toml", "--dry-run")
        self.written_by_dry = sorted(folder.rglob("*")) != before
        self.done = perfkit(folder, "run", "study.toml")
        self.states = states(folder)

    def run(self, point: str) -> dict[str, Any]:
        return read_json(self.results / point / "run" / "run.json")


@pytest.fixture(scope="module")
def ran(folder: Path) -> Ran:
    return Ran(folder)


@pytest.mark.slow
def test_a_dry_run_shows_the_plan_and_writes_nothing(ran: Ran) -> None:
    assert ran.dry.returncode == 0, ran.dry.stderr
    assert "Study study, batch on this-machine" in ran.dry.stdout
    assert row_of(ran.dry.stdout, FIRST)[-4:] == ["new", "to", "run", "-"]
    assert "This machine: " in ran.dry.stderr
    assert "2 point(s) to run, one after another." in ran.dry.stderr
    assert ran.dry.stderr.splitlines()[-1] == "Next: perfkit run study.toml"
    assert not ran.written_by_dry


@pytest.mark.slow
def test_the_plan_comes_first_and_a_failed_point_does_not_end_the_study(ran: Ran) -> None:
    assert ran.done.returncode == 1
    told = ran.done.stderr
    assert told.index("to run") < told.index(f"point 1 of 2: {FIRST}")
    assert told.index("  finished after ") < told.index(f"point 2 of 2: {SECOND}")
    assert "new tokens/s" in told
    assert "short.jsonl line 1 is not JSON" in told
    assert f"perfkit: failed: {SECOND}." in told
    assert told.splitlines()[-1].endswith("Next: perfkit run study.toml")
    assert row_of(ran.done.stdout, FIRST)[-4:] == ["finished", "run", "local-1", "-"]
    assert row_of(ran.done.stdout, SECOND)[-4:] == ["failed", "run", "local-1", "[1]"]


@pytest.mark.slow
def test_the_store_is_that_of_submit(ran: Ran) -> None:
    assert {name: row["state"] for name, row in ran.states.items()} == {
        FIRST: "finished",
        SECOND: "failed",
    }
    assert "short.jsonl line 1 is not JSON" in ran.states[SECOND]["cause"]
    record = read_json(ran.results / FIRST / "point.json")
    assert (record["study"], record["kind"]) == ("study", "batch")
    assert record["settings"]["batch"] == 1
    assert [job["job_id"] for job in record["jobs"]] == ["local-1"]
    run = ran.run(FIRST)
    assert (run["state"], run["config"]["batch"]) == ("finished", 1)
    output = (ran.results / FIRST / "local-1.out").read_text()
    assert output.startswith("perfkit run ")
    assert "--new-tokens 4" in output


@pytest.mark.slow
def test_what_is_changed_or_failed_is_known_and_only_that_is_run(ran: Ran) -> None:
    """The bad point is mended; then a setting changes, which makes both stale."""
    first = ran.run(FIRST)["started_at"]
    save_study(ran.folder, short=MENDED)
    mended = perfkit(ran.folder, "run", "study.toml")
    assert mended.returncode == 0, mended.stderr
    assert "point 1 of 1" in mended.stderr
    assert ran.run(FIRST)["started_at"] == first
    assert row_of(mended.stdout, FIRST)[-3:] == ["finished", "-", "local-1"]
    assert row_of(mended.stdout, SECOND)[-3:] == ["finished", "run", "local-2"]
    assert (ran.results / SECOND / "local-1.out").is_file()
    assert (ran.results / SECOND / "local-2.out").is_file()

    save_study(ran.folder, new_tokens=5, short=MENDED)
    told = perfkit(ran.folder, "run", "study.toml")
    assert told.returncode == 0
    assert "Nothing to run." in told.stderr
    assert "[1] new_tokens was 4, is 5" in told.stderr
    again = perfkit(ran.folder, "run", "study.toml", "--stale", "--only", "*-b1-*", "--dry-run")
    assert row_of(again.stdout, FIRST)[-5:-2] == ["stale", "to", "run"]
    assert SECOND not in again.stdout


@pytest.fixture
def fresh(folder: Path, tmp_path: Path) -> Path:
    """A study of which nothing has been run."""
    (tmp_path / "llama-untied").symlink_to(folder / "llama-untied")
    save_study(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_ctrl_c_ends_the_point_in_order_and_then_the_study(fresh: Path) -> None:
    process = start(fresh, "run", "study.toml")
    assert process.stderr is not None
    told = ""
    while not (fresh / "runs/study" / FIRST / "run/ranks/0000/status.json").is_file():
        assert process.poll() is None, told
        if "point 1 of 2" not in told:
            told += process.stderr.readline()
    running = states(fresh)[FIRST]["state"]
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=60)
    assert running == "running"
    assert process.returncode == 130
    assert "stopped, 1 point(s) were not run. The same command goes on." in rest
    assert row_of(out, SECOND)[-5:-2] == ["new", "not", "run"]
    assert "stopped by SIGINT" in states(fresh)[FIRST]["cause"]
    assert read_json(fresh / "runs/study" / FIRST / "run/run.json")["state"] == "stopped"


class Quiet:
    """Watches and says nothing."""

    def begin(self, point: str, number: int, count: int) -> None: ...
    def line(self, text: str) -> None: ...
    def end(self, outcome: Outcome) -> None: ...


@pytest.mark.slow
def test_a_point_that_takes_too_long_is_ended_at_the_studys_limit(fresh: Path) -> None:
    study = replace(load_study(str(fresh / "study.toml")), time_limit_s=2)
    setting = setting_here(study, Wishes(root=fresh / "results", only="*-b1-*"), None)
    plan, _problems = make_plan(setting)
    ended = run_points(setting, plan, Quiet())
    (outcome,) = ended.outcomes.values()
    assert outcome.state.name == "failed"
    assert outcome.state.cause == ("reached its time limit of 00:00:02: give [job] time_limit more")
    assert outcome.took_s < 60


def test_two_at_once_are_refused(fresh: Path) -> None:
    with locked(fresh / "runs" / "study"):
        done = perfkit(fresh, "run", "study.toml")
    assert done.returncode == 2
    assert "another perfkit runs points of" in done.stderr


def test_inside_a_job_of_several_nodes_it_is_refused(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perfkit.errors import ConfigError
    from perfkit.submit.here import check_alone

    with pytest.raises(ConfigError, match=r"this job has 2 node\(s\)"):
        check_alone({"SLURM_JOB_NUM_NODES": "2"})
    check_alone({"SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "4"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["study.toml", "--tp", "2"], "--tp is an option of one run. In a study it stands in"),
        (["llama-untied", "--dry-run"], "--dry-run belongs to a study"),
        (["none.toml"], "no study 'none.toml'"),
        (["study.toml", "--only", "tp9*"], "matches no point. Points: tp1-pp1-b1-long-r1"),
        (["strong-scalling"], "no model 'strong-scalling' on this machine"),
    ],
)
def test_what_cannot_be_is_refused(fresh: Path, arguments: list[str], said: str) -> None:
    done = perfkit(fresh, "run", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_missing_weights_are_told_before_anything_runs(fresh: Path) -> None:
    (fresh / "study.toml").write_text('model = "llama-3.1-8b"\n[job]\ntime_limit = "00:05:00"\n')
    done = perfkit(fresh, "run", "study.toml")
    assert done.returncode == 2
    assert "the weights of llama-3.1-8b are not on this machine" in done.stderr
    assert not (fresh / "runs").exists()


def test_a_profiler_that_is_not_here_is_left_out_of_an_overhead_study(fresh: Path) -> None:
    collectors = fresh / "collectors"
    collectors.mkdir()
    (collectors / "nowhere.toml").write_text(
        'summary = "x"\nscope = "rank"\nabsence = "x"\n[program]\nnames = ["no-such-program"]\n'
    )
    (fresh / "study.toml").write_text(
        'model = "llama-untied"\nkind = "profiler-overhead"\n[job]\ntime_limit = "00:05:00"\n'
        '[run]\ncollectors_dir = "collectors"\n[axes]\ncollect = ["none", "nowhere"]\n'
    )
    done = perfkit(fresh, "run", "study.toml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert row_of(done.stdout, "tp1-pp1-none")[-5:-1] == ["new", "to", "run", "-"]
    assert row_of(done.stdout, "tp1-pp1-nowhere")[-4:] == ["skipped", "-", "-", "[1]"]
    assert "[1] nowhere: no-such-program was not found on this node" in done.stdout
