"""What a result was made of, and its hash: how a finished point is known to be stale.

Counted is what can change the measured numbers: the settings of `perfkit run`, perfkit's release,
the model's config, the prompts' content, the system, its nodes, network, modules and environment,
and the container. Not counted, because the numbers stay what they are: account, QOS, time limit,
the titles and comments of files, billing, where results go and which Python runs. So a system file
may gain a source or lose a mark without making results stale.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfkit import __version__
from perfkit.engine.prompts import shipped_prompts
from perfkit.study.model import Model
from perfkit.study.points import Point
from perfkit.study.systems import System

LENGTH = 12


def made_of(point: Point, model: Model, system: System, container: Path | None) -> dict[str, Any]:
    """Everything that counts, by name: values where they are short, hashes where they are long."""
    settings = {k: v for k, v in point.settings.items() if k not in ("prompts", "collectors_dir")}
    assert point.placement is not None
    return {
        **settings,
        "repeat": point.repeat,
        "perfkit": __version__,
        "model": model.id,
        "model config": content_hash(json.dumps(model.config, sort_keys=True).encode()),
        "prompts": prompts_hash(point.settings.get("prompts")),
        "system": system.name,
        "partition": system.partition,
        "gpu": system.gpu,
        "hardware": system.hardware,
        "nodes": point.placement.nodes,
        "tasks per node": point.placement.tasks_per_node,
        "cpus per task": point.placement.cpus_per_task,
        "exclusive": point.placement.exclusive,
        "sbatch options": list(system.options),
        "srun options": list(system.srun),
        "master suffix": system.master_suffix,
        "interface": system.interface,
        "modules": list(system.modules if container is None else system.container.modules),
        "environment": dict(system.environment),
        "container": container_identity(container, system),
    }


def digest(parts: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the parts; the same on every machine and Python."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return content_hash(text.encode())


def content_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:LENGTH]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What changed, for people: "new_tokens was 16, is 32; prompts changed"."""
    said = []
    for key in [*now, *(key for key in before if key not in now)]:
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        long = key in ("model config", "prompts", "container") or isinstance(new, (list, dict))
        said.append(f"{key} changed" if long else f"{key} was {_word(old)}, is {_word(new)}")
    return "; ".join(said)


def prompts_hash(path: str | None) -> str:
    """Of the user's file, or of the shipped prompts."""
    if path is not None:
        return content_hash(Path(path).read_bytes())
    return content_hash(json.dumps(shipped_prompts()).encode())


def container_identity(image: Path | None, system: System) -> dict[str, Any] | None:
    """The image by name, size and time: reading tens of GB to hash them would take minutes."""
    if image is None:
        return None
    stat = image.stat() if image.exists() else None
    return {
        "image": image.name,
        "bytes": stat.st_size if stat else None,
        "modified_s": int(stat.st_mtime) if stat else None,
        "runtime": system.container.runtime,
        "flag": system.container.gpu_flag,
    }


def _word(value: Any) -> str:
    return "not set" if value is None else str(value)
