"""Studies, systems and jobs for the tests of perfkit.submit."""

from pathlib import Path
from typing import Any

from perfkit.study.file import Study
from perfkit.study.points import Placement, Point
from perfkit.study.systems import Billing, ContainerSite, System
from perfkit.submit.script import Job


def a_system(**changes: Any) -> System:
    """A cluster of four GPUs a node."""
    values: dict[str, Any] = {
        "name": "somewhere",
        "title": "Somewhere",
        "gpus_per_node": 4,
        "cores_per_node": 32,
        "partition": "gpu",
        "environment": {},
        "container": ContainerSite(gpu_flag="--nv"),
        "billing": Billing(unit="core-hours", per_node_hour=32.0, whole_nodes=False),
        "unverified": {},
    }
    return System(**{**values, **changes})


def a_study(**changes: Any) -> Study:
    """One point: TP 1, PP 1."""
    values: dict[str, Any] = {
        "name": "study",
        "path": Path("/studies/study.toml"),
        "title": "",
        "model": "llama-3.1-8b",
        "time_limit_s": 1800,
        "repeats": 1,
        "stages_per_node": None,
        "exclusive": False,
        "memory": None,
        "run": {},
        "axes": {},
    }
    return Study(**{**values, **changes})


def a_point(
    *,
    nodes: int = 1,
    tasks_per_node: int = 1,
    cpus_per_task: int | None = 8,
    exclusive: bool = False,
    **settings: Any,
) -> Point:
    return Point(
        name="tp1-pp1-r1",
        settings={"tp": 1, "pp": 1, "batch": 1, "device": "cuda", **settings},
        repeat=1,
        placement=Placement(
            nodes=nodes,
            tasks_per_node=tasks_per_node,
            cpus_per_task=cpus_per_task,
            exclusive=exclusive,
        ),
        refused=None,
    )


def a_job(point: Point, system: System, **changes: Any) -> Job:
    values: dict[str, Any] = {
        "study": "study",
        "point": point,
        "hash": "0123456789ab",
        "system": system,
        "folder": Path("/project/runs/study/tp1-pp1-r1"),
        "model": "/models/llama-3.1-8b",
        "time_limit_s": 1800,
        "python": "/opt/venv/bin/python",
    }
    return Job(**{**values, **changes})
