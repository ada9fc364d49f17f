"""The sbatch script: whole texts beside golden files, and what bash makes of them."""

import os
import subprocess
from pathlib import Path

import pytest
from builders import a_job, a_point, a_system

from perfkit.errors import ConfigError
from perfkit.study.systems import ContainerSite, load_system
from perfkit.submit.script import Job, container_command, job_script, perfkit_run, read_template

GOLDEN = Path(__file__).parent / "golden"
ACCEPT = "PERFKIT_ACCEPT_GOLDEN"


def two_by_two() -> Job:
    """Four ranks on two nodes of the one-machine cluster."""
    point = a_point(nodes=2, tasks_per_node=2, cpus_per_task=1, tp=2, pp=2, device="cpu")
    return a_job(point, load_system("dev-cluster"))


def on_leonardo() -> Job:
    """A profiled run with an account and a limit of a day and a half."""
    point = a_point(
        nodes=3,
        tasks_per_node=2,
        exclusive=True,
        tp=2,
        pp=3,
        batch=8,
        prompt_tokens=2048,
        stop_at_eos=True,
        collect="nsys,sacct",
    )
    system = load_system("leonardo")
    return a_job(point, system, account="EUHPC_1", time_limit_s=129_600)


def on_jupiter() -> Job:
    """A suffix of the master's name, an interface, modules."""
    system = a_system(
        modules=("GCC", "CUDA/12"),
        environment={"NCCL_DEBUG": "WARN", "NOTE": "two words; $HOME"},
        master_suffix="i",
        interface="ib0",
        qos="normal",
        gpu_request="gres",
    )
    return a_job(a_point(nodes=2, tasks_per_node=4, tp=4, pp=2), system, memory="480G")


def in_a_container() -> Job:
    """NVIDIA GPUs, a site's own bind and module, two of the user's."""
    site = ContainerSite(gpu_flag="--nv", binds=("/scratch",), modules=("apptainer",))
    return a_job(
        a_point(nodes=2, tasks_per_node=4, tp=4, pp=2),
        a_system(container=site),
        image=Path("/images/perfkit.sif"),
        binds=("/project/runs/study", "/opt/nvidia/nsight-systems:/opt/nvidia/nsight-systems:ro"),
    )


def in_a_container_on_lumi() -> Job:
    point = a_point(nodes=1, tasks_per_node=8, cpus_per_task=7, tp=8)
    return a_job(point, load_system("lumi-g"), image=Path("/images/rocm.sif"), account="p_1")


def in_a_container_without_gpus() -> Job:
    """Nothing to check before the run."""
    point = a_point(cpus_per_task=1, device="cpu")
    return a_job(point, load_system("dev-cluster"), image=Path("/images/perfkit.sif"))


def with_blanks() -> Job:
    """Every path has a blank, a quote or a percent sign, and the limit is one minute."""
    point = a_point(prompts="/data/my prompts/it's.jsonl", cpus_per_task=None)
    return a_job(
        point,
        a_system(partition=None),
        study="my study",
        folder=Path("/project/50% done/my study/tp1-pp1-r1"),
        model="/models/my model",
        python="/opt/my venv/bin/python",
        time_limit_s=60,
    )


CASES = {
    job.__name__: job
    for job in (
        two_by_two,
        on_leonardo,
        on_jupiter,
        in_a_container,
        in_a_container_on_lumi,
        in_a_container_without_gpus,
        with_blanks,
    )
}


@pytest.mark.parametrize("case", CASES)
def test_the_script_is_the_golden_one(case: str) -> None:
    text, golden = job_script(CASES[case](), read_template()), GOLDEN / f"{case}.sbatch"
    if os.environ.get(ACCEPT):
        golden.write_text(text)
    assert golden.is_file(), f"no {golden}. Write it: {ACCEPT}=1 pytest {__file__}"
    assert text == golden.read_text(), (
        f"{golden} differs. Read the difference; accept it with: {ACCEPT}=1 pytest {__file__}"
    )


