"""This machine as a system: what it has, how ranks are put on it, what cannot run on it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from perfkit.collect.collectors import choose, probe, read_collectors
from perfkit.collect.facts import host_facts
from perfkit.collect.launch import num_tasks
from perfkit.errors import ConfigError
from perfkit.predict.gpus import gpu_of_device, load_gpu
from perfkit.study.file import Study
from perfkit.study.forecast import Target
from perfkit.study.model import check_weights
from perfkit.study.points import Placement
from perfkit.study.systems import ContainerSite, System
from perfkit.submit.plan import Planned, Setting, values_of

NAME = "this-machine"


def this_machine(facts: Mapping[str, Any] | None = None) -> System:
    """What host_facts found, as a system of one node; Slurm has no part in it."""
    found = facts or host_facts()
    gpus = found["gpus"]
    names = [gpu["name"] for gpu in gpus]
    kinds = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    hardware = ", ".join([f"{found['cores']} cores of {found['cpu']}", *(kinds or ["no GPU"])])
    return System(
        name=NAME,
        title=f"{found['host']}: {hardware}",
        gpus_per_node=len(gpus),
        gpu=gpu_of_device(gpus),
        hardware=hardware,
        cores_per_node=found["cores"],
        environment={},
        container=ContainerSite(),
        unverified={},
    )


def target_here(
    system: System, device: str, models_dir: Path | None, facts: Mapping[str, Any]
) -> Target:
    """For the forecasts: the GPU found, or the processors, which may have been calibrated."""
    gpus = facts["gpus"]
    return Target(
        name="this machine",
        gpu=load_gpu(system.gpu, models_dir) if system.gpu else None,
        device_name=str(gpus[0]["name"] if device == "cuda" and gpus else facts["cpu"]),
        host_memory_bytes=facts["memory_bytes"],
        models_dir=models_dir,
    )


def device_here(study: Study, system: System) -> str:
    """What the study's points run on."""
    return str(study.run.get("device", system.device))


def place_here(study: Study, system: System, tp: int, pp: int) -> Placement:
    """All ranks on this machine: one a GPU, or any number on its processors."""
    ranks = tp * pp
    gpus = system.gpus_per_node or 0
    if device_here(study, system) == "cuda" and ranks > gpus:
        raise ConfigError(f"tp * pp = {ranks} ranks need as many GPUs; this machine has {gpus}.")
    cores = system.cores_per_node or 1
    return Placement(nodes=1, tasks_per_node=ranks, cpus_per_task=max(1, cores // ranks))


def check_here(setting: Setting) -> None:
    """ConfigError for what would make every point fail, found before the first is started."""
    check_alone(os.environ)
    if setting.wishes.dry_run:
        return
    if "safetensors" in values_of(setting.study, "load", "safetensors"):
        check_weights(setting.model)


def check_alone(environ: Mapping[str, str]) -> None:
    """ConfigError inside an allocation of several nodes or a step of several tasks."""
    nodes = int(environ.get("SLURM_JOB_NUM_NODES", "1"))
    if nodes > 1 or num_tasks(environ) > 1:
        raise ConfigError(
            "perfkit run STUDY starts the ranks of its points itself, on one machine; this job "
            f"has {nodes} node(s) and {num_tasks(environ)} task(s). Use perfkit submit, or a job "
            "of one node and one task.",
        )


def notes_here(study: Study, system: System, ranks: Sequence[int]) -> list[str]:
    """What a reader of the plan must know of running it on one machine."""
    found = []
    if study.stages_per_node is not None:
        found.append("[job] stages_per_node has no effect: all ranks are on this machine")
    cores = system.cores_per_node or 1
    if device_here(study, system) == "cpu" and max(ranks, default=0) > cores:
        found.append(f"points of up to {max(ranks)} ranks share {cores} cores")
    elif device_here(study, system) == "cuda" and system.gpu is None:
        found.append("models/gpus.toml does not know this GPU: nothing is predicted for it")
    return found


def skip_missing_collectors(study: Study, plan: Sequence[Planned]) -> list[Planned]:
    """In a study of what profilers cost, a point whose profiler is not here measures nothing."""
    if study.kind != "profiler-overhead":
        return list(plan)
    reasons = [missing_collectors(one.point.settings) if one.todo else None for one in plan]
    return [
        replace(one, todo=False, state="skipped", why=reason) if reason else one
        for one, reason in zip(plan, reasons, strict=True)
    ]


def missing_collectors(settings: Mapping[str, Any]) -> str | None:
    """Which of the collectors that a point names cannot record here, and why."""
    collect, own = settings.get("collect", "auto"), settings.get("collectors_dir")
    if collect in ("auto", "none"):
        return None
    chosen = choose(collect, read_collectors(Path(own) if own else None))
    missing = {one.name: probe(one, os.environ).missing for one in chosen}
    return "; ".join(f"{name}: {why}" for name, why in missing.items() if why) or None
