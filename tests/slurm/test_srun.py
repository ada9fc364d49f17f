"""perfkit under srun, on a real Slurm of three nodes: each task is one rank."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from dev_cluster import (
    TWO_BY_TWO,
    Cluster,
    Done,
    LongRun,
    end_step,
    wait_until,
)

from perfkit.collect.witness import alive
from perfkit.ingest.timers import read_timers
from perfkit.schema import RunFolder, read_json

pytestmark = pytest.mark.slow

SHORT = ("--batch", "2", "--prompt-tokens", "8", "--new-tokens", "6", "--repeats", "1")
MUST_END_WITHIN_S = 15.0
# Python starts on four ranks and two cores; nobody waits for anybody.
REFUSED_WITHIN_S = 15.0


def token_ids(folder: Path) -> list[list[int]]:
    lines = (folder / "outputs.jsonl").read_text().splitlines()
    return [json.loads(line)["token_ids"] for line in lines]


def local(*arguments: str | Path, cwd: Path) -> Done:
    """perfkit without srun."""
    return subprocess.run(
        [sys.executable, "-m", "perfkit", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class TwoNodes:
    """The same run locally and, over a copy of that folder, under srun."""

    def __init__(self, cluster: Cluster, tiny: Path, shared: Path) -> None:
        run = ("run", tiny, "--tp", "2", "--pp", "2", *SHORT)
        self.local = shared / "local"
        self.folder = shared / "srun"
        done = local(*run, "--collect", "none", "--out", self.local, cwd=shared)
        assert done.returncode == 0, done.stderr
        shutil.copytree(self.local, self.folder)
        options = ("--collect", "kineto", "--out", self.folder, "--force")
        self.done = cluster.perfkit(TWO_BY_TWO, *run, *options, cwd=shared)
        assert self.done.returncode == 0, self.done.stderr
        self.record = read_json(self.folder / "run.json")


@pytest.fixture(scope="session")
def two_nodes(cluster: Cluster, tiny: Path, shared: Path) -> TwoNodes:
    return TwoNodes(cluster, tiny, shared)


def test_stages_are_on_their_own_nodes(two_nodes: TwoNodes) -> None:
    assert two_nodes.record["state"] == "finished"
    hosts = [place["host"] for place in two_nodes.record["layout"]]
    assert hosts == ["node0", "node0", "node1", "node1"]


def test_tokens_are_those_of_the_same_run_without_srun(two_nodes: TwoNodes) -> None:
    """The folder held another, local run before: no rank may have joined that one."""
    assert token_ids(two_nodes.folder) == token_ids(two_nodes.local)
    assert two_nodes.record["launch_id"].startswith("slurm-")


def test_the_slurm_job_is_recorded(two_nodes: TwoNodes, cluster: Cluster) -> None:
    job = two_nodes.record["slurm"]["SLURM_JOB_ID"]
    assert two_nodes.record["slurm"]["SLURM_JOB_NODELIST"] == "node[0-1]"

    def completed() -> bool:
        rows = cluster.run("sacct", "-nPX", "-j", job, "-o", "State,NodeList").stdout
        return rows.strip() == "COMPLETED|node[0-1]"

    wait_until(completed, f"sacct shows job {job} as completed", within_s=30)


def test_ranks_of_a_node_share_its_cores(two_nodes: TwoNodes) -> None:
    """Two tasks of one CPU each on a node; Slurm does not bind them here, as on some sites."""
    folder = RunFolder(two_nodes.folder)
    engines = [read_json(folder.rank_file(rank, "engine.json")) for rank in range(4)]
    assert [engine["threads"] for engine in engines] == [1, 1, 1, 1]


def test_only_one_rank_speaks(two_nodes: TwoNodes) -> None:
    assert two_nodes.done.stdout.splitlines() == [str(two_nodes.folder)]
    assert two_nodes.done.stderr.count("wrote ") == 1


def test_a_run_of_two_nodes_is_analysed(two_nodes: TwoNodes, shared: Path) -> None:
    done = local("analyze", two_nodes.folder, "--format", "json", cwd=shared)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {row["rank"]: row["host"] for row in report["ranks"]} == {
        0: "node0",
        1: "node0",
        2: "node1",
        3: "node1",
    }
    assert report["measures"]["ttft_s"]["count"] == 1


class ThreeNodes:
    """A pipeline of three nodes with perfkit's own defaults: collectors, and no --out."""

    def __init__(self, cluster: Cluster, tiny: Path, folder: Path) -> None:
        self.done = cluster.perfkit("-N3 -n3", "run", tiny, "--pp", "3", *SHORT, cwd=folder)
        self.returned = time.time()
        assert self.done.returncode == 0, self.done.stderr
        self.runs = list((folder / "runs").iterdir())
        self.record = read_json(self.runs[0] / "run.json")


