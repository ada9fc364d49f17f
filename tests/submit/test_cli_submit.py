"""`perfkit submit` and `perfkit status` as a user types them, where there is no cluster."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_model import STUDY, save_config

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study of a model whose weights are here, and a PATH without Slurm."""
    save_config(tmp_path / "model")
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "bin").mkdir()
    return tmp_path


def perfkit(folder: Path, *arguments: str, **environment: str) -> Done:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
    return subprocess.run(
        [sys.executable, "-m", "perfkit", *arguments],
        cwd=folder,
        env={**kept, "PATH": str(folder / "bin"), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rows(done: Done) -> dict[str, dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return {row["point"]: row for row in json.loads(done.stdout)["rows"]}


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_dry_run_prints_every_script_and_writes_nothing(folder: Path) -> None:
    before = everything(folder)
    done = perfkit(folder, "submit", "study.toml", "--system", "dev-cluster", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("#!/bin/bash") == 2
    assert f"# {folder}/runs/study/tp1-pp2-r1/job.sbatch\n#!/bin/bash\n" in done.stdout
    assert "Study study on dev-cluster" in done.stderr
    assert done.stderr.splitlines()[-1] == ("Next: perfkit submit study.toml --system dev-cluster")
    assert everything(folder) == before


def test_a_dry_run_in_json_has_each_script_with_its_point(folder: Path) -> None:
    options = ("--system", "dev-cluster", "--dry-run", "--format", "json")
    found = rows(perfkit(folder, "submit", "study.toml", *options))
    assert list(found) == ["tp1-pp1-r1", "tp1-pp2-r1", "tp8-pp1-r1", "tp8-pp2-r1"]
    assert "#SBATCH --nodes=2" in found["tp1-pp2-r1"]["script"]
    assert found["tp8-pp1-r1"]["script"] is None
    assert found["tp8-pp1-r1"]["state"] == "skipped"
    assert "tp=8 is more than the 3 kv heads" in found["tp8-pp1-r1"]["why"]


def test_reasons_stand_below_the_table_once_each(folder: Path) -> None:
    done = perfkit(folder, "submit", "study.toml", "--system", "dev-cluster", "--dry-run")
    assert done.stderr.count("tp=8 is more than the 3 kv heads") == 1
    assert done.stderr.count("[1]") == 3


def test_without_sbatch_it_says_what_to_do_and_writes_nothing(folder: Path) -> None:
    before = everything(folder)
    done = perfkit(folder, "submit", "study.toml", "--system", "dev-cluster")
    assert done.returncode == 4
    assert "sbatch is not on PATH" in done.stderr
    assert "--dry-run" in done.stderr
    assert everything(folder) == before


def test_missing_weights_are_told_before_any_job_waits_for_them(folder: Path) -> None:
    (folder / "model" / "model.safetensors").unlink()
    done = perfkit(folder, "submit", "study.toml", "--system", "dev-cluster")
    assert done.returncode == 2
    assert "has no *.safetensors" in done.stderr
    assert 'load = "dummy"' in done.stderr


def test_a_project_is_asked_for_where_the_site_wants_one(folder: Path) -> None:
    command = ("submit", "study.toml", "--system", "leonardo")
    done = perfkit(folder, *command)
    assert done.returncode == 2
    assert "Give --account PROJECT" in done.stderr
    with_one = perfkit(folder, *command, PERFKIT_SUBMIT_ACCOUNT="EUHPC_1")
    assert with_one.returncode == 4
    scripts = perfkit(folder, *command, "--dry-run", PERFKIT_SUBMIT_ACCOUNT="EUHPC_1").stdout
    assert scripts.count("#SBATCH --account=EUHPC_1\n") == 2


def test_values_that_nobody_checked_are_warned_of(folder: Path) -> None:
    done = perfkit(folder, "submit", "study.toml", "--system", "leonardo", "--dry-run")
    assert "[slurm] partition = boost_usr_prod" in done.stderr
    options = ("--dry-run", "--partition", "mine")
    ours = perfkit(folder, "submit", "study.toml", "--system", "leonardo", *options)
    assert "partition = " not in ours.stderr
    assert "#SBATCH --partition=mine\n" in ours.stdout


def test_a_limit_beyond_the_sites_is_refused(folder: Path) -> None:
    text = STUDY.replace("00:10:00", "02:00:00")
    (folder / "study.toml").write_text(text)
    done = perfkit(folder, "submit", "study.toml", "--system", "dev-cluster", "--dry-run")
    assert done.returncode == 2
    assert "02:00:00 of study.toml is more than the 01:00:00" in done.stderr


def test_an_unknown_collector_is_told_before_any_job_waits_for_it(folder: Path) -> None:
    text = STUDY.replace("[run]", '[run]\ncollect = "nsis"')
    (folder / "study.toml").write_text(text)
    done = perfkit(folder, "submit", "study.toml", "--system", "dev-cluster", "--dry-run")
    assert done.returncode == 2
    assert "nsis" in done.stderr


def test_an_image_that_is_not_there_is_told(folder: Path) -> None:
    options = ("--system", "dev-cluster", "--container", "none.sif")
    done = perfkit(folder, "submit", "study.toml", *options)
    assert done.returncode == 2
    assert "none.sif: there is no such image" in done.stderr


def test_a_container_sees_results_model_and_what_the_user_binds(folder: Path) -> None:
    options = ("--container", "i.sif", "--bind", "/opt/nsys", "--only", "tp1-pp1-*", "--dry-run")
    done = perfkit(folder, "submit", "study.toml", "--system", "leonardo", *options)
    binds = [line.split()[1] for line in done.stdout.splitlines() if "--bind" in line]
    assert binds == [f"{folder}/runs/study", f"{folder}/model", "/opt/nsys"]
    assert f"{folder}/i.sif" in done.stdout


def test_only_narrows_the_points(folder: Path) -> None:
    command = ("submit", "study.toml", "--system", "dev-cluster", "--dry-run", "--only")
    assert perfkit(folder, *command, "*-pp2-*").stdout.count("#!/bin/bash") == 1
    done = perfkit(folder, *command, "tp7-*")
    assert done.returncode == 2
    assert "matches no point. Points: tp1-pp1-r1" in done.stderr


def test_the_cost_is_told_in_the_sites_unit(folder: Path) -> None:
    """Ten minutes each: tp1-pp1 is a quarter of a node of 32 core-hours, tp1-pp2 two quarters."""
    done = perfkit(folder, "submit", "study.toml", "--system", "leonardo", "--dry-run")
    assert "2 job(s), at most 0.500 node-hours = 4.00 local core-hours" in done.stderr


def test_status_without_a_study_says_so(folder: Path) -> None:
    done = perfkit(folder, "status")
    assert done.returncode == 2
    assert "no study was submitted or run from here" in done.stderr
    named = perfkit(folder, "status", "study")
    assert named.returncode == 2
    assert "runs/study holds no point.json" in named.stderr
