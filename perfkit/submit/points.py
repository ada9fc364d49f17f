"""The points of a study on a system: settings, nodes, and why a point cannot run."""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from perfkit.errors import ConfigError
from perfkit.predict.spec import ModelSpec
from perfkit.predict.tensors import check_layout, layout_note
from perfkit.submit.study import SETTINGS, Study
from perfkit.submit.systems import System

NEW_TOKENS = 32
"""what `perfkit run` takes without --new-tokens"""

SHORT = {
    "batch": "b",
    "microbatches": "m",
    "prompt_tokens": "in",
    "new_tokens": "out",
    "split": "split",
    "stop_at_eos": "eos",
    "seed": "seed",
}
"""How a point's name shortens an option; a word such as bfloat16 stands by itself"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The nodes of a job: the same number of tasks on each, TP inside a node."""

    nodes: int
    tasks_per_node: int
    cpus_per_task: int | None
    exclusive: bool = False
    """no other job on the nodes, even where these tasks leave room"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One combination of settings, for the n-th time."""

    name: str
    settings: Mapping[str, Any]
    """options of `perfkit run`; tp, pp, batch and device are always there"""
    repeat: int
    placement: Placement | None
    refused: str | None
    """why it cannot run at all"""
    note: str | None = None

    @property
    def tp(self) -> int:
        return int(self.settings["tp"])

    @property
    def pp(self) -> int:
        return int(self.settings["pp"])

    @property
    def batch(self) -> int:
        return int(self.settings["batch"])


def expand(study: Study, system: System, spec: ModelSpec) -> list[Point]:
    """Every combination of the axes, `repeats` times, in the order of the study."""
    points = [
        _point(study, system, spec, varied, repeat)
        for varied in _combinations(study.axes)
        for repeat in range(1, study.repeats + 1)
    ]
    names = [point.name for point in points]
    assert len(set(names)) == len(names), f"two points with one name: {names}"
    return points


def _combinations(axes: Mapping[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _point(
    study: Study, system: System, spec: ModelSpec, varied: Mapping[str, Any], repeat: int
) -> Point:
    given = {"tp": 1, "pp": 1, "batch": 1, "device": system.device, **study.run, **varied}
    settings = {key: given[key] for key in SETTINGS if key in given}
    placement, refused = None, None
    try:
        check_settings(settings, spec)
        placement = place_ranks(study, system, settings["tp"], settings["pp"])
    except ConfigError as error:
        refused = str(error)
    return Point(
        name=point_name(settings["tp"], settings["pp"], varied, repeat),
        settings=settings,
        repeat=repeat,
        placement=placement,
        refused=refused,
        note=None if refused else layout_note(spec, settings["tp"]),
    )


def point_name(tp: int, pp: int, varied: Mapping[str, Any], repeat: int) -> str:
    """tp2-pp3-b8-r1: the layout, what varies in the study, and which repeat."""
    words = [f"tp{tp}", f"pp{pp}"]
    for key, value in varied.items():
        if key not in ("tp", "pp"):
            text = re.sub(r"[^A-Za-z0-9.]+", "+", str(value))
            words.append(f"{SHORT.get(key, '')}{text}")
    return "-".join([*words, f"r{repeat}"])


def check_settings(settings: Mapping[str, Any], spec: ModelSpec) -> None:
    """ConfigError for what `perfkit run` would refuse on the node, after the wait in the queue."""
    split = settings.get("split")
    layers = [int(part) for part in split.split(",")] if split else None
    check_layout(spec, tp=settings["tp"], pp=settings["pp"], split=layers)
    microbatches = settings.get("microbatches", 1)
    if microbatches > settings["batch"]:
        raise ConfigError(f"microbatches={microbatches} is more than batch={settings['batch']}.")
    tokens = settings.get("prompt_tokens", 1) + settings.get("new_tokens", NEW_TOKENS)
    if tokens > spec.max_positions:
        raise ConfigError(
            f"prompt and new tokens are {tokens}, but {spec.id} has {spec.max_positions} positions."
        )


def place_ranks(study: Study, system: System, tp: int, pp: int) -> Placement:
    """Nodes for tp * pp ranks; ConfigError when a node is too small or there are too few nodes.

    A stage's ranks stay inside a node. Without [job] stages_per_node a node takes as many stages
    as it has room for and as divide pp, so that every node has the same number of tasks: 4 GPUs,
    tp=2: pp=2 is 1 node, pp=3 is 3 nodes, pp=4 is 2 nodes.
    """
    room = system.ranks_per_node
    if room is None:
        raise ConfigError(
            f"system {system.name} does not say how many GPUs a node has. Give --gpus-per-node."
        )
    if tp > room:
        raise ConfigError(
            f"tp={tp} does not fit into a node of {room}: tensor parallelism stays inside a node."
        )
    stages = study.stages_per_node or _stages_that_fit(room // tp, pp)
    if stages * tp > room:
        raise ConfigError(
            f"stages_per_node={stages} of tp={tp} are {stages * tp} ranks; a node takes {room}."
        )
    if pp % min(stages, pp):
        raise ConfigError(f"stages_per_node={stages} does not divide pp={pp}.")
    stages = min(stages, pp)
    nodes = pp // stages
    if system.max_nodes and nodes > system.max_nodes:
        raise ConfigError(
            f"{nodes} nodes are more than the {system.max_nodes} that {system.name} gives a job."
        )
    return Placement(
        nodes=nodes,
        tasks_per_node=stages * tp,
        cpus_per_task=system.cpus_of_task,
        exclusive=study.exclusive,
    )


def _stages_that_fit(room: int, pp: int) -> int:
    return max(stages for stages in range(1, min(room, pp) + 1) if pp % stages == 0)
