"""Collectors are data: each file in collectors/ says how one tool records a run.

This module reads the files and finds out what works here. Standard library only: it runs on the
rank's node. A collector that cannot run is never an error of the run; its reason is recorded.
"""

import glob
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perfkit.collect.facts import gpu_facts
from perfkit.errors import ConfigError
from perfkit.paths import listing

SCOPES = ("rank", "node", "job")
RANK_CHOICES = ("all", "ends", "first")
PROBE_TIMEOUT_S = 20
# What `--collect auto` asks for; what does not probe well is left out without a warning.
AUTO = ("kineto", "perf-stat", "nvml", "sacct")
# The same for a program that is not ours: only Nsight Systems sees inside it.
AUTO_OF_PROGRAMS = ("nsys", "perf-stat", "nvml", "sacct")
CAPTURE = "PERFKIT_CAPTURE"

KEYS = {
    "summary",
    "scope",
    "ranks",
    "order",
    "builtin",
    "untested",
    "excludes",
    "needs",
    "absence",
    "caution",
    "program",
    "probe",
    "environment",
    "wrap",
    "beside",
    "settle",
    "after",
    "products",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """One file of collectors/, checked."""

    name: str
    summary: str
    scope: str
    absence: str
    caution: str | None = None
    """what its presence does to the timed passes, when it does something"""
    ranks: str = "all"
    order: int = 100
    """where its command stands: lower is further out"""
    builtin: bool = False
    """recorded by the engine itself"""
    untested: bool = False
    excludes: tuple[str, ...] = ()
    needs: str | None = None
    """gpu, rocm or slurm"""
    program: Mapping[str, Any] = field(default_factory=dict)
    probe: tuple[Mapping[str, Any], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    wrap: tuple[str, ...] = ()
    range_items: tuple[str, ...] = ()
    """items of the probe that make sense only where the program opens a capture range"""
    beside: Mapping[str, Any] = field(default_factory=dict)
    settle: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[Mapping[str, Any], ...] = ()
    products: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    """files worth keeping when a product is missing"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What a collector can do on this node; `missing` says why it cannot do anything."""

    collector: Collector
    program: str | None = None
    version: str | None = None
    items: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    missing: str | None = None


def read_collectors(user_folder: Path | None = None) -> dict[str, Collector]:
    """Every collector by name; a file in the user's own folder replaces a shipped one."""
    files = {
        path.stem: path for path in reversed(list(listing("collectors", "*.toml", user_folder)))
    }
    return {name: read_collector(path) for name, path in sorted(files.items())}


def read_collector(path: Path) -> Collector:
    """One file; ConfigError names the key that is wrong."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    unknown = sorted(set(content) - KEYS)
    missing = sorted({"summary", "scope", "absence"} - set(content))
    if unknown or missing:
        problem = f"unknown key {unknown[0]}" if unknown else f"no {missing[0]}"
        raise ConfigError(f"{path}: {problem}. Keys: {', '.join(sorted(KEYS))}.")
    _one_of(path, content, "scope", SCOPES)
    _one_of(path, content, "ranks", RANK_CHOICES)
    products = content.pop("products", {})
    wrap = content.pop("wrap", {})
    return Collector(
        name=path.stem,
        wrap=tuple(wrap.get("command", ())),
        range_items=tuple(wrap.get("only_with_range", ())),
        products=tuple(products.get("files", ())),
        kept=tuple(products.get("keep", ())),
        excludes=tuple(content.pop("excludes", ())),
        after=tuple(content.pop("after", ())),
        probe=_tables(content.pop("probe", ())),
        **content,
    )


def _tables(given: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    """[probe] and [[probe]] alike."""
    return (given,) if isinstance(given, Mapping) else tuple(given)


def _one_of(path: Path, content: Mapping[str, Any], key: str, allowed: Sequence[str]) -> None:
    value = content.get(key, allowed[0])
    if value not in allowed:
        raise ConfigError(f"{path}: {key} = {value!r}. Use {', '.join(allowed)}.")


def choose(
    asked: str, known: Mapping[str, Collector], auto: Sequence[str] = AUTO
) -> tuple[Collector, ...]:
    """The collectors that `--collect` names: auto, none, or a list."""
    if asked == "none":
        return ()
    if asked == "auto":
        return tuple(known[name] for name in auto if name in known)
    names = tuple(filter(None, (part.strip() for part in asked.split(","))))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"no collector {unknown[0]!r}. Use auto, none, or some of {', '.join(known)}."
        )
    return tuple(known[name] for name in names)


def probe(collector: Collector, environ: Mapping[str, str]) -> Probed:
    """Find the program, its version and the options that work on this node."""
    if reason := _unmet_need(collector, environ):
        return Probed(collector=collector, missing=reason)
    if not collector.program:
        return Probed(collector=collector)
    program = find_program(collector.program)
    if program is None:
        names = " or ".join(collector.program["names"])
        return Probed(collector=collector, missing=f"{names} was not found on this node")
    version = version_of(collector, program)
    items, dropped = probe_items(collector, program)
    if collector.probe and not items:
        return Probed(
            collector=collector,
            program=program,
            version=version,
            dropped=dropped,
            missing=f"{program} is there, but none of its options or events works here",
        )
    return Probed(
        collector=collector, program=program, version=version, items=items, dropped=dropped
    )


def version_of(collector: Collector, program: str) -> str | None:
    """The first line of what the program says of its version; None when it says nothing."""
    if "version" not in collector.program:
        return None
    answer = (run_quietly(fill(collector.program["version"], {"program": program})) or "").strip()
    return answer.splitlines()[0] if answer else None


def _unmet_need(collector: Collector, environ: Mapping[str, str]) -> str | None:
    if collector.needs == "gpu" and not gpu_facts():
        return "nvidia-smi shows no GPU on this node"
    if collector.needs == "rocm" and shutil.which("rocm-smi") is None:
        return "no ROCm on this node"
    if collector.needs == "slurm" and "SLURM_JOB_ID" not in environ:
        return "not inside a Slurm job"
    return None


def find_program(program: Mapping[str, Any]) -> str | None:
    """On PATH first, then in the usual folders, the newest version first."""
    for name in program["names"]:
        found: str | None = shutil.which(name)
        if found:
            return found
        for folder in program.get("look_in", ()):
            for path in sorted(glob.glob(f"{folder}/{name}"), reverse=True):  # noqa: PTH207
                if os.access(path, os.X_OK):
                    return path
    return None


def probe_items(collector: Collector, program: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(options or events that work, those that do not) by each of the file's probes in turn."""
    works: list[str] = []
    dropped: list[str] = []
    for rules in collector.probe:
        found, refused = _probed(rules, program)
        works += found
        dropped += refused
    return tuple(works), tuple(dropped)


def _probed(rules: Mapping[str, Any], program: str) -> tuple[list[str], list[str]]:
    """The same by one probe; where one of several items is enough, the others are not dropped."""
    refused: dict[str, str | None]
    if rules.get("listed_in_output"):
        text = run_quietly(fill(rules["command"], {"program": program})) or ""
        refused = {item: None for item in rules["items"] if not _listed(item, text)}
    else:
        with tempfile.TemporaryDirectory() as scratch:
            values = {"program": program, "scratch": scratch}
            tried = ((item, _refused(rules, item, values)) for item in rules["items"])
            refused = {item: why for item, why in tried if why is not None}
    works = [item for item in rules["items"] if item not in refused]
    if rules.get("take") == "first" and works:
        return works[:1], []
    return works, [f"{item} ({why})" if why else item for item, why in refused.items()]


def _listed(item: str, text: str) -> bool:
    """Whether a help text names an option; --devices is not --device."""
    return re.search(rf"{re.escape(item.split('=')[0])}(?![\w-])", text) is not None


def _refused(rules: Mapping[str, Any], item: str, values: Mapping[str, str]) -> str | None:
    """None for an item that works; else why not, "" where the program does not say.

    With `accepted_when` only the words count, whatever the exit code.
    """
    command = fill(rules["command"], {**values, "item": item, "option": item.split("=")[0]})
    if "accepted_when" not in rules:
        answer = run_quietly(command)
        good = answer is not None and not any(word in answer for word in rules["refused_when"])
        return None if good else ""
    answer = run_quietly(command, check=False) or ""
    if any(word in answer for word in rules["accepted_when"]):
        return None
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    told = [line for line in lines if any(word in line for word in rules["refused_when"])]
    return next(iter([*told, *lines]), "")


def run_quietly(command: Sequence[str], *, check: bool = True) -> str | None:
    """Both outputs of a command that ended well; None when it failed, hung or is not there.

    Without `check`, those of one that failed, too.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
            check=check,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout + done.stderr


def fill(command: Iterable[str], values: Mapping[str, str | Sequence[str]]) -> list[str]:
    """A command line with its {placeholders} filled; a list fills one argument or joins by comma.

    ["-e", "{items}"] -> ["-e", "a,b"], but where the items are options themselves ("--trace=cuda")
    each becomes an argument, or several where they belong together ("--trace=cuda --delay=1").
    """
    filled: list[str] = []
    for word in command:
        items = values.get("items", ())
        if word == "{items}" and items and all(item.startswith("--") for item in items):
            filled += [option for item in items for option in item.split()]
            continue
        texts = {k: v if isinstance(v, str) else ",".join(v) for k, v in values.items()}
        filled.append(word.format_map(texts))
    return filled
