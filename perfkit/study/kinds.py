"""What a kind of study must vary, and what must stay the same, or its tables would say nothing."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from perfkit.study.tables import PER_GPU

Settings = Mapping[str, Any]

LAYOUT = ("tp", "pp", "split", "microbatches")
"""how the same work is divided"""
VARIES = {
    "batch": ("batch",),
    "precision": ("dtype", "quantize"),
    "context": ("prompt_tokens",),
    "profiler-overhead": ("collect",),
}
"""kinds of studies but scaling: what each compares"""


def combinations(
    run: Settings, points: Sequence[Settings], axes: Mapping[str, Sequence[Any]]
) -> list[dict[str, Any]]:
    """The settings of every point: its own table, one value of each axis, and what all share."""
    return [{**run, **varied} for varied in varied_settings(points, axes)]


def varied_settings(
    points: Sequence[Settings], axes: Mapping[str, Sequence[Any]]
) -> Iterator[dict[str, Any]]:
    """What differs from point to point, in the order of the file."""
    for point in points or ({},):
        for values in itertools.product(*axes.values()):
            yield {**point, **dict(zip(axes, values, strict=True))}


def num_gpus(settings: Settings) -> int:
    return int(settings.get("tp", 1)) * int(settings.get("pp", 1))


def batch_of(settings: Settings) -> int:
    """Sequences of a point: given, or so many for each GPU."""
    if PER_GPU in settings:
        return int(settings[PER_GPU]) * num_gpus(settings)
    return int(settings.get("batch", 1))


def wrong_for_kind(kind: str | None, points: Sequence[Settings]) -> list[str]:
    """Why these points are no study of that kind; empty when they are, or when it has none."""
    if kind is None:
        return []
    if kind in ("strong-scaling", "weak-scaling"):
        return _wrong_scaling(kind, points)
    keys = VARIES[kind]
    values = {tuple(_value(point, key) for key in keys) for point in points}
    names = " or ".join(keys)
    if len(values) < 2:
        return [f"kind: {kind} compares values of {names}. Give two or more in [axes]."]
    if kind == "profiler-overhead" and ("none",) not in values:
        return ['kind: profiler-overhead compares with no collector. Add "none" to collect.']
    return []


def _value(point: Settings, key: str) -> Any:
    return batch_of(point) if key == "batch" else point.get(key)


def _wrong_scaling(kind: str, points: Sequence[Settings]) -> list[str]:
    """Scaling compares the same work on several numbers of GPUs."""
    works: dict[int, set[tuple[Any, ...]]] = {}
    for point in points:
        works.setdefault(num_gpus(point), set()).add(_work(kind, point))
    if len(works) < 2:
        return [f"kind: {kind} compares numbers of GPUs. Vary tp or pp."]
    if len({frozenset(found) for found in works.values()}) == 1:
        return []
    if kind == "weak-scaling":
        return [
            f"kind: weak-scaling keeps the work of each GPU. Give {PER_GPU} instead of batch, or "
            "[[points]] whose batch grows with tp * pp.",
        ]
    return [
        "kind: strong-scaling does the same work on every number of GPUs, and batch or another "
        "option differs between them. Put what differs in [axes], or leave the kind out.",
    ]


def _work(kind: str, point: Settings) -> tuple[Any, ...]:
    batch: float = batch_of(point)
    if kind == "weak-scaling":
        batch /= num_gpus(point)
    rest = {k: v for k, v in point.items() if k not in (*LAYOUT, "batch", PER_GPU)}
    return (batch, *sorted((key, repr(value)) for key, value in rest.items()))