@pytest.mark.parametrize("case", CASES)
def test_bash_accepts_the_script(case: str) -> None:
    done = subprocess.run(
        ["bash", "-n", GOLDEN / f"{case}.sbatch"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("case", CASES)
def test_options_stand_before_the_first_command_and_in_one_order(case: str) -> None:
    lines = (GOLDEN / f"{case}.sbatch").read_text().splitlines()
    options = [line.split()[1].partition("=")[0] for line in lines if line.startswith("#SBATCH")]
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(not line.startswith("#SBATCH") for line in lines[first_command:])
    order = [
        *("--job-name", "--partition", "--qos", "--account", "--nodes", "--ntasks-per-node"),
        *("--cpus-per-task", "--gres", "--gpus-per-node", "--mem", "--exclusive", "--time"),
        *("--signal", "--no-requeue", "--chdir", "--output"),
    ]
    assert options == [option for option in order if option in options]


# Stands for the commands of a node, so that bash itself shows the words it would give to srun.
NODE = """
scontrol() { echo node7; echo node8; }
module() { :; }
getent() { [ "$2" = node7i ]; }
srun() { printf '%s\\0' "$@"; return "${SRUN_FAILS:-0}"; }
export SLURM_JOB_ID=4711 SLURM_JOB_NODELIST='node[7-8]' SLURM_CPUS_PER_TASK=8
"""


def in_bash(job: Job, last: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The script run by bash with srun as a function that prints its words, then `last`."""
    return subprocess.run(
        ["bash", "-c", f"{NODE}\n{job_script(job, read_template())}\n{last}"],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_word_reaches_srun_whole() -> None:
    done = in_bash(with_blanks())
    assert done.stdout.split("\0")[:-1] == [
        "/opt/my venv/bin/python",
        *("-m", "perfkit", "run", "/models/my model"),
        *("--tp", "1", "--pp", "1", "--batch", "1", "--device", "cuda"),
        *("--prompts", "/data/my prompts/it's.jsonl"),
        *("--out", "/project/50% done/my study/tp1-pp1-r1/run"),
    ]


def test_the_master_is_the_first_node_by_its_name_in_the_fast_network() -> None:
    job = on_jupiter()
    show = 'echo "$MASTER_ADDR $MASTER_PORT $NCCL_SOCKET_IFNAME $GLOO_SOCKET_IFNAME $NOTE"'
    seen = in_bash(job, f"echo; {show}").stdout.splitlines()[-1]
    assert seen == "node7i 24711 ib0 ib0 two words; $HOME"


def test_a_suffix_that_does_not_resolve_is_left_out() -> None:
    job = a_job(a_point(), a_system(master_suffix="-hs"))
    assert in_bash(job, 'echo; echo "$MASTER_ADDR"').stdout.splitlines()[-1] == "node7"


def test_steps_get_the_cores_of_the_job() -> None:
    seen = in_bash(two_by_two(), 'echo; echo "$SRUN_CPUS_PER_TASK"').stdout.splitlines()[-1]
    assert seen == "8"


def test_a_container_that_sees_no_gpu_ends_the_job_before_anything_is_loaded() -> None:
    done = in_bash(in_a_container(), SRUN_FAILS="6")
    assert done.returncode == 1
    words = done.stdout.split("\0")[:-1]
    assert words[-2:] == ["nvidia-smi", "-L"]
    assert "perfkit" not in words
    assert "perfkit: no GPU is visible inside the container" in done.stderr
    assert "--nv binds the driver's libraries" in done.stderr


def test_the_container_line_in_words() -> None:
    site = ContainerSite(runtime="singularity", gpu_flag="--rocm", binds=("/a", "/b:/c:ro"))
    found = container_command(Path("/i.sif"), [["python3", "-m", "perfkit"], ["run"]], site, ["/a"])
    assert found == [
        ["singularity", "exec", "--rocm"],
        ["--bind", "/a"],
        ["--bind", "/b:/c:ro"],
        ["/i.sif"],
        ["python3", "-m", "perfkit"],
        ["run"],
    ]


def test_a_switch_has_no_value() -> None:
    settings = {"tp": 1, "stop_at_eos": True}
    assert perfkit_run("m", settings, Path("/o"))[1:] == [
        ["--tp", "1"],
        ["--stop-at-eos"],
        ["--out", "/o"],
    ]
    off = perfkit_run("m", {"tp": 1, "stop_at_eos": False}, Path("/o"))
    assert off[1:] == [["--tp", "1"], ["--out", "/o"]]


def test_a_template_of_ones_own_that_names_nothing_known_is_refused() -> None:
    with pytest.raises(ConfigError, match="'partitoin' is undefined"):
        job_script(two_by_two(), "#SBATCH --partition={{ partitoin }}")
