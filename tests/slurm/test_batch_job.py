"""The demo model as a batch job on two nodes, with all that can be recorded without a GPU."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dev_cluster import Cluster

from perfkit.engine.models import staged_folder
from perfkit.schema import read_json

pytestmark = pytest.mark.slow

MODEL = "smollm2-135m-instruct"
WORK = ("--batch", "2", "--prompt-tokens", "32", "--new-tokens", "8", "--repeats", "1")
SCRIPT = """#!/bin/bash
#SBATCH --job-name=demo --nodes=2 --ntasks-per-node=2 --cpus-per-task=1 --time=10
#SBATCH --output={folder}/job.out
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
srun {python} -m perfkit run {model} --tp 2 --pp 2 {work} \\
  --collect perf-stat,kineto,sacct --out {folder}/run
"""


class BatchJob:
    """The job, its accounting collected after its end, its analysis, and one rank alone."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        script = SCRIPT.format(
            folder=folder, python=sys.executable, model=MODEL, work=" ".join(WORK)
        )
        self.job = cluster.sbatch(script, folder)
        cluster.wait_for_job(self.job, within_s=240)
        self.output = (folder / "job.out").read_text()
        self.folder = folder / "run"
        self.record = read_json(self.folder / "run.json")
        assert self.record["state"] == "finished", self.output
        collected = cluster.run(sys.executable, "-m", "perfkit", "collect", self.folder)
        assert "sacct: ran" in collected.stdout, collected.stderr
        analyzed = cluster.run(
            *(sys.executable, "-m", "perfkit", "analyze", self.folder, "--format", "json")
        )
        self.report: dict[str, Any] = json.loads(analyzed.stdout)
        alone = folder / "alone"
        subprocess.run(
            [sys.executable, "-m", "perfkit", "run", MODEL, *WORK]
            + ["--collect", "none", "--device", "cpu", "--out", alone],
            capture_output=True,
            timeout=240,
            check=True,
        )
        self.reference = token_ids(alone)


def token_ids(folder: Path) -> list[list[int]]:
    lines = (folder / "outputs.jsonl").read_text().splitlines()
    return [json.loads(line)["token_ids"] for line in lines]


@pytest.fixture(scope="module")
def batch_job(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> BatchJob:
    if staged_folder(MODEL) is None:
        pytest.skip(f"the demo model is not staged: perfkit fetch {MODEL}")
    return BatchJob(cluster, tmp_path_factory.mktemp("batch"))


def test_its_tokens_are_those_of_one_rank_alone(batch_job: BatchJob) -> None:
    tokens = token_ids(batch_job.folder)
    assert [len(ids) for ids in tokens] == [8, 8]
    assert tokens == batch_job.reference


def test_its_ranks_are_on_two_nodes(batch_job: BatchJob) -> None:
    places = [(p["host"], p["pp_rank"], p["tp_rank"]) for p in batch_job.record["layout"]]
    assert places == [("node0", 0, 0), ("node0", 0, 1), ("node1", 1, 0), ("node1", 1, 1)]


def test_accounting_has_elapsed_time_and_peak_memory(batch_job: BatchJob) -> None:
    rows = {row["row_id"]: row for row in batch_job.report["jobs"]}
    assert rows[batch_job.job]["state"] == "COMPLETED"
    assert rows[batch_job.job]["elapsed_s"] > 2
    step = rows[f"{batch_job.job}.0"]
    assert step["num_tasks"] == 4
    assert step["max_rss_bytes"] > 300 * 2**20


def test_perf_counts_every_rank(batch_job: BatchJob) -> None:
    clocks = {
        row["rank"]: row["value"]
        for row in batch_job.report["counters"]
        if row["event"] == "task-clock"
    }
    assert sorted(clocks) == [0, 1, 2, 3]
    assert all(value > 1000 for value in clocks.values())


def test_every_ranks_time_is_split(batch_job: BatchJob) -> None:
    ranks = batch_job.report["ranks"]
    assert [row["rank"] for row in ranks] == [0, 1, 2, 3]
    for row in ranks:
        parts = row["compute_ns"] + row["exposed_comm_ns"] + row["copy_ns"] + row["idle_ns"]
        assert parts == row["window_ns"] > 0
        assert row["comm_ns"] > 0
