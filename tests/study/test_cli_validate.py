"""`perfkit init` and `perfkit validate` as a user types them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_model import STUDY, save_config

from perfkit.study.starter import KINDS

Done = subprocess.CompletedProcess[str]

WRONG = """
modle = "x"
kind = "strong"
[job]
time_limit = 5
[run]
bathc = 4
dtype = "bf16"
collect = "nsis"
batch = 2
batch_per_gpu = 2
[axes]
tp = [1, 1]
[[points]]
tp = 1
quantise = "int8"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_config(tmp_path / "model")
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path


def perfkit(folder: Path, *arguments: str) -> Done:
    return subprocess.run(
        [sys.executable, "-m", "perfkit", *arguments],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if not k.startswith("SLURM")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rows(done: Done) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return found


def test_a_starter_of_every_kind_is_valid_as_it_is(folder: Path) -> None:
    names = []
    for kind in KINDS:
        done = perfkit(folder, "init", "--kind", kind)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{kind}.toml\n"
        names.append(f"{kind}.toml")
    done = perfkit(folder, "validate", *names, "--format", "json")
    assert done.returncode == 0, done.stdout
    assert [row["kind"] for row in rows(done)] == list(KINDS)
    assert {row["text"] for row in rows(done)} == {None}


def test_a_starter_takes_the_degrees_of_its_model(folder: Path) -> None:
    for model, degrees in (("smollm2-135m-instruct", "[1, 3]"), ("llama-3.1-8b", "[1, 2]")):
        options = ("--kind", "strong-scaling", "--model", model, "--force")
        assert perfkit(folder, "init", "mine", *options).returncode == 0
        assert f"tp = {degrees} " in (folder / "mine.toml").read_text()
        assert perfkit(folder, "validate", "mine.toml").returncode == 0


def test_init_replaces_nothing_unless_it_is_told(folder: Path) -> None:
    done = perfkit(folder, "init", "study")
    assert done.returncode == 2
    assert "study.toml exists already. Use --force" in done.stderr
    assert (folder / "study.toml").read_text() == STUDY
    assert perfkit(folder, "init", "study", "--force").returncode == 0
    assert (folder / "study.toml").read_text() != STUDY


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--kind", "scaling"], "--kind 'scaling' is not known. Use strong-scaling"),
        (["new", "--model", "no-such-model"], "no model 'no-such-model' on this machine"),
        (["two\nlines"], "is no name for a study"),
    ],
)
def test_init_refuses_what_could_not_run(folder: Path, arguments: list[str], said: str) -> None:
    before = sorted(folder.iterdir())
    done = perfkit(folder, "init", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert sorted(folder.iterdir()) == before


def test_every_mistake_of_every_study_is_told_at_once(folder: Path) -> None:
    (folder / "wrong.toml").write_text(WRONG)
    (folder / "no.toml").write_text("model = \n")
    done = perfkit(folder, "validate", "wrong.toml", "scaling-70b", "no.toml", "scalign-70b")
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert lines[:12] == [
        "wrong.toml: 11 mistakes",
        "  kind: must be 'strong-scaling', 'weak-scaling', 'batch', 'precision', 'context' or "
        "'profiler-overhead', found 'strong'.",
        "  model: is missing.",
        "  [job] time_limit: must be a time such as 00:30:00 or 1-12:00:00, found 5.",
        "  [run] dtype: must be 'float32', 'bfloat16' or 'float16', found 'bf16'.",
        "  [run] bathc: not a key here. Did you mean batch?",
        "  [[points]] 1 quantise: not a key here. Did you mean quantize?",
        "  modle: not a key here. Did you mean model?",
        "  [axes] tp: is in [[points]], too. Give it once.",
        "  [axes] tp: has a value twice: [1, 1].",
        "  [[points]] 1: batch and batch_per_gpu. Give one of them.",
        "  [run] collect: no collector 'nsis'. Use auto, none, or some of kineto, nccl-log, nsys, "
        "nsys-metrics, nsys-nvtx, nvml, perf-record, perf-stat, rocprof, sacct.",
    ]
    assert "valid, strong-scaling, 9 point(s) 3 times each" in done.stdout
    assert "no.toml: Invalid value (at line 1" in done.stdout
    assert "Did you mean scaling-70b?" in done.stdout
    assert done.stderr == "3 of 4 cannot be used.\n"


def test_points_that_no_system_can_run_are_mistakes(folder: Path) -> None:
    done = perfkit(folder, "validate", "study.toml")
    assert done.returncode == 2
    assert "point tp8-pp1: tp=8 is more than the 3 kv heads of model" in done.stdout


def test_points_that_this_system_cannot_run_are_left_out(folder: Path) -> None:
    done = perfkit(folder, "validate", "scaling-70b", "--system", "leonardo")
    assert done.returncode == 0
    assert "valid, strong-scaling, 6 point(s) 3 times each" in done.stdout
    told = "left out: point tp2-pp1-b1: a rank needs 69.3 GiB, a100-64-leonardo has 64 GB."
    assert told in done.stdout
    assert "Next: perfkit submit scaling-70b --system leonardo --dry-run" in done.stderr


def test_a_study_that_cannot_run_on_a_system_at_all_is_a_mistake(folder: Path) -> None:
    done = perfkit(folder, "validate", "weak-scaling", "--system", "dev-cluster")
    assert done.returncode == 0
    text = STUDY.replace("[1, 8]", "[3]").replace("00:10:00", "02:00:00")
    (folder / "study.toml").write_text(text)
    long = perfkit(folder, "validate", "study.toml", "--system", "dev-cluster")
    assert long.returncode == 2
    assert "[job] time_limit 02:00:00 of study.toml is more than the 01:00:00" in long.stdout
    (folder / "study.toml").write_text(text.replace("02:00:00", "00:10:00"))
    options = ("--system", "generic", "--gpus-per-node", "2")
    wide = perfkit(folder, "validate", "study.toml", *options)
    assert wide.returncode == 2
    assert "no point can run on generic:" in wide.stdout
    assert "point tp3-pp2: tp=3 does not fit into a node of 2" in wide.stdout


def test_uneven_shards_are_noted(folder: Path) -> None:
    (folder / "study.toml").write_text(STUDY.replace("[1, 8]", "[1, 2]"))
    done = perfkit(folder, "validate", "study.toml")
    assert done.returncode == 0
    assert "note: tp=2 does not divide 3 kv heads: the ranks are uneven" in done.stdout


def test_the_schema_is_printed(folder: Path) -> None:
    done = perfkit(folder, "validate", "--schema")
    assert json.loads(done.stdout)["properties"]["kind"]["enum"] == list(KINDS)


def test_nothing_to_validate_says_how_to_start(folder: Path) -> None:
    done = perfkit(folder, "validate")
    assert done.returncode == 2
    assert "perfkit init" in done.stderr
