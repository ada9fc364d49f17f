"""A study of a tiny model through `perfkit submit` and `perfkit status`, on a real Slurm."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dev_cluster import Cluster, Done, reason_to_skip, running_cluster, wait_until
from tiny import save_tiny

from perfkit.schema import read_json

pytestmark = pytest.mark.slow

STUDY = """
model = "{model}"

[job]
time_limit = "{time_limit}"
stages_per_node = 1

[run]
batch = 2
prompt_tokens = 8
new_tokens = {new_tokens}
repeats = 1
collect = "none"

[axes]
pp = {pp}
"""
SETTINGS = {"model": "llama-untied", "time_limit": "00:05:00", "new_tokens": 4, "pp": [1]}
JOBS_END_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if reason := reason_to_skip():
        pytest.skip(reason)
    with running_cluster() as ours:
        yield ours


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that every node sees, its name hard to quote, with a model."""
    folder = tmp_path_factory.mktemp("site") / "my 50% studies"
    folder.mkdir()
    save_tiny("llama-untied", folder)
    return folder


class Studied:
    """A study of its own in the shared folder, and perfkit's two commands on it."""

    def __init__(self, cluster: Cluster, shared: Path, name: str, **settings: Any) -> None:
        self.cluster, self.shared, self.name = cluster, shared, name
        self.study = shared / f"{name}.toml"
        self.results = shared / "runs" / name
        self.settings = {**SETTINGS, **settings}
        self.write()

    def write(self, **changes: Any) -> None:
        self.study.write_text(STUDY.format(**{**self.settings, **changes}))

    def perfkit(self, *arguments: str | Path) -> Done:
        return self.cluster.run(sys.executable, "-m", "perfkit", *arguments, cwd=self.shared)

    def submit(self, *options: str) -> dict[str, dict[str, Any]]:
        """The plan's rows by point."""
        options = ("--system", "dev-cluster", "--format", "json", *options)
        done = self.perfkit("submit", self.study, *options)
        assert done.returncode == 0, done.stderr
        return {row["point"]: row for row in json.loads(done.stdout)["rows"]}

    def status(self, exit_code: int) -> dict[str, dict[str, Any]]:
        done = self.perfkit("status", self.name, "--format", "json")
        assert done.returncode == exit_code, done.stderr
        return {row["point"]: row for row in json.loads(done.stdout)["rows"]}

    def wait(self) -> None:
        """Until no job is in the queue."""

        def empty() -> bool:
            return not self.cluster.run("squeue", "-h").stdout

        wait_until(empty, "every job has ended", JOBS_END_WITHIN_S)

    def settled(self, exit_code: int) -> dict[str, dict[str, Any]]:
        """status, once accounting has caught up with the end of every job."""
        self.wait()
        jobs = [row["job_id"] for row in self.status_rows()]

        def known() -> bool:
            states = self.cluster.run("sacct", "-nPX", "-j", ",".join(jobs), "-o", "State").stdout
            ended = [s for s in states.split() if s not in ("RUNNING", "PENDING", "COMPLETING")]
            return len(ended) == len(jobs)

        wait_until(known, "sacct knows how the jobs ended", 30)
        return self.status(exit_code)

    def status_rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(
            self.perfkit("status", self.name, "--format", "json").stdout
        )["rows"]
        return rows


class Two(Studied):
    """Two points from their first job to their end."""

    def __init__(self, cluster: Cluster, shared: Path) -> None:
        super().__init__(cluster, shared, "two", pp=[1, 2])
        self.plan = self.submit()
        self.at_once = self.status(exit_code=0)
        self.again_at_once = self.submit()
        self.at_the_end = self.settled(exit_code=0)


@pytest.fixture(scope="module")
def stale(cluster: Cluster, shared: Path) -> Studied:
    """A study whose settings will be changed; its first job is submitted."""
    one = Studied(cluster, shared, "stale")
    one.submit()
    return one


@pytest.fixture(scope="module")
def failing(cluster: Cluster, shared: Path) -> Studied:
    """A study of cut-off weights, which the login node does not look into; submitted."""
    shutil.copytree(shared / "llama-untied", shared / "broken")
    weights = shared / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    one = Studied(cluster, shared, "failing", model="broken")
    one.submit()
    return one


@pytest.fixture(scope="module")
def two(cluster: Cluster, shared: Path, stale: Studied, failing: Studied) -> Two:
    """After the other studies' first jobs, so that all of them run at the same time."""
    return Two(cluster, shared)


def test_each_point_is_a_job_of_its_own(two: Two) -> None:
    assert list(two.plan) == ["tp1-pp1-r1", "tp1-pp2-r1"]
    assert [row["action"] for row in two.plan.values()] == ["submitted", "submitted"]
    assert len({row["job_id"] for row in two.plan.values()}) == 2
    for name, row in two.plan.items():
        record = read_json(two.results / name / "point.json")
        assert [job["job_id"] for job in record["jobs"]] == [row["job_id"]]


def test_a_job_in_the_queue_is_not_submitted_twice(two: Two) -> None:
    assert {row["state"] for row in two.at_once.values()} <= {"waiting", "running"}
    assert [row["action"] for row in two.again_at_once.values()] == [None, None]


