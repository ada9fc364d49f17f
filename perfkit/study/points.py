"""The points of a study on a system: settings, nodes, and why a point cannot run."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from perfkit.collect.plan import check_sharding, parse_split
from perfkit.errors import ConfigError
from perfkit.predict.spec import ModelSpec
from perfkit.predict.tensors import check_layout, layout_note
from perfkit.study.file import PATHS, Study
from perfkit.study.kinds import batch_of, varied_settings
from perfkit.study.systems import System
from perfkit.study.tables import DEFAULTS, PER_GPU, SETTINGS

SHORT = {
    "batch": "b",
    "microbatches": "m",
    "prompt_tokens": "in",
    "new_tokens": "out",
    "split": "split",
    "stop_at_eos": "eos",
    "quantize": "q+",
    "sharding": "by+",
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


Place = Callable[[Study, System, int, int], Placement]
"""puts tp * pp ranks on a system; ConfigError where that is not possible"""


def expand(
    study: Study, system: System, spec: ModelSpec, place: Place = place_ranks
) -> list[Point]:
    """Every point of the study, `repeats` times, in the order of the file."""
    points = [
        _point(study, system, spec, place, varied, repeat)
        for varied in varied_settings(study.points, study.axes)
        for repeat in range(1, study.repeats + 1)
    ]
    names = [point.name for point in points]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two points of {study.path.name} have the same name, {name}.")
    return points


def _point(
    study: Study,
    system: System,
    spec: ModelSpec,
    place: Place,
    varied: Mapping[str, Any],
    repeat: int,
) -> Point:
    given = {"tp": 1, "pp": 1, "device": system.device, **study.run, **varied}
    given["batch"] = batch_of(given)
    settings = {key: given[key] for key in SETTINGS if key in given}
    # The name has the batch that comes of batch_per_gpu.
    named = {key: given[key] for key in ("batch" if key == PER_GPU else key for key in varied)}
    placement, refused = None, None
    try:
        check_settings(settings, spec)
        placement = place(study, system, settings["tp"], settings["pp"])
    except ConfigError as error:
        refused = str(error)
    return Point(
        name=point_name(settings["tp"], settings["pp"], named, repeat),
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
            shown = PurePath(value).stem if key in PATHS else str(value)
            text = re.sub(r"[^A-Za-z0-9.]+", "+", shown)
            words.append(f"{SHORT.get(key, '')}{text}")
    return "-".join([*words, f"r{repeat}"])


def check_settings(settings: Mapping[str, Any], spec: ModelSpec) -> None:
    """ConfigError for what `perfkit run` would refuse on the node, after the wait in the queue."""
    layers = parse_split(settings.get("split"), spec, settings["pp"])
    check_sharding(settings.get("sharding", "autotp"), settings["tp"])
    sharding = "hf-tp" if settings.get("sharding") == "hf-tp" else "deepspeed"
    check_layout(spec, tp=settings["tp"], pp=settings["pp"], split=layers, sharding=sharding)
    if spec.num_experts and settings.get("quantize", "none") != "none":
        raise ConfigError(
            f"quantize={settings['quantize']}: {spec.id} has experts, which are not quantised."
        )
    microbatches = settings.get("microbatches", 1)
    if microbatches > settings["batch"]:
        raise ConfigError(f"microbatches={microbatches} is more than batch={settings['batch']}.")
    tokens = settings.get("prompt_tokens", 1) + settings.get("new_tokens", DEFAULTS["new_tokens"])
    if tokens > spec.max_positions:
        raise ConfigError(
            f"prompt and new tokens are {tokens}, but {spec.id} has {spec.max_positions} positions."
        )
