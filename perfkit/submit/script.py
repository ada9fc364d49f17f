"""The text of one sbatch script: slurm/job.sbatch.j2 filled in, a pure function of its values."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, TemplateError

from perfkit.errors import ConfigError
from perfkit.paths import find
from perfkit.study.points import Point
from perfkit.study.systems import ContainerSite, System
from perfkit.study.walltime import flush_s, format_walltime

TEMPLATE = "job.sbatch.j2"
INDENT = " \\\n    "

GPU_CHECKS = {"--nv": ["nvidia-smi", "-L"], "--rocm": ["rocm-smi"]}
"""What lists the GPUs inside a container; both fail when there is none"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One point as a job, everything resolved; paths are absolute."""

    study: str
    kind: str | None = None
    """of the study"""
    point: Point
    hash: str
    system: System
    folder: Path
    model: str
    time_limit_s: int
    account: str | None = None
    memory: str | None = None
    python: str
    """the interpreter that has perfkit, outside a container"""
    image: Path | None = None
    binds: tuple[str, ...] = ()
    """what the container must see besides the site's own binds"""


def job_script(job: Job, template: str) -> str:
    """The script's text; ConfigError when a user's own template cannot be filled in."""
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    environment.filters["quote"] = shlex.quote
    try:
        return environment.from_string(template).render(values(job))
    except TemplateError as error:
        raise ConfigError(f"{TEMPLATE} cannot be filled in: {error}.") from error


def read_template(name: str = TEMPLATE) -> str:
    """slurm/job.sbatch.j2 or another of that folder, or the user's own in PERFKIT_SLURM_DIR."""
    path = find("slurm", name)
    if path is None:
        raise ConfigError(
            f"slurm/{name} was not found. Install perfkit again, or set PERFKIT_SLURM_DIR to "
            "a folder that holds it.",
        )
    return path.read_text(encoding="utf-8")


def values(job: Job) -> dict[str, Any]:
    """Everything the template may use."""
    system, placement = job.system, job.point.placement
    assert placement is not None
    gpus = placement.tasks_per_node if job.point.settings["device"] == "cuda" else 0
    flush = flush_s(job.time_limit_s)
    site = system.container if job.image else None
    return {
        "study": one_line(job.study),
        "point": job.point.name,
        "hash": job.hash,
        "system": system.name,
        "title": one_line(system.title),
        "job_name": job_name(job.study, job.point.name),
        "partition": system.partition,
        "qos": system.qos,
        "account": job.account,
        "nodes": placement.nodes,
        "tasks_per_node": placement.tasks_per_node,
        "cpus_per_task": placement.cpus_per_task,
        "gpu_request": gpu_request(system, gpus),
        "memory": job.memory,
        "exclusive": placement.exclusive,
        "time": format_walltime(job.time_limit_s),
        "signal": f"TERM@{flush}" if flush else None,
        "folder": shlex.quote(str(job.folder)),
        "output": shlex.quote(output_pattern(job.folder)),
        "options": system.options,
        "modules": site.modules if site else system.modules,
        "environment": environment_of(job),
        "master_suffix": system.master_suffix,
        "interface": system.interface,
        "gpu_check": gpu_check(job, placement.nodes) if gpus and job.image else None,
        "image": str(job.image),
        "runtime": system.container.runtime,
        "gpu_flag": system.container.gpu_flag,
        "command": folded([["srun", *system.srun], *command(job)]),
    }


def command(job: Job) -> list[list[str]]:
    """What srun starts on every rank, in words by line."""
    ours = perfkit_run(job.model, job.point.settings, job.folder / "run")
    if job.image is None:
        return [[job.python, "-m", *ours[0]], *ours[1:]]
    # Inside, the image's own Python has perfkit.
    inside = [["python3", "-m", *ours[0]], *ours[1:]]
    return container_command(job.image, inside, job.system.container, job.binds)


def container_command(
    image: Path, inside: Sequence[Sequence[str]], site: ContainerSite, binds: Sequence[str] = ()
) -> list[list[str]]:
    """`apptainer exec --nv --bind A ... IMAGE COMMAND`, in words by line.

    One --bind each, because a comma separates binds inside one. The site's own come first; a bind
    that is given twice is kept once.
    """
    flags = [site.gpu_flag] if site.gpu_flag else []
    bound = dict.fromkeys([*site.binds, *binds])
    return [
        [site.runtime, "exec", *flags],
        *(["--bind", bind] for bind in bound),
        [str(image)],
        *(list(line) for line in inside),
    ]


def gpu_check(job: Job, nodes: int) -> str | None:
    """A step of one task a node that lists the GPUs inside the container."""
    flag = job.system.container.gpu_flag
    if job.image is None or flag is None:
        return None
    step = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    return folded([step, *container_command(job.image, [GPU_CHECKS[flag]], job.system.container)])


def perfkit_run(model: str, settings: Mapping[str, Any], out: Path) -> list[list[str]]:
    """`perfkit run MODEL --tp 2 ...`, in words by line: the options in perfkit's own order."""
    lines = [["perfkit", "run", model]]
    for key, value in settings.items():
        option = "--" + key.replace("_", "-")
        if value is True:
            lines.append([option])
        elif value is not False:
            lines.append([option, str(value)])
    return [*lines, ["--out", str(out)]]


def environment_of(job: Job) -> dict[str, str]:
    """The site's variables; in a container also one that keeps ~/.local out of its Python."""
    ours = {"PYTHONNOUSERSITE": "1"} if job.image else {}
    return {**job.system.environment, **ours}


def gpu_request(system: System, gpus: int) -> str | None:
    """--gres=gpu:4 or --gpus-per-node=4, as the site wants it."""
    if not gpus:
        return None
    return f"--gres=gpu:{gpus}" if system.gpu_request == "gres" else f"--gpus-per-node={gpus}"


def job_name(study: str, point: str) -> str:
    """As squeue shows it; letters that Slurm would read as a pattern or an option are replaced."""
    return re.sub(r"[^A-Za-z0-9._+-]", "_", f"{study}.{point}")


def output_pattern(folder: Path) -> str:
    """Where sbatch puts what the job prints: %j is the job's number, %% a percent sign."""
    return str(folder).replace("%", "%%") + "/slurm-%j.out"


def folded(lines: Sequence[Sequence[str]]) -> str:
    """Words by line as one shell command over several lines."""
    return INDENT.join(shlex.join(line) for line in lines)


def one_line(text: str) -> str:
    """Text for a comment: a line break would end the comment."""
    return " ".join(text.split())
