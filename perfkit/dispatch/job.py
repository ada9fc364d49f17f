"""A dispatch as a heterogeneous Slurm job: CPU ranks on one kind of nodes, replicas on another."""

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, TemplateError

from perfkit.dispatch.plan import Options, check_model
from perfkit.dispatch.prompt_file import open_prompts
from perfkit.dispatch.step import CPU, REPLICA, ROLES
from perfkit.errors import ConfigError, PerfkitError
from perfkit.study.systems import System, load_system, with_overrides
from perfkit.study.walltime import flush_s, format_walltime, parse_walltime
from perfkit.submit.queue import Refused, sbatch
from perfkit.submit.script import (
    INDENT,
    container_command,
    gpu_request,
    job_name,
    one_line,
    read_template,
)

TEMPLATE = "dispatch.sbatch.j2"


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchJob:
    """What the job's script is made of; the paths of the options are absolute."""

    options: Options
    system: System
    time_limit_s: int
    account: str | None = None
    cpu_partition: str | None = None
    """of the CPU ranks, where it is another"""
    image: Path | None = None

    @property
    def script(self) -> Path:
        """Beside the run folder, which the job itself makes."""
        out = self.options.out
        return out.with_name(f"{out.name}.sbatch")

    @property
    def ranks(self) -> int:
        """Of one replica."""
        return self.options.tp * self.options.pp

    @property
    def replicas_per_node(self) -> int:
        """A replica is within one node; ConfigError where it does not fit."""
        there = self.system.ranks_per_node
        if there is None:
            raise ConfigError(
                f"{self.system.name} does not say how many GPUs its nodes have. Give "
                "--gpus-per-node.",
            )
        if self.ranks > there:
            raise ConfigError(
                f"a replica with --tp {self.options.tp} --pp {self.options.pp} has {self.ranks} "
                f"ranks, and a node of {self.system.name} has room for {there}. A replica must fit "
                "on one node.",
            )
        return min(there // self.ranks, self.options.replicas)


def make_job(
    options: Options, system: str, time_limit: str, site: Mapping[str, str | int | None]
) -> DispatchJob:
    """The job, with everything checked that would make it fail after its wait."""
    where = with_overrides(load_system(system, options.models_dir), **site)
    try:
        time_limit_s = parse_walltime(time_limit)
    except ValueError as error:
        raise ConfigError(f"--time {time_limit!r} {error}.") from error
    found, _spec = check_model(options)
    open_prompts(options.prompts)
    resolved = replace(
        options,
        model=str(found.folder and found.folder.resolve()),
        prompts=options.prompts.resolve(),
        out=options.out.resolve(),
        device=options.device or where.device,
    )
    return DispatchJob(options=resolved, system=where, time_limit_s=time_limit_s)


def script_of(job: DispatchJob) -> str:
    """The script's text; ConfigError when a user's own template cannot be filled in."""
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    environment.filters["quote"] = shlex.quote
    try:
        return environment.from_string(read_template(TEMPLATE)).render(values(job))
    except TemplateError as error:
        raise ConfigError(f"slurm/{TEMPLATE} cannot be filled in: {error}.") from error


def check_account(job: DispatchJob) -> None:
    """ConfigError where a site charges every job and nobody said to whom."""
    if job.system.account_required and not (job.account or os.environ.get("SBATCH_ACCOUNT")):
        raise ConfigError(
            f"{job.system.name} charges every job to a project. Give --account PROJECT, or set "
            "SBATCH_ACCOUNT.",
        )


def submit(job: DispatchJob) -> str:
    """Write the script and submit it; the job's id."""
    job.script.parent.mkdir(parents=True, exist_ok=True)
    job.script.write_text(script_of(job), encoding="utf-8")
    try:
        return sbatch(job.script)
    except Refused as error:
        raise PerfkitError(f"sbatch refused {job.script}: {error}") from error


def values(job: DispatchJob) -> dict[str, Any]:
    """Everything the template may use."""
    options, system = job.options, job.system
    site = system.container if job.image else None
    return {
        "model": one_line(Path(options.model).name),
        "replicas": options.replicas,
        "cpu_workers": options.cpu_workers,
        "system": system.name,
        "title": one_line(system.title),
        "job_name": job_name("dispatch", options.out.name),
        "cpu_request": cpu_request(job),
        "replica_request": replica_request(job),
        "common": common_request(job),
        "output": shlex.quote(str(options.out).replace("%", "%%") + "-slurm-%j.out"),
        "modules": site.modules if site else system.modules,
        "environment": {**system.environment, **({"PYTHONNOUSERSITE": "1"} if site else {})},
        "command": srun(job),
    }


def cpu_request(job: DispatchJob) -> list[str]:
    """One core a task: a tokeniser has one thread."""
    partition = job.cpu_partition or job.system.partition
    return [
        *([f"--partition={partition}"] if partition else []),
        f"--ntasks={1 + job.options.cpu_workers}",
        "--cpus-per-task=1",
    ]


def replica_request(job: DispatchJob) -> list[str]:
    """As few nodes as hold the replicas; GPUs for those of one node."""
    system, replicas, per_node = job.system, job.options.replicas, job.replicas_per_node
    gpus = gpu_request(system, per_node * job.ranks) if job.options.device == "cuda" else None
    return [
        *([f"--partition={system.partition}"] if system.partition else []),
        f"--nodes={-(-replicas // per_node)}",
        f"--ntasks={replicas}",
        # Beside --ntasks this is the most that a node takes.
        f"--ntasks-per-node={per_node}",
        f"--cpus-per-task={cores_of_replica(job)}",
        *([gpus] if gpus else []),
    ]


def cores_of_replica(job: DispatchJob) -> int:
    return (job.system.cpus_of_task or 1) * job.ranks


def common_request(job: DispatchJob) -> list[str]:
    """What both components ask for."""
    system, flush = job.system, flush_s(job.time_limit_s)
    return [
        *([f"--qos={system.qos}"] if system.qos else []),
        *([f"--account={job.account}"] if job.account else []),
        f"--time={format_walltime(job.time_limit_s)}",
        *([f"--signal=TERM@{flush}"] if flush else []),
        # What was answered is kept; the same command goes on, when somebody says so.
        "--no-requeue",
        f"--chdir={shlex.quote(str(job.options.out.parent))}",
        *system.options,
    ]


def srun(job: DispatchJob) -> str:
    """Each component starts the same command in its own role."""
    cores = {CPU: 1, REPLICA: cores_of_replica(job)}
    steps = []
    for group, role in enumerate(ROLES):
        options = [f"--het-group={group}", f"--cpus-per-task={cores[role]}", *job.system.srun]
        steps.append(INDENT.join(shlex.join(line) for line in [options, *command(job, role)]))
    return "srun " + " \\\n  : ".join(steps)


def command(job: DispatchJob, role: str) -> list[list[str]]:
    """`perfkit dispatch MODEL ...` of one component, in words by line."""
    inside = [["-m", "perfkit", "dispatch", job.options.model], *words(job.options)]
    inside.append(["--role", role])
    if job.image is None:
        return [[sys.executable, *inside[0]], *inside[1:]]
    options = job.options
    binds = [str(options.out.parent), options.model, str(options.prompts.parent)]
    inside[0] = ["python3", *inside[0]]
    return container_command(job.image, inside, job.system.container, binds)


def words(options: Options) -> list[list[str]]:
    """The options again, in words by line; the numbers of workers are those of the tasks."""
    named = ("prompts", "out", "tp", "pp", "batch", "new_tokens", "dtype", "load", "device")
    given = {key: getattr(options, key) for key in (*named, "seed", "window", "queue")}
    lines = [
        ["--" + key.replace("_", "-"), str(value)]
        for key, value in given.items()
        if value is not None
    ]
    switches = {"--stop-at-eos": options.stop_at_eos, "--force": options.force}
    return [*lines, *([switch] for switch, on in switches.items() if on)]
