"""Whether this process runs inside a container, and what to do when it sees no GPU there."""

from collections.abc import Mapping
from pathlib import Path

# What Apptainer and SingularityCE set inside: the image's path, or its name.
IMAGE_VARIABLES = ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")
# Slurm sets one of these for a job that was given GPUs.
GIVEN_GPUS = ("SLURM_GPUS_ON_NODE", "SLURM_JOB_GPUS", "SLURM_STEP_GPUS")


def container_of(environ: Mapping[str, str], root: Path = Path("/")) -> str | None:
    """The image that this process runs in, by its file's name; None outside of any container."""
    for variable in IMAGE_VARIABLES:
        if environ.get(variable):
            return Path(environ[variable]).name
    if (root / ".dockerenv").exists() or (root / "run" / ".containerenv").exists():
        return "a container"
    return None


def gpu_hint(environ: Mapping[str, str]) -> str:
    """What to do where nvidia-smi shows no GPU, for where this process stands."""
    hints = []
    if "SLURM_JOB_ID" in environ and not any(environ.get(name) for name in GIVEN_GPUS):
        hints.append("this job was given no GPU: ask with --gpus-per-node or --gres=gpu:N")
    image = container_of(environ)
    if image is not None and any(environ.get(name) for name in IMAGE_VARIABLES):
        hints.append(
            f"start {image} with --nv (AMD: --rocm); if it was, the node's loader does not list "
            "the driver's libraries: run `perfkit doctor` on the node, outside the container"
        )
    elif image is not None:
        hints.append("start the container with the GPUs (docker: --gpus all)")
    else:
        hints.append("look whether `nvidia-smi` answers on this node")
    return "; ".join(hints)
