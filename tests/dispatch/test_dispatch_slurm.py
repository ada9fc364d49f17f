"""`perfkit dispatch` as a heterogeneous job of a real Slurm: CPU ranks and replicas, one step."""

import os
import signal
import sys
from pathlib import Path

import pytest
from dev_cluster import Cluster, Done, wait_until
from talking_tiny import (
    TIMEOUT_S,
    answers,
    command,
    done,
    events,
    figures,
    pid_of,
    save_talking_tiny,
    wait_for_batches,
    write_prompts,
)

from perfkit.schema import read_json

pytestmark = pytest.mark.slow

PROMPTS = 48
OPTIONS = ("--batch", 4, "--new-tokens", 40)


class Site:
    """A folder that every node sees, with a model, prompts and the answers of this machine."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.model = save_talking_tiny(folder)
        self.prompts = write_prompts(folder / "prompts.jsonl", PROMPTS)

    def submit(self, out: Path, cpu_workers: int, replicas: int) -> str:
        """By perfkit's own script; the job's number."""
        counts = ("--cpu-workers", cpu_workers, "--replicas", replicas)
        options = (*OPTIONS, *counts, "--system", "dev-cluster", "--time", "00:05:00")
        found = self.cluster.run(*command(self.model, self.prompts, out, *options))
        assert found.returncode == 0, found.stderr
        assert f"wrote {out}.sbatch. Next: perfkit dispatch {out}" in found.stderr
        return found.stdout.strip()

    def by_hand(self, out: Path, cpu_tasks: int, replicas: int, prompts: Path) -> str:
        """`srun --het-group=0,1 perfkit dispatch`, as a person writes it."""
        words = " ".join(command(self.model, prompts, out, *OPTIONS))
        return self.cluster.sbatch(
            f"#!/bin/bash\n#SBATCH --ntasks={cpu_tasks} --time=5 --output={out}.out\n"
            f"#SBATCH hetjob\n#SBATCH --ntasks={replicas}\nsrun --het-group=0,1 {words}\n",
            self.folder,
        )

    def exit_code(self, job: str) -> str:
        """As sacct has it for the first component, once the job is gone."""
        self.cluster.wait_for_job(job, TIMEOUT_S)

        def asked() -> Done:
            return self.cluster.run("sacct", "-nPX", "-j", f"{job}+0", "-o", "ExitCode,End")

        wait_until(lambda: "T" in asked().stdout, "sacct knows the end", 30)
        return asked().stdout.partition("|")[0]


@pytest.fixture(scope="module")
def site(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(cluster, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def undisturbed(site: Site) -> list[tuple[str, list[int]]]:
    """What this machine answers without Slurm."""
    folder = site.folder / "undisturbed"
    run = done(command(site.model, site.prompts, folder, *OPTIONS, "--cpu-workers", 1))
    assert run.returncode == 0, run.stderr
    return answers(folder)


def test_a_heterogeneous_job_survives_the_death_of_a_replica(
    site: Site, undisturbed: list[tuple[str, list[int]]]
) -> None:
    folder = site.folder / "survives"
    job = site.submit(folder, cpu_workers=2, replicas=2)
    wait_for_batches(folder, 2)
    os.kill(pid_of(folder, "replica"), signal.SIGKILL)
    assert site.exit_code(job) == "0:0", Path(f"{folder}-slurm-{job}.out").read_text()
    assert answers(folder) == undisturbed
    content = figures(folder)
    assert [row["name"] for row in content["cpu_workers"]] == ["cpu-1", "cpu-2"]
    assert [row["name"] for row in content["replicas"]] == ["replica-3", "replica-4"]
    assert sum(row["deaths"] for row in content["replicas"]) == 1
    for row in content["replicas"]:
        assert row["busy_s"] + row["idle_s"] == pytest.approx(row["wall_s"], abs=1e-9)
    hosts = [{row["host"] for row in content[name]} for name in ("cpu_workers", "replicas")]
    assert hosts[0].isdisjoint(hosts[1])
    assert read_json(folder / "run.json")["slurm"]["SLURM_JOB_ID"] == job


def test_a_dispatcher_that_is_killed_ends_the_job_and_the_next_one_goes_on(
    site: Site, undisturbed: list[tuple[str, list[int]]]
) -> None:
    folder = site.folder / "goes-on"
    job = site.submit(folder, cpu_workers=1, replicas=1)
    wait_for_batches(folder, 2)
    os.kill(read_json(folder / "run.json")["supervisor"]["pid"], signal.SIGKILL)
    assert site.exit_code(job) != "0:0"
    assert 8 <= len(answers(folder)) < PROMPTS
    job = site.submit(folder, cpu_workers=1, replicas=1)
    assert site.exit_code(job) == "0:0"
    assert answers(folder) == undisturbed
    assert len(events(folder, "part")) == 2
    assert list(site.folder.glob(".goes-on.*")) == []


def test_no_cpu_ranks_is_one_message_and_exit_code_2(site: Site) -> None:
    folder = site.folder / "no-cpu"
    job = site.by_hand(folder, cpu_tasks=1, replicas=1, prompts=site.prompts)
    assert site.exit_code(job) == "2:0"
    told = Path(f"{folder}.out").read_text()
    assert told.count("perfkit: ") == 1
    assert (
        "perfkit: all 2 tasks have come, and none is a CPU worker: the first task dispatches, "
        "each other --role cpu tokenises, each --role replica answers. Start at least one more "
        "--role cpu task." in told
    )


def test_a_refusal_of_the_first_task_keeps_nobody_waiting(site: Site) -> None:
    folder = site.folder / "refused"
    job = site.by_hand(folder, cpu_tasks=2, replicas=1, prompts=site.folder / "none.jsonl")
    assert site.exit_code(job) == "2:0"
    told = Path(f"{folder}.out").read_text()
    assert told.count("perfkit: ") == 1
    assert f"perfkit: {site.folder}/none.jsonl does not exist. Check the path" in told


def test_the_script_is_shown_without_being_submitted(site: Site) -> None:
    options = ("--system", "dev-cluster", "--dry-run")
    out = site.folder / "dry"
    found = site.cluster.run(*command(site.model, site.prompts, out, *options))
    assert found.returncode == 0
    assert "#SBATCH hetjob\n" in found.stdout
    assert site.cluster.run("squeue", "-h").stdout == ""
    assert list(site.folder.glob("dry*")) == []
    assert f"    {sys.executable} -m perfkit dispatch {site.model} " in found.stdout
