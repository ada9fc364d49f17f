"""Which values of a system file a script rests on although nobody checked them at their source."""

from typing import Any

from perfkit.study.systems import System
from perfkit.study.walltime import format_walltime

ALWAYS = (
    "nodes.gpus_per_node",
    "nodes.cores_per_node",
    "slurm.partition",
    "slurm.qos",
    "slurm.gpu_request",
    "slurm.cpus_per_task",
    "slurm.max_walltime",
    "slurm.max_nodes",
    "slurm.options",
    "slurm.srun",
    "network.master_suffix",
    "network.interface",
    "software.environment",
)
OUTSIDE = ("software.modules",)
INSIDE = ("container.runtime", "container.gpu_flag", "container.binds", "container.modules")


def unverified_values(system: System, *, in_container: bool) -> list[str]:
    """One line a table: `[slurm] partition = gpu, gpu_request = gres; source: project notes`."""
    used = (*ALWAYS, *(INSIDE if in_container else OUTSIDE))
    marked = [key for key in used if key in system.unverified]
    lines = []
    for table in dict.fromkeys(key.partition(".")[0] for key in marked):
        keys = [key for key in marked if key.startswith(f"{table}.")]
        values = ", ".join(f"{key.partition('.')[2]} = {shown(system, key)}" for key in keys)
        lines.append(f"[{table}] {values}; source: {system.unverified[keys[0]]}")
    return lines


def shown(system: System, key: str) -> str:
    """The value behind TABLE.KEY as text."""
    table, _, name = key.partition(".")
    if name == "max_walltime":
        return format_walltime(system.max_walltime_s or 0)
    value: Any = getattr(system.container if table == "container" else system, name)
    if isinstance(value, tuple):
        return " ".join(value)
    if isinstance(value, dict):
        return " ".join(f"{key}={text}" for key, text in value.items())
    return str(value)
