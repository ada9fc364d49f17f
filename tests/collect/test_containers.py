"""What to do where no GPU is seen depends on where one stands."""

from pathlib import Path

from perfkit.collect.containers import container_of, gpu_hint
from perfkit.collect.facts import amd_gpus

INSIDE = {"APPTAINER_CONTAINER": "/images/perfkit.sif", "SLURM_JOB_ID": "7"}


def test_the_image_is_known_by_its_name(tmp_path: Path) -> None:
    assert container_of(INSIDE, tmp_path) == "perfkit.sif"
    assert container_of({"SINGULARITY_CONTAINER": "/a/b.sif"}, tmp_path) == "b.sif"
    assert container_of({}, tmp_path) is None
    (tmp_path / ".dockerenv").touch()
    assert container_of({}, tmp_path) == "a container"


def test_inside_apptainer_nv_is_named(tmp_path: Path) -> None:
    hint = gpu_hint({**INSIDE, "SLURM_GPUS_ON_NODE": "2"}, tmp_path)
    assert hint.startswith("start perfkit.sif with --nv")
    assert "perfkit doctor" in hint
    assert "--gres" not in hint


def test_nv_is_not_asked_for_where_it_has_bound_the_driver(tmp_path: Path) -> None:
    libraries = tmp_path / ".singularity.d" / "libs"
    libraries.mkdir(parents=True)
    (libraries / "libcuda.so.1").touch()
    hint = gpu_hint({**INSIDE, "SLURM_GPUS_ON_NODE": "2"}, tmp_path)
    assert hint.startswith("perfkit.sif has the node's driver (--nv), but no device answers")
    assert "start perfkit.sif" not in hint


def test_a_job_without_gpus_is_told_first(tmp_path: Path) -> None:
    assert gpu_hint(INSIDE, tmp_path).startswith("this job was given no GPU")


def test_outside_of_containers_none_is_named(tmp_path: Path) -> None:
    assert gpu_hint({}, tmp_path) == "look whether `nvidia-smi` answers on this node"
    (tmp_path / ".dockerenv").touch()
    assert gpu_hint({}, tmp_path) == "start the container with the GPUs (docker: --gpus all)"


def test_gpus_of_amds_driver_are_counted(tmp_path: Path) -> None:
    """Node 0 of the kernel's list is the processor: it has no SIMD units."""
    for number, (simds, target) in enumerate([(0, 0), (440, 90010), (440, 90010)]):
        (tmp_path / str(number)).mkdir()
        text = f"cpu_cores_count 8\nsimd_count {simds}\ngfx_target_version {target}\n"
        (tmp_path / str(number) / "properties").write_text(text)
    found = amd_gpus(tmp_path)
    assert [gpu["name"] for gpu in found] == ["AMD GPU, gfx target 90010"] * 2
