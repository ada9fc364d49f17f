"""Evidence, text and systems for tests of documents."""

import shutil
from pathlib import Path
from typing import Any

from measured_run import a_run, edited

from perfkit.documents.content import Wanted
from perfkit.documents.evidence import Evidence, read_evidence
from perfkit.documents.typeset import template

TRACES = Path(__file__).parents[2] / "traces"
TP1, TP2 = "h200-8b-tp1-b32-graph", "h200-8b-tp2-b32-graph"


def timed_run(folder: Path, minutes: float = 30.0, **config: Any) -> Path:
    """A run whose run.json says that it took so long."""
    run = a_run(folder, **config)
    ended = f"2026-11-23T{10 + int(minutes // 60):02d}:{int(minutes % 60):02d}:00+00:00"
    words = [
        "/opt/perfkit/__main__.py",
        "run",
        "smollm2-135m-instruct",
        "--api-key",
        "sk-a1b2c3d4e5",
    ]
    return edited(
        run,
        started_at="2026-11-23T10:00:00+00:00",
        ended_at=ended,
        command=words,
        versions={"perfkit": "0.1.0", "torch": "2.13.0"},
        hardware={"gpus": [], "cpu": "a processor", "cores": 2, "python": "3.11.2"},
    )


def evidence_of(*runs: Path) -> Evidence:
    return read_evidence(list(runs))


def own_text(folder: Path, kind: str, **files: str) -> Path:
    """The starter as somebody's own text; `toml` replaces its settings, NAME=TEXT a section."""
    shutil.copytree(template(kind, "starter"), folder)
    for name, text in files.items():
        path = folder / (f"{kind}.toml" if name == "toml" else f"{name}.typ")
        path.write_text(text, encoding="utf-8")
    return folder


def a_paper(out: Path, *runs: Path, **given: Any) -> Wanted:
    return Wanted(kind="paper", runs=list(runs), out=out, **given)


def a_proposal(out: Path, *runs: Path, **given: Any) -> Wanted:
    return Wanted(kind="proposal", runs=list(runs), out=out, system="leonardo", **given)
