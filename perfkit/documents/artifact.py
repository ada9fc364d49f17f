"""What an artifact description asks for, as far as runs know it: hardware, software, commands,
times. reproduce.md and SYSTEM.md of a bundle are made from the same lines."""

import shlex
from collections.abc import Mapping
from typing import Any

from perfkit.documents.anonymous import without_folders
from perfkit.documents.evidence import Evidence, Run
from perfkit.documents.settings import Artifact
from perfkit.publish.clean import clean
from perfkit.report.tables import significant
from perfkit.secrets import without_secret_arguments

COMMANDS_SHOWN = 6
UNKNOWN = "not recorded"
EXPECTED = (
    "The tables and figures exactly, from the same run folders. New runs on the same hardware: "
    "steps of captured graphs within the spread of passes that the tables print; eager steps as "
    "far from these as their hosts differ, which can be more than that spread."
)


def description(evidence: Evidence, given: Artifact, kind: str) -> dict[str, Any]:
    """Fields of the artifact description; what nobody said is said to be missing."""
    commands = [command_of(run) for run in evidence.runs]
    walls = [run.wall_s for run in evidence.runs if run.wall_s is not None]
    return {
        "contributions": given.contributions,
        "doi": given.doi,
        "licence": given.licence,
        "expected": EXPECTED,
        "setup": _minutes(given.setup_minutes),
        "execution": f"{significant(sum(walls) / 60)} minutes, measured, for {len(walls)} runs"
        if walls
        else UNKNOWN,
        "analysis": _minutes(given.analysis_minutes),
        "hardware": list(hardware(evidence)) or [UNKNOWN],
        "software": list(software(evidence)) or [UNKNOWN],
        "inputs": inputs(evidence),
        "commands": commands[:COMMANDS_SHOWN],
        "more": max(0, len(commands) - COMMANDS_SHOWN),
        "rebuild": f"perfkit {kind} RUNS --text TEXT -o {kind}.pdf",
    }


def _minutes(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:g} minutes, as the authors say"


def command_of(run: Run) -> str:
    """The command line of run.json as `perfkit ...`; of paths the last part, and no secret."""
    words = run.record.get("command") or []
    if not words:
        return f"# {run.name}: run.json has no command line"
    program, *rest = [str(word) for word in without_secret_arguments(words)]
    if program.endswith(("perfkit/__main__.py", "/perfkit")):
        program = "perfkit"
    return without_folders(clean(shlex.join([program, *rest])))


def hardware(evidence: Evidence) -> dict[str, list[str]]:
    """{machine: its runs}: GPUs, processor, memory, kernel."""
    found: dict[str, list[str]] = {}
    for run in evidence.runs:
        found.setdefault(_machine(run.record.get("hardware") or {}), []).append(run.name)
    return found


def _machine(facts: Mapping[str, Any]) -> str:
    gpus = facts.get("gpus") or []
    words = [
        f"{len(gpus)} x {gpus[0].get('name')}" if gpus else "no GPU",
        f"{gpus[0]['memory.total']} each" if gpus and "memory.total" in gpus[0] else "",
        f"driver {gpus[0]['driver_version']}" if gpus and "driver_version" in gpus[0] else "",
        str(facts.get("cpu") or "unknown processor"),
        f"{facts['cores']} cores" if facts.get("cores") else "",
        f"{facts['memory_bytes'] / 2**30:.0f} GiB" if facts.get("memory_bytes") else "",
        f"Linux {facts['kernel']}" if facts.get("kernel") else "",
    ]
    return ", ".join(word for word in words if word)


def software(evidence: Evidence) -> dict[str, list[str]]:
    """{versions: the runs that had them}."""
    found: dict[str, list[str]] = {}
    for run in evidence.runs:
        versions = run.record.get("versions") or {}
        python = (run.record.get("hardware") or {}).get("python")
        words = [f"Python {python}"] if python else []
        words += [f"{name} {version}" for name, version in versions.items()]
        words += [f"NCCL {run.row['nccl']}"] if run.row["nccl"] else []
        if words:
            found.setdefault(", ".join(words), []).append(run.name)
    return found


def inputs(evidence: Evidence) -> list[str]:
    """Models and prompts of the runs."""
    models: dict[str, None] = {}
    for run in evidence.runs:
        config = run.record.get("config") or {}
        if "model_id" in config:
            load = "random weights" if config.get("load") == "dummy" else "its published weights"
            prompts = "prompts of a file" if config.get("prompts") else "shipped prompts"
            models[f"{config['model_id']} ({load}, {prompts})"] = None
    return list(models) or [UNKNOWN]
