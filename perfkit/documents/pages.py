"""reproduce.md, SYSTEM.md and ARTIFACT.md: what a reader of an archive needs, from run.json."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from perfkit import __version__
from perfkit.documents.artifact import command_of, hardware, software
from perfkit.documents.evidence import Evidence
from perfkit.documents.figures import DocFigure
from perfkit.documents.tables import DocTable

UNKNOWN = "not recorded"


def reproduce(
    evidence: Evidence, tables: Mapping[str, DocTable], figures: Mapping[str, DocFigure]
) -> str:
    """Every run's exact command, then what is made of the runs, then which element needs which."""
    return "\n".join([*_runs(evidence), *_analysis(), *_elements(evidence, tables, figures)]) + "\n"


def _runs(evidence: Evidence) -> Iterator[str]:
    yield "# How to reproduce this\n"
    yield (
        "Each run is one command, as it was typed, without secrets and folders. SYSTEM.md "
        "says on what hardware and with which versions. The order does not matter.\n"
    )
    yield "## Runs\n"
    if not evidence.runs:
        yield "There is no run in this archive.\n"
    machines = {run: machine for machine, runs in hardware(evidence).items() for run in runs}
    for run in evidence.runs:
        state = "" if run.finished else f" ({run.record.get('state')})"
        started = str(run.record.get("started_at") or UNKNOWN)[:10]
        wall = "" if run.wall_s is None else f", {run.wall_s:.0f} s from start to end"
        yield f"### {run.name}{state}\n"
        yield f"{machines[run.name]}; {started}{wall}.\n"
        yield f"    {command_of(run)}\n"


def _analysis() -> Iterator[str]:
    yield "## Analysis\n"
    yield "The paper is set again as it stands, from this folder: typst compile paper/main.typ\n"
    yield (
        "runs/ here has the tables of each run, not its raw files. Of your own run folders, which "
        f"the commands above make, with perfkit {__version__} (`pip install 'perfkit[report]'`):\n"
    )
    yield "    perfkit analyze RUN                  # where the time went"
    yield "    perfkit compare RUN                  # predicted beside measured"
    yield "    perfkit scaling RUNS                 # T1 to T3"
    yield "    perfkit accuracy RUNS                # errors of the predictions"
    yield "    perfkit paper RUNS --text paper/text -o paper.pdf\n"


def _elements(
    evidence: Evidence, tables: Mapping[str, DocTable], figures: Mapping[str, DocFigure]
) -> Iterator[str]:
    yield "## Which element rests on which runs\n"
    yield "| element | what | runs |"
    yield "| --- | --- | --- |"
    parts: Sequence[DocTable | DocFigure] = [*tables.values(), *figures.values()]
    for part in parts:
        if part.missing or not part.runs:
            continue
        every = len(part.runs) == len(evidence.runs)
        runs = "all" if every else ", ".join(part.runs)
        yield f"| {part.id} | {part.caption.replace('|', ' ')} | {runs} |"
    yield "\nprovenance.json has the table and the column of every single number."


def system_page(evidence: Evidence) -> str:
    """Hosts, GPUs, drivers and versions, and which runs each is of."""
    lines = ["# Hardware\n"]
    lines += [f"- {machine}: {_of(evidence, runs)}" for machine, runs in hardware(evidence).items()]
    lines += ["\n# Software\n"]
    lines += [f"- {text}: {_of(evidence, runs)}" for text, runs in software(evidence).items()]
    lines += ["\n# Collectors\n"]
    lines += [f"- {line}" for line in _collectors(evidence)]
    if not evidence.runs:
        lines.append("There is no run in this archive.")
    return "\n".join(lines) + "\n"


def _of(evidence: Evidence, runs: Sequence[str]) -> str:
    return "every run" if len(runs) == len(evidence.runs) else ", ".join(runs)


def _collectors(evidence: Evidence) -> Iterator[str]:
    """What each collector did, and where one that was asked for did nothing."""
    found: dict[str, list[str]] = {}
    for run in evidence.runs:
        for name, state in (run.record.get("collectors") or {}).items():
            if state.get("state") is None:
                continue
            version = f" {state['version']}" if state.get("version") else ""
            reason = f", {state['reason']}" if state.get("reason") else ""
            found.setdefault(f"{name}{version}: {state['state']}{reason}", []).append(run.name)
    for text, runs in sorted(found.items()):
        yield f"{text} ({_of(evidence, runs)})"


def artifact_page(fields: Mapping[str, Any]) -> str:
    """The artifact description's fields as text; what nobody said is said to be missing."""
    contributions = [
        f"- C{at}: {text}" for at, text in enumerate(fields["contributions"], start=1)
    ] or ["- not given: contributions in [artifact] of paper.toml"]
    lines = [
        "# Artifact description\n",
        "## Contributions\n",
        *contributions,
        "\n## Artifact A1: this archive\n",
        f"- DOI: {fields['doi'] or 'not given yet'}",
        f"- Licence: {fields['licence'] or 'not given'}",
        "- Contributions supported: all",
        "- Related paper elements: see the table in reproduce.md",
        f"- Expected results: {fields['expected']}",
        f"- Expected reproduction time: setup {fields['setup']}; execution {fields['execution']}; "
        f"analysis {fields['analysis']}",
        "\n## Artifact setup\n",
        *(f"- Hardware: {one}" for one in fields["hardware"]),
        *(f"- Software: {one}" for one in fields["software"]),
        *(f"- Inputs: {one}" for one in fields["inputs"]),
        "- Installation: pip install 'perfkit[run,report]', torch as the machine brings it",
        "\n## Artifact execution\n",
        "One task a run, independent of the others: the commands are in reproduce.md.",
        "\n## Artifact analysis\n",
        f"    {fields['rebuild']}",
    ]
    return "\n".join(lines) + "\n"
