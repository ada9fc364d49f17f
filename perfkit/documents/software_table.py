"""T10: the software of the runs, every version of it, as run.json recorded it."""

from collections.abc import Iterable, Mapping
from typing import Any

from perfkit.documents.evidence import Evidence
from perfkit.documents.measured_tables import RUN_MODEL
from perfkit.documents.tables import Cell, DocTable, absent, left, word

SOFTWARE = ("perfkit", "torch", "deepspeed", "transformers", "safetensors", "torchao", "nvtx")


def software_table(evidence: Evidence, licences: Mapping[str, str]) -> DocTable:
    """T10: what the runs ran on top of, one row a piece of software, every version of it."""
    caption = "Software stack of the runs"
    if not evidence.runs:
        return absent("T10", caption, "there is no run", RUN_MODEL)
    rows = [_row(package, _versions(evidence, package), licences) for package in SOFTWARE]
    rows += [
        _row("NVIDIA driver", _of_rows(evidence, "driver"), licences),
        _row("NCCL", _of_rows(evidence, "nccl"), licences),
        _row("container", _of_records(evidence, "container"), licences),
        *(
            _row(f"profiler: {name}", versions, licences)
            for name, versions in _profilers(evidence).items()
        ),
    ]
    heads = (left("software"), left("version", "measured"), left("licence"))
    found = tuple(row for row in rows if row[1].runs)
    if not found:
        return absent("T10", caption, "no run.json names a version", RUN_MODEL)
    return DocTable(id="T10", caption=caption, heads=heads, rows=found)


def _row(
    name: str, versions: Mapping[str, list[str]], licences: Mapping[str, str]
) -> tuple[Cell, ...]:
    runs = tuple(run for of_version in versions.values() for run in of_version)
    text = ", ".join(sorted(versions))
    return word(name), word(text, *runs, query=f"run.json: {name}"), word(licences.get(name))


def _versions(evidence: Evidence, package: str) -> dict[str, list[str]]:
    return _grouped(
        (run.name, (run.record.get("versions") or {}).get(package)) for run in evidence.runs
    )


def _of_rows(evidence: Evidence, column: str) -> dict[str, list[str]]:
    return _grouped((run.name, run.row[column]) for run in evidence.runs)


def _of_records(evidence: Evidence, key: str) -> dict[str, list[str]]:
    return _grouped((run.name, run.record.get(key)) for run in evidence.runs)


def _profilers(evidence: Evidence) -> dict[str, dict[str, list[str]]]:
    """Collectors that ran, with their versions."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for run in evidence.runs:
        for name, state in (run.record.get("collectors") or {}).items():
            if state.get("state") == "ran":
                version = state.get("version") or "with torch" if name == "kineto" else None
                found.setdefault(name, []).append(
                    (run.name, state.get("version") or version or "version not recorded")
                )
    return {name: _grouped(pairs) for name, pairs in sorted(found.items())}


def _grouped(pairs: Iterable[tuple[str, Any]]) -> dict[str, list[str]]:
    """{value: the runs that have it}."""
    found: dict[str, list[str]] = {}
    for run, value in pairs:
        if value:
            found.setdefault(str(value), []).append(run)
    return found