def test_status_follows_the_jobs_to_their_end(two: Two) -> None:
    for name, row in two.at_the_end.items():
        assert (row["state"], row["run_state"], row["slurm_state"]) == (
            "finished",
            "finished",
            "COMPLETED",
        )
        assert row["elapsed_s"] > 0
        assert (two.results / name / f"slurm-{row['job_id']}.out").is_file()


def test_stages_are_on_their_own_nodes(two: Two) -> None:
    run = read_json(two.results / "tp1-pp2-r1" / "run" / "run.json")
    assert len({place["host"] for place in run["layout"]}) == 2
    assert run["slurm"]["SLURM_JOB_ID"] == two.plan["tp1-pp2-r1"]["job_id"]
    assert run["master"][1] == 20_000 + int(run["slurm"]["SLURM_JOB_ID"]) % 10_000


def test_finished_points_are_skipped(two: Two) -> None:
    two.write()
    again = two.submit()
    assert [row["state"] for row in again.values()] == ["finished", "finished"]
    assert [row["action"] for row in again.values()] == [None, None]


def test_another_account_or_time_limit_makes_nothing_stale(two: Two) -> None:
    two.write(time_limit="00:06:00")
    again = two.submit("--account", "another")
    assert [row["state"] for row in again.values()] == ["finished", "finished"]


def test_a_refused_script_is_told_and_records_nothing(two: Two) -> None:
    point = two.results / "tp1-pp1-r1"
    before = [(point / name).read_text() for name in ("point.json", "job.sbatch", "run/run.json")]
    two.write(new_tokens=6)
    options = ("--system", "dev-cluster", "--stale", "--partition", "no-such")
    done = two.perfkit("submit", two.study, *options)
    assert done.returncode == 1
    assert "sbatch refused point tp1-pp1-r1" in done.stderr
    assert "invalid partition specified: no-such" in done.stderr
    assert "--new-tokens 6" in (point / "job.refused.sbatch").read_text()
    after = [(point / name).read_text() for name in ("point.json", "job.sbatch", "run/run.json")]
    assert after == before


def test_a_changed_setting_is_stale_and_submitted_only_with_stale(stale: Studied) -> None:
    stale.wait()
    first = stale.status(exit_code=0)["tp1-pp1-r1"]["job_id"]
    stale.write(new_tokens=5)
    told = stale.submit()["tp1-pp1-r1"]
    assert (told["state"], told["action"]) == ("stale", None)
    assert told["why"] == "new_tokens was 4, is 5"
    assert stale.submit("--stale")["tp1-pp1-r1"]["action"] == "submitted"
    # The measured run is still there while the new one is made.
    earlier = stale.results / "tp1-pp1-r1" / "earlier" / first
    assert read_json(earlier / "run" / "run.json")["config"]["new_tokens"] == 4
    assert "--new-tokens 4" in (earlier / "job.sbatch").read_text()
    stale.wait()
    run = read_json(stale.results / "tp1-pp1-r1" / "run" / "run.json")
    assert (run["state"], run["config"]["new_tokens"]) == ("finished", 5)
    assert stale.submit()["tp1-pp1-r1"]["state"] == "finished"


def test_a_failing_point_is_told_with_its_cause_and_submitted_again(
    failing: Studied, shared: Path
) -> None:
    failed = failing.settled(exit_code=3)["tp1-pp1-r1"]
    assert (failed["state"], failed["slurm_state"]) == ("failed", "FAILED")
    assert "model.safetensors" in failed["cause"]
    shutil.copy(shared / "llama-untied" / "model.safetensors", shared / "broken")
    again = failing.submit()["tp1-pp1-r1"]
    assert (again["state"], again["action"]) == ("failed", "submitted")
    assert failing.settled(exit_code=0)["tp1-pp1-r1"]["state"] == "finished"


GPU_SYSTEM = """
title = "the dev cluster's empty GPUs"

[nodes]
gpus_per_node = 4
cores_per_node = 4
source = "slurm/dev-cluster.sh"
checked_on = "2026-11-23"

[slurm]
partition = "dev"
gpu_request = "{request}"
options = ["--hint=nomultithread"]
source = "slurm/dev-cluster.sh"
checked_on = "2026-11-23"
"""


@pytest.mark.parametrize(
    ("request_by", "line"),
    [("gres", "--gres=gpu:2"), ("gpus-per-node", "--gpus-per-node=2")],
)
def test_slurm_takes_every_option_of_a_script(
    cluster: Cluster, shared: Path, tmp_path: Path, request_by: str, line: str
) -> None:
    """`sbatch --test-only` schedules a script without running it."""
    (tmp_path / "gpus.toml").write_text(GPU_SYSTEM.format(request=request_by))
    one = Studied(cluster, shared, "gpus")
    more = '[job]\nexclusive = true\nmemory = "200M"'
    one.study.write_text(
        one.study.read_text().replace("[job]", more).replace("pp = [1]", "tp = [2]")
    )
    options = ("--system", str(tmp_path / "gpus.toml"), "--dry-run")
    script = tmp_path / "job.sbatch"
    script.write_text(one.perfkit("submit", one.study, *options).stdout.partition("\n")[2])
    assert f"#SBATCH {line}\n" in script.read_text()
    done = cluster.run("sbatch", "--test-only", script)
    assert done.returncode == 0, done.stderr
    assert "to start at" in done.stderr