@pytest.fixture(scope="session")
def three_nodes(
    cluster: Cluster, tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> ThreeNodes:
    return ThreeNodes(cluster, tiny, tmp_path_factory.mktemp("three"))


def test_every_rank_comes_to_the_same_default_folder(three_nodes: ThreeNodes) -> None:
    assert len(three_nodes.runs) == 1
    ranks = [rank for rank, _folder in RunFolder(three_nodes.runs[0]).ranks()]
    assert ranks == [0, 1, 2]


def test_a_pipeline_of_three_nodes(three_nodes: ThreeNodes) -> None:
    layout: list[dict[str, Any]] = three_nodes.record["layout"]
    assert [place["host"] for place in layout] == ["node0", "node1", "node2"]
    assert [place["layers"] for place in layout] == [[0, 2], [2, 4], [4, 5]]
    assert len(token_ids(three_nodes.runs[0])) == 2


def test_accounting_does_not_hold_the_job(three_nodes: ThreeNodes) -> None:
    """A job is still running while a task of it asks sacct: waiting for its end is in vain."""
    ended = datetime.fromisoformat(three_nodes.record["ended_at"]).timestamp()
    assert three_nodes.returned - ended < 8.0


@pytest.fixture
def long_run(cluster: Cluster, tiny: Path, tmp_path: Path) -> Iterator[LongRun]:
    run = LongRun(cluster, tiny, tmp_path / "run")
    pids = run.pids()
    yield run
    if run.process.poll() is None:
        end_step(run.process)
    wait_until(lambda: not any(map(alive, pids)), "every rank has ended", within_s=10)


def test_a_killed_rank_ends_all_nodes_and_is_named(long_run: LongRun) -> None:
    pids = long_run.pids() + long_run.pids("status.json")
    os.kill(long_run.pids()[2], signal.SIGKILL)
    code, stderr, seconds = long_run.end()
    assert code == 1, stderr
    assert seconds < MUST_END_WITHIN_S
    assert "rank 2 on node1: was killed by SIGKILL" in stderr
    assert "Traceback" not in stderr
    assert not [pid for pid in pids if alive(pid)]
    record = read_json(long_run.folder.run_json)
    assert record["state"] == "failed"
    assert (record["failure"]["rank"], record["failure"]["host"]) == (2, "node1")
    states = [read_json(long_run.folder.rank_file(r, "status.json"))["state"] for r in range(4)]
    assert states[2] == "failed"
    assert "running" not in states


def test_scancel_leaves_a_whole_run_folder(long_run: LongRun, cluster: Cluster) -> None:
    job = read_json(long_run.folder.run_json)["slurm"]["SLURM_JOB_ID"]
    cluster.run("scancel", job)
    code, _stderr, seconds = long_run.end()
    assert code != 0
    assert seconds < MUST_END_WITHIN_S
    wait_until(lambda: not cluster.run("squeue", "-h", "-j", job).stdout, "the job is gone", 30)
    assert read_json(long_run.folder.run_json)["state"] == "stopped"
    for rank in range(4):
        rows, _findings = read_timers(long_run.folder.rank_file(rank, "timers.jsonl"), rank)
        assert rows.filter(rows["kind"] == "timed").height > 0


def refused(cluster: Cluster, srun: str, *arguments: str | Path, cwd: Path) -> str:
    """stderr of a run that every rank refuses with exit code 2, none waiting for another."""
    done = cluster.perfkit(srun, *arguments, cwd=cwd, timeout_s=REFUSED_WITHIN_S)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_wrong_number_of_tasks_is_refused(cluster: Cluster, tiny: Path, tmp_path: Path) -> None:
    run = ("run", tiny, "--tp", "2", "--pp", "2", *SHORT)
    message = refused(cluster, "-N3 -n3", *run, "--out", tmp_path / "run", cwd=tmp_path)
    assert "srun started 3 tasks, but tp * pp = 4" in message
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_is_refused_by_every_rank(
    two_nodes: TwoNodes, cluster: Cluster, tiny: Path, shared: Path
) -> None:
    before = (two_nodes.folder / "run.json").read_text()
    run = ("run", tiny, "--tp", "2", "--pp", "2", *SHORT)
    message = refused(cluster, TWO_BY_TWO, *run, "--out", two_nodes.folder, cwd=shared)
    assert "exists already. Use --force" in message
    assert "did not create" not in message
    assert (two_nodes.folder / "run.json").read_text() == before


def test_a_folder_that_is_no_run_is_refused_by_every_rank(
    cluster: Cluster, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    run = ("run", tiny, "--tp", "2", "--pp", "2", *SHORT, "--force")
    message = refused(cluster, TWO_BY_TWO, *run, "--out", tmp_path / "thesis", cwd=tmp_path)
    assert "did not create" not in message
    assert list((tmp_path / "thesis").iterdir()) == []


def test_accounting_is_collected_after_the_job(three_nodes: ThreeNodes, cluster: Cluster) -> None:
    folder = three_nodes.runs[0]
    assert three_nodes.record["collectors"]["sacct"]["state"] == "partial"
    done = cluster.run(sys.executable, "-m", "perfkit", "collect", str(folder))
    assert "sacct: ran" in done.stdout, done.stderr
    report = json.loads(local("analyze", folder, "--format", "json", cwd=folder).stdout)
    rows = {row["row_id"]: row for row in report["jobs"]}
    job = three_nodes.record["slurm"]["SLURM_JOB_ID"]
    assert rows[job]["state"] == "COMPLETED"
    assert rows[job]["elapsed_s"] > 0
    assert rows[f"{job}.0"]["max_rss_bytes"] > 100 * 2**20
    assert rows[job]["consumed_energy_j"] is None
