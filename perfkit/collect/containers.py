"""Whether this process runs inside a container, and what to do when it sees no GPU there."""

from collections.abc import Mapping
from pathlib import Path

# What Apptainer and SingularityCE set inside: the image's path, or its name.
IMAGE_VARIABLES = ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")
# Where --nv binds the driver's libraries that it found on the node; empty if it found none.
DRIVER_LIBRARY = "/.singularity.d/libs/libcuda.so*"
# Slurm sets one of these for a job that was given GPUs.
GIVEN_GPUS = ("SLURM_GPUS_ON_NODE", "SLURM_JOB_GPUS", "SLURM_STEP_GPUS")


def apptainer_image(environ: Mapping[str, str]) -> str | None:
    """The file's name of the image that Apptainer or SingularityCE runs this process in."""
    for variable in IMAGE_VARIABLES:
        if environ.get(variable):
            return Path(environ[variable]).name
    return None


def container_of(environ: Mapping[str, str], root: Path = Path("/")) -> str | None:
    """The image that this process runs in, by its file's name; None outside of any container."""
    if image := apptainer_image(environ):
        return image
    if (root / ".dockerenv").exists() or (root / "run" / ".containerenv").exists():
        return "a container"
    return None


def gpu_hint(environ: Mapping[str, str], root: Path = Path("/")) -> str:
    """What to do where nvidia-smi shows no GPU, for where this process stands."""
    hints = []
    if "SLURM_JOB_ID" in environ and not any(environ.get(name) for name in GIVEN_GPUS):
        hints.append("this job was given no GPU: ask with --gpus-per-node or --gres=gpu:N")
    if image := apptainer_image(environ):
        hints.append(_hint_in_apptainer(image, root))
    elif container_of(environ, root):
        hints.append("start the container with the GPUs (docker: --gpus all)")
    else:
        hints.append("look whether `nvidia-smi` answers on this node")
    return "; ".join(hints)


def _hint_in_apptainer(image: str, root: Path) -> str:
    if any(root.glob(DRIVER_LIBRARY.lstrip("/"))):
        return (
            f"{image} has the node's driver (--nv), but no device answers: look whether "
            "`nvidia-smi` does in the same job, outside the container"
        )
    return (
        f"start {image} with --nv (AMD: --rocm); if it was, the node's loader does not list "
        "the driver's libraries: run `perfkit doctor` on the node, outside the container"
    )
