"""What ends jobs on real clusters: the run folder stays valid and the cause is named."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dev_cluster import (
    TWO_BY_TWO,
    Cluster,
    Done,
    reason_to_skip,
    running_cluster,
)

from perfkit.schema import RunFolder, read_json

pytestmark = pytest.mark.slow


def perfkit(cluster: Cluster, *arguments: str | Path) -> Done:
    """perfkit as on a login node."""
    return cluster.run(sys.executable, "-m", "perfkit", *arguments)


def analysis(cluster: Cluster, folder: Path) -> dict[str, Any]:
    done = perfkit(cluster, "analyze", folder, "--format", "json")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def program(code: str) -> tuple[str, ...]:
    return ("--", sys.executable, "-c", code)


def test_a_rank_that_exits_7_is_named_and_srun_says_7(cluster: Cluster, tmp_path: Path) -> None:
    code = "import os, time\nif os.environ['RANK'] == '2': raise SystemExit(7)\ntime.sleep(100)\n"
    out = tmp_path / "run"
    run = ("run", "--collect", "perf-stat", "--out", out)
    done = cluster.perfkit(TWO_BY_TWO, *run, *program(code), cwd=tmp_path)
    assert done.returncode == 7, done.stderr
    assert "rank 2 on node1: exited with code 7" in done.stderr
    failure = read_json(out / "run.json")["failure"]
    assert (failure["rank"], failure["host"]) == (2, "node1")
    report = analysis(cluster, out)
    assert any("rank 2 on node1 exited with code 7" in text for text in report["warnings"])
    counted = {row["rank"] for row in report["counters"] if row["event"] == "task-clock"}
    assert counted == {0, 1, 2, 3}
    exits = {row["rank"]: (row["exit_code"], row["signal"]) for row in report["processes"]}
    assert exits[2] == (7, None)


def test_each_task_prints_its_own_output(cluster: Cluster, tmp_path: Path) -> None:
    code = "import os; print('rank', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'])"
    run = ("run", "--collect", "none", "--out", tmp_path / "run")
    done = cluster.perfkit(TWO_BY_TWO, *run, *program(code), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"rank {rank} of 4" for rank in range(4)]


@pytest.fixture
def without_slurmdbd(cluster: Cluster) -> Iterator[Cluster]:
    cluster.stop_daemon("slurmdbd")
    yield cluster
    cluster.up()


def test_accounting_that_is_down_costs_nothing_else(
    without_slurmdbd: Cluster, tmp_path: Path
) -> None:
    """The rows come when slurmdbd is back: `perfkit collect` fetches them then."""
    out = tmp_path / "run"
    run = ("run", "--collect", "perf-stat,sacct", "--out", out)
    done = without_slurmdbd.perfkit("-N1 -n1", *run, *program("print('fine')"), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr
    record = read_json(out / "run.json")
    assert record["state"] == "finished"
    assert record["collectors"]["sacct"]["state"] == "partial"
    assert any("sacct partial" in text for text in record["warnings"])
    down = perfkit(without_slurmdbd, "collect", out, "--within", "0.1")
    assert "sacct: partial" in down.stdout
    assert [row["rank"] for row in analysis(without_slurmdbd, out)["processes"]] == [0]
    without_slurmdbd.up()
    done = perfkit(without_slurmdbd, "collect", out)
    assert "sacct: ran" in done.stdout, done.stderr
    states = {row["state"] for row in analysis(without_slurmdbd, out)["jobs"]}
    assert states == {"COMPLETED"}


TIME_LIMIT = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=2 --time=1 --output={folder}/job.out
srun {python} -m perfkit run {model} --tp 2 --pp 2 --batch 2 --prompt-tokens 8 --new-tokens 24 \\
  --repeats 50000 --collect perf-stat,sacct --out {folder}/run
"""


def test_a_time_limit_leaves_what_was_measured(
    cluster: Cluster, tiny: Path, tmp_path: Path
) -> None:
    """Limits are whole minutes, and looked at every half minute: this takes one to two."""
    script = TIME_LIMIT.format(folder=tmp_path, python=sys.executable, model=tiny)
    job = cluster.sbatch(script, tmp_path)
    cluster.wait_for_job(job, within_s=170)
    out = tmp_path / "run"
    record = read_json(out / "run.json")
    assert record["state"] == "stopped"
    assert record["failure"]["reason"] == "stopped by SIGTERM (scancel, a time limit or kill)"
    folder = RunFolder(out)
    states = [read_json(folder.rank_file(rank, "status.json"))["state"] for rank in range(4)]
    assert "running" not in states
    assert "sacct: ran" in perfkit(cluster, "collect", out).stdout
    report = analysis(cluster, out)
    assert {row["row_id"]: row["state"] for row in report["jobs"]}[job] == "TIMEOUT"
    assert report["measures"]["ttft_s"]["count"] > 5
    assert any("TIMEOUT" in text for text in report["warnings"])
    exits = [row["exit_code"] is None and row["signal"] is None for row in report["processes"]]
    assert exits == [False] * 4


@pytest.fixture(params=["auto", "poll"])
def limited(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """One node on which the kernel (where there are cgroups) or Slurm itself ends greedy jobs."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    with running_cluster(nodes=1, memory=request.param) as ours:
        yield ours


GREEDY = (
    "import os, time\n"
    "if os.environ['RANK'] == '1':\n"
    "    held = [bytearray(os.urandom(1 << 20)) for _ in range(4000)]\n"
    "time.sleep(60)\n"
)


def test_a_rank_that_takes_too_much_memory_is_named(limited: Cluster, tmp_path: Path) -> None:
    """The kernel kills one process; Slurm's own watch kills all of them, perfkit too."""
    out = tmp_path / "run"
    run = ("run", "--collect", "sacct", "--out", out)
    done = limited.perfkit("-n2 --mem=300M", *run, *program(GREEDY), cwd=tmp_path)
    assert done.returncode != 0
    by_kernel = "proctrack/cgroup" in (limited.folder / "etc" / "slurm.conf").read_text()
    limited.wait_for_job(read_json(out / "run.json")["slurm"]["SLURM_JOB_ID"], within_s=30)
    assert "sacct: ran" in perfkit(limited, "collect", out).stdout
    record = read_json(out / "run.json")
    assert record["state"] == "failed"
    report = analysis(limited, out)
    if by_kernel:
        assert record["failure"]["rank"] == 1
        assert "SIGKILL (by somebody, or for lack of memory" in record["failure"]["reason"]
        assert any("OUT_OF_MEMORY" in text for text in report["warnings"])
    else:
        assert "supervisor died (out of memory" in record["failure"]["reason"]
        assert "CANCELLED" in {row["state"] for row in report["jobs"]}
