"""`perfkit allocation` under a real Slurm, and without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dev_cluster import Cluster

from perfkit.allocation.snapshot import FIELDS

DATA = Path(__file__).parents[1] / "data"
RECORDED = DATA / "allocation" / "snapshot-22.05.json"
JOB = "#!/bin/bash\n#SBATCH --nodes={nodes} --ntasks-per-node=1 --gres=gpu:2\nsleep {seconds}\n"


def perfkit(
    *arguments: str | Path, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "perfkit", "allocation", *map(str, arguments)],
        env=environ or dict(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("version", ["22.05", "24.11", "26.05"])
def test_every_field_is_known_to_every_slurm(version: str) -> None:
    known = (DATA / "slurm" / f"sacct-{version}.helpformat").read_text().split()
    assert set(FIELDS) <= set(known)


@pytest.mark.slow
def test_a_chain_of_real_jobs_is_frozen_and_shown(cluster: Cluster, shared: Path) -> None:
    environ = dict(cluster.environ)
    first = cluster.sbatch(JOB.format(nodes=2, seconds=2), shared)
    second_script = shared / "second.sbatch"
    second_script.write_text(JOB.format(nodes=1, seconds=1))
    chain = f"--dependency=afterok:{first}"
    second = cluster.run("sbatch", "--parsable", chain, second_script, cwd=shared).stdout.strip()
    cluster.wait_for_job(second, within_s=90)
    snapshot = shared / "allocation.json"

    taken = perfkit("snapshot", "--user", "root", "-o", snapshot, environ=environ)

    assert taken.returncode == 0, taken.stderr
    document = json.loads(snapshot.read_text())
    rows = [line.split("|") for line in document["texts"]["sacct"].splitlines()]
    jobs = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}
    assert jobs[second]["Submit"] < jobs[second]["Eligible"] <= jobs[second]["Start"]
    assert document["texts"]["sinfo"].startswith("dev*|up|")
    assert document["not_taken"] == {}
    again = perfkit("snapshot", "--user", "root", "-o", snapshot, environ=environ)
    assert (again.returncode, "exists already" in again.stderr) == (2, True)


def test_an_account_without_jobs_is_told_so(cluster: Cluster, shared: Path) -> None:
    snapshot = shared / "nobody.json"
    taken = perfkit(
        "snapshot", "--account", "nobody", "-o", snapshot, environ=dict(cluster.environ)
    )
    assert (taken.returncode, "0 jobs of nobody" in taken.stderr) == (0, True)
    shown = perfkit("show", snapshot)
    assert shown.returncode == 0
    assert "not measured: no job of 0 has started" in shown.stderr


def test_without_slurm_the_exit_code_says_that_a_tool_is_missing(tmp_path: Path) -> None:
    environ = {**os.environ, "PATH": str(tmp_path)}
    taken = perfkit("snapshot", environ=environ)
    assert taken.returncode == 4
    assert "login node" in taken.stderr


def test_the_recorded_snapshot_in_local_units() -> None:
    words = ["--granted", "100", "--start", "2026-11-01", "--end", "2027-01-31"]
    shown = perfkit("show", RECORDED, "--system", "leonardo", *words, "--format", "json")
    assert shown.returncode == 0, shown.stderr
    document = json.loads(shown.stdout)
    # 3 s on 2 GPUs of each of 2 nodes, and twice 2 s on 1 GPU: 16 GPU-seconds of 4 * 3600 for 32.
    assert document["rows"][0]["used"] == pytest.approx(16 / 4 / 3600 * 32)
    assert [row["month"] for row in document["rows"]] == ["2026-11", "2026-12", "2027-01"]
    assert (document["unit"], document["jobs_started"]) == ("local core-hours", 3)
    assert document["energy_kwh"] is None
    assert "energy: not measured (said of 0 of 3 jobs)" in shown.stderr


def test_a_part_of_the_grant_is_not_enough() -> None:
    shown = perfkit("show", RECORDED, "--granted", "100")
    assert shown.returncode == 2
    assert "--start, --end is missing" in shown.stderr


def test_a_day_that_is_none_is_refused() -> None:
    shown = perfkit("show", RECORDED, "--granted", "1", "--start", "1.11.26", "--end", "2027-01-01")
    assert shown.returncode == 2
    assert "'1.11.26' is no day" in shown.stderr
