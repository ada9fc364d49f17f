"""Classifies kernels and operations by name, from the rules in kernel_classes.toml.

Only unique names are matched (hundreds), never rows (millions). Rules of a user's own, in the file
that PERFKIT_KERNEL_CLASSES names, come before the shipped ones.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.errors import ConfigError

CLASS_NAMES = ("comm", "compute", "copy")
RULES_FILE = Path(__file__).with_name("kernel_classes.toml")

# One spelling for each collective: record_param_comms, gloo, NCCL kernels and c10d each have
# their own.
OPS = {
    "allreduce": "all_reduce",
    "allgather": "all_gather",
    "allgatherbase": "all_gather",
    "allgatherintotensorcoalesced": "all_gather",
    "reducescatter": "reduce_scatter",
    "reducescatterbase": "reduce_scatter",
    "alltoall": "all_to_all",
    "alltoallv": "all_to_all",
    "alltoallbase": "all_to_all",
    "sendrecv": "send_recv",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of kernel_classes.toml."""

    pattern: re.Pattern[str]
    cls: str
    family: str


@dataclass(frozen=True, slots=True)
class Kind:
    """What a name stands for."""

    cls: str
    family: str
    op: str | None = None


@cache
def rules() -> tuple[Rule, ...]:
    """The user's rules, then the shipped ones, in order."""
    own = os.environ.get("PERFKIT_KERNEL_CLASSES")
    files = [*([Path(own).expanduser()] if own else []), RULES_FILE]
    return tuple(rule for file in files for rule in read_rules(file))


def read_rules(path: Path) -> list[Rule]:
    """One file of rules; ConfigError that names the rule which is wrong."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the kernel classes {path}: {error}") from error
    return [_rule(path, number, rule) for number, rule in enumerate(content.get("rule", []), 1)]


def _rule(path: Path, number: int, content: Mapping[str, Any]) -> Rule:
    if set(content) != {"match", "class", "family"} or content["class"] not in CLASS_NAMES:
        raise ConfigError(
            f"{path}, rule {number}: give match, class ({', '.join(CLASS_NAMES)}) and family."
        )
    try:
        return Rule(re.compile(content["match"]), content["class"], content["family"])
    except re.error as error:
        raise ConfigError(f"{path}, rule {number}: {error} in {content['match']!r}") from error


@cache
def classify(name: str) -> Kind:
    """Class, family and collective of one kernel name; unknown when no rule matches."""
    for rule in rules():
        if found := rule.pattern.search(name):
            return Kind(rule.cls, rule.family, collective(found.groupdict().get("op")))
    return Kind("unknown", "unknown")


@cache
def collective(name: str | None) -> str | None:
    """all_reduce for AllReduce, allreduce or allreduce_; a name without a spelling keeps its own.

    NCCL calls a fused group Generic or `coalesced`: that says nothing, so it is None.
    """
    letters = re.sub(r"[^a-z]", "", (name or "").lower())
    if letters in ("", "generic", "coalesced"):
        return None
    return OPS.get(letters, letters)


def classified(names: Iterable[str]) -> pl.DataFrame:
    """One row for each different name: name, class, family, kernel_op."""
    unique = sorted(set(names))
    kinds = [classify(name) for name in unique]
    return pl.DataFrame(
        {
            "name": unique,
            "class": [kind.cls for kind in kinds],
            "family": [kind.family for kind in kinds],
            "kernel_op": [kind.op for kind in kinds],
        },
        schema={"name": pl.String, "class": pl.String, "family": pl.String, "kernel_op": pl.String},
    )
