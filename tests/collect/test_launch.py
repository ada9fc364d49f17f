"""Where a process stands: one rank under srun, or the parent of all ranks."""

import pytest

from perfkit.collect.launch import engine_environment, find_place, local_place, tasks_on_this_node
from perfkit.collect.settings import RunSettings
from perfkit.collect.tasks import EngineTask
from perfkit.errors import ConfigError

STEP = {
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_ID": "3",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}


def test_outside_slurm_every_rank_is_started_here() -> None:
    place = find_place(4, {})
    assert place.ranks == (0, 1, 2, 3)
    assert place.whole
    assert not place.slurm


def test_a_slurm_task_is_one_rank() -> None:
    place = find_place(4, STEP)
    assert place.ranks == (2,)
    assert place.ranks_on_node == 2
    assert place.launch_id == "slurm-12.3"
    assert not place.first


def test_one_task_of_an_allocation_still_starts_every_rank_itself() -> None:
    """`sbatch` without srun: a batch script has SLURM_PROCID=0 and SLURM_NTASKS=1."""
    place = find_place(4, {**STEP, "SLURM_PROCID": "0", "SLURM_NTASKS": "1"})
    assert place.ranks == (0, 1, 2, 3)


def test_a_batch_script_on_one_node_starts_every_rank_itself() -> None:
    batch = {key: value for key, value in STEP.items() if key != "SLURM_STEP_ID"}
    assert find_place(4, {**batch, "SLURM_JOB_NUM_NODES": "1"}).ranks == (0, 1, 2, 3)


def test_a_batch_script_on_several_nodes_is_told_to_use_srun() -> None:
    batch = {key: value for key, value in STEP.items() if key != "SLURM_STEP_ID"}
    with pytest.raises(ConfigError, match="Use `srun perfkit run"):
        find_place(4, {**batch, "SLURM_JOB_NUM_NODES": "2"})


def test_a_requeued_job_is_another_launch() -> None:
    """It keeps its number and starts again at step 0, maybe over the folder of its first try."""
    again = find_place(4, {**STEP, "SLURM_RESTART_COUNT": "1"})
    assert again.launch_id != find_place(4, STEP).launch_id


def test_the_number_of_tasks_must_be_tp_times_pp() -> None:
    with pytest.raises(ConfigError, match=r"srun started 4 tasks, but tp \* pp = 8"):
        find_place(8, STEP)


@pytest.mark.parametrize(
    ("layout", "node", "tasks"), [("2(x3),1", "0", 2), ("2(x3),1", "3", 1), ("4", "0", 4)]
)
def test_tasks_on_this_node(layout: str, node: str, tasks: int) -> None:
    variables = {"SLURM_STEP_TASKS_PER_NODE": layout, "SLURM_NODEID": node}
    assert tasks_on_this_node(variables, 9) == tasks


def test_ranks_share_the_cores_and_never_ask_a_hub() -> None:
    environment = engine_environment(local_place(64), 5, ("127.0.0.1", 1234), {"PATH": "/bin"})
    assert environment["RANK"] == environment["LOCAL_RANK"] == "5"
    assert environment["WORLD_SIZE"] == "64"
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["PATH"] == "/bin"


def test_a_users_thread_count_wins() -> None:
    environment = engine_environment(local_place(2), 0, ("h", 1), {"OMP_NUM_THREADS": "7"})
    assert environment["OMP_NUM_THREADS"] == "7"


def test_ranks_on_cpus_see_no_gpu() -> None:
    """DeepSpeed would move its layers to one."""
    place, master, environ = local_place(1), ("127.0.0.1", 1), {"CUDA_VISIBLE_DEVICES": "0"}
    for device, visible in (("cpu", ""), ("cuda", "0")):
        task = EngineTask(RunSettings(model_id="m", model_folder=None, device=device), {})
        assert task.environment(place, 0, master, environ)["CUDA_VISIBLE_DEVICES"] == visible
