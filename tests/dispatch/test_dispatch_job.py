"""The script of a dispatch on a real site's system file, and which task has which role."""

from dataclasses import replace
from pathlib import Path

import pytest

from perfkit.dispatch.job import DispatchJob, script_of
from perfkit.dispatch.plan import Options
from perfkit.dispatch.step import Step, slurm_step
from perfkit.errors import ConfigError
from perfkit.study.systems import load_system

OPTIONS = Options(
    model="/site/my models/llama",
    models_dir=None,
    prompts=Path("/site/prompts.jsonl"),
    out=Path("/site/runs/x"),
    force=False,
    command=(),
    cpu_workers=7,
    replicas=6,
    tp=2,
    pp=1,
    batch=8,
    new_tokens=32,
    stop_at_eos=True,
    dtype=None,
    load="safetensors",
    device="cuda",
    seed=0,
    window=4,
    queue=4,
)
STEP = {"SLURM_STEP_ID": "0", "SLURM_JOB_ID": "5", "SLURM_NTASKS": "4"}


def a_job() -> DispatchJob:
    return DispatchJob(
        options=OPTIONS,
        system=load_system("leonardo"),
        time_limit_s=3600,
        account="PROJECT",
        cpu_partition="dcgp_usr_prod",
    )


def test_six_replicas_of_two_gpus_take_three_nodes_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/venv/bin/python")
    head, body = script_of(a_job()).split("\nset -eu\n")
    assert [line for line in head.splitlines() if line.startswith("#SBATCH")] == [
        "#SBATCH --job-name=dispatch.x",
        "#SBATCH --partition=dcgp_usr_prod",
        "#SBATCH --ntasks=8",
        "#SBATCH --cpus-per-task=1",
        "#SBATCH --account=PROJECT",
        "#SBATCH --time=01:00:00",
        "#SBATCH --signal=TERM@120",
        "#SBATCH --no-requeue",
        "#SBATCH --chdir=/site/runs",
        "#SBATCH --output=/site/runs/x-slurm-%j.out",
        "#SBATCH hetjob",
        "#SBATCH --partition=boost_usr_prod",
        "#SBATCH --nodes=3",
        "#SBATCH --ntasks=6",
        "#SBATCH --ntasks-per-node=2",
        "#SBATCH --cpus-per-task=16",
        "#SBATCH --gres=gpu:4",
        "#SBATCH --account=PROJECT",
        "#SBATCH --time=01:00:00",
        "#SBATCH --signal=TERM@120",
        "#SBATCH --no-requeue",
        "#SBATCH --chdir=/site/runs",
    ]
    both = """\
/venv/bin/python -m perfkit dispatch '/site/my models/llama' \\
    --prompts /site/prompts.jsonl \\
    --out /site/runs/x \\
    --tp 2 \\
    --pp 1 \\
    --batch 8 \\
    --new-tokens 32 \\
    --load safetensors \\
    --device cuda \\
    --seed 0 \\
    --window 4 \\
    --queue 4 \\
    --stop-at-eos \\
    --role """
    assert body == (
        "\n# One step over both components, so that all tasks meet.\n"
        f"srun --het-group=0 --cpus-per-task=1 \\\n    {both}cpu \\\n"
        f"  : --het-group=1 --cpus-per-task=16 \\\n    {both}replica\n"
    )


def test_inside_a_container_both_components_run_its_own_python() -> None:
    body = script_of(replace(a_job(), image=Path("/site/perfkit.sif")))
    inside = [
        "    singularity exec --nv",
        "    --bind /site/runs",
        "    --bind '/site/my models/llama'",
        "    --bind /site",
        "    /site/perfkit.sif",
        "    python3 -m perfkit dispatch '/site/my models/llama'",
    ]
    assert body.count(" \\\n".join(inside)) == 2
    assert "export PYTHONNOUSERSITE=1\n" in body


def test_a_replica_that_is_larger_than_a_node_is_refused() -> None:
    job = replace(a_job(), options=replace(OPTIONS, tp=4, pp=2))
    with pytest.raises(ConfigError, match=r"--tp 4 --pp 2 has 8 ranks, and a node of leonardo"):
        script_of(job)


def test_components_of_a_heterogeneous_job_are_the_roles() -> None:
    het = {**STEP, "SLURM_NTASKS_HET_GROUP_0": "3", "SLURM_NTASKS_HET_GROUP_1": "1"}
    found = [slurm_step({**het, "SLURM_PROCID": str(rank)}, None) for rank in range(4)]
    assert found == [
        Step(role, rank, 4, "slurm-5.0")
        for rank, role in enumerate(["cpu", "cpu", "cpu", "replica"])
    ]


def test_a_step_without_roles_or_with_a_replica_first_is_refused() -> None:
    for role, said in ((None, "None"), ("replica", "replica")):
        with pytest.raises(
            ConfigError, match=f"srun started 4 tasks, and task 0 has --role {said}"
        ):
            slurm_step({**STEP, "SLURM_PROCID": "0"}, role)


def test_a_role_without_srun_is_refused() -> None:
    assert slurm_step({}, None) is None
    with pytest.raises(ConfigError, match="--role is for the tasks of one srun"):
        slurm_step({}, "cpu")
