"""`perfkit analyze` as a user types it."""

import json
from pathlib import Path

import pytest
import typer
from run_builder import KINETO, a_run
from typer.testing import CliRunner, Result

from perfkit.cli import analyze
from perfkit.errors import ConfigError

APP = typer.Typer(pretty_exceptions_enable=False)
APP.command()(analyze.command)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(APP, [str(a) for a in arguments], catch_exceptions=False)


def test_the_table_has_measures_split_and_ratio_and_fits_a_terminal(tmp_path: Path) -> None:
    root = a_run(tmp_path / "run")
    answer = call(root)
    lines = answer.stdout.splitlines()
    assert lines[0] == "run run: finished, TP 2 x PP 1, 2 rank(s)"
    assert "profiler ratio 2.00: " in answer.stdout
    assert max(len(line) for line in lines) <= 110
    whole = [["0", "cpu", "whole"], ["1", "cpu", "whole"]]
    assert [line.split()[:3] for line in lines if " whole " in line] == whole * 2
    assert "idle by its cause" in answer.stdout
    assert "rank 1 entered last in" in answer.stdout
    assert answer.stderr.endswith(f"wrote {root}/tables. Next: perfkit compare {root}\n")


def test_a_missing_rank_is_a_row_of_dashes(tmp_path: Path) -> None:
    answer = call(a_run(tmp_path / "run", traces=(0,)))
    rows = [line.split() for line in answer.stdout.splitlines() if line.startswith("    1 ")]
    assert rows == [["1"] + ["-"] * 10]
    assert "warning: no usable trace of ranks 1" in answer.stdout


def test_a_failed_run_says_so_in_its_first_line(tmp_path: Path) -> None:
    failure = {"rank": 1, "host": "node0", "reason": "was killed by SIGKILL"}
    answer = call(a_run(tmp_path / "run", state="failed", failure=failure))
    assert answer.stdout.startswith("run run: FAILED because of rank 1, TP 2 x PP 1")


def test_json_has_exact_ns_for_each_rank_and_null_for_a_missing_one(tmp_path: Path) -> None:
    found = json.loads(call(a_run(tmp_path / "run", traces=(0,)), "--format", "json").stdout)
    assert found["schema_version"] == 1
    first, second = found["ranks"]
    assert (first["rank"], first["device"], first["host"]) == (0, "cpu", "node0")
    parts = ("compute_ns", "exposed_comm_ns", "copy_ns", "idle_ns")
    assert sum(first[part] for part in parts) == first["window_ns"]
    assert [phase["phase"] for phase in first["phases"]] == ["prefill", "sample", "decode"]
    assert {row["op"] for row in first["collectives"]} == {"all_reduce", "broadcast"}
    assert (second["rank"], second["window_ns"], second["phases"]) == (1, None, [])
    assert found["measures"]["e2e_s"]["count"] == 2
    assert found["measures"]["profiler_ratio"] == pytest.approx(2.201 / 1.101)
    assert found["missing_traces"] == [1]


def test_several_runs_are_a_list(tmp_path: Path) -> None:
    roots = [a_run(tmp_path / name) for name in ("a", "b")]
    found = json.loads(call(*roots, "--format", "json").stdout)
    assert [run["run"]["id"] for run in found["runs"]] == ["a", "b"]


def test_csv_and_markdown_carry_the_split(tmp_path: Path) -> None:
    root = a_run(tmp_path / "run")
    head = call(root, "--format", "csv").stdout.splitlines()[0]
    assert head.startswith("source,rank,device,phase,instances,window_ns,compute_ns")
    assert "| rank | device | phase |" in call(root, "--format", "md").stdout


def test_kernels_prints_the_longest_operations(tmp_path: Path) -> None:
    answer = call(KINETO / "handmade-gpu.json", "--kernels", "1")
    assert "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(..." in answer.stdout
    assert "my_fused_kernel_v3" not in answer.stdout


def test_loose_files_write_nothing_unless_asked(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    call(KINETO / "gloo-tp2")
    call(KINETO / "gloo-tp2", "--out", folder)
    assert (folder / "split.parquet").is_file()
    assert not list((KINETO / "gloo-tp2").rglob("*.parquet"))


def test_a_path_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist") as error:
        call(tmp_path / "nowhere")
    assert error.value.exit_code == 2
