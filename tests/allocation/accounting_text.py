"""Snapshots made of a few jobs, for tests: times are hours after the first of November 2026."""

from datetime import UTC, datetime, timedelta
from typing import Any

from perfkit.allocation.snapshot import FIELDS, KIND

FIRST = datetime(2026, 11, 1, tzinfo=UTC)


def at(hours: float) -> datetime:
    return FIRST + timedelta(hours=hours)


def a_job(number: int, **given: Any) -> str:
    """One line as sacct prints it: two nodes with four GPUs each, from 1 h to 3 h."""
    hours = {"submit": 0.0, "eligible": 0.0, "start": 1.0, "end": 3.0}
    hours |= {key: value for key, value in given.items() if key in hours}
    times = {
        key: "Unknown" if value is None else str(int(at(value).timestamp()))
        for key, value in hours.items()
    }
    nodes = given.get("nodes", 2)
    cells = {
        "JobID": str(number),
        "JobIDRaw": str(number),
        "Account": "proj",
        "Partition": "gpu",
        "QOS": "normal",
        "State": given.get("state", "COMPLETED"),
        "Submit": times["submit"],
        "Eligible": times["eligible"],
        "Start": times["start"],
        "End": times["end"],
        "Elapsed": "02:00:00",
        "Timelimit": "04:00:00",
        "NNodes": str(nodes),
        "NCPUS": str(32 * nodes),
        "AllocTRES": given.get("tres", f"cpu={32 * nodes},gres/gpu={4 * nodes},node={nodes}"),
        "ConsumedEnergyRaw": given.get("energy", ""),
    }
    return "|".join(cells[name] for name in FIELDS)


def a_snapshot(*lines: str, taken: float = 24.0, **given: Any) -> dict[str, Any]:
    """A snapshot's document, taken so many hours after the first of November."""
    return {
        "schema_version": 1,
        "kind": KIND,
        "taken_at": at(taken).isoformat(),
        "account": "proj",
        "since": at(-1000).isoformat(),
        "until": at(taken).isoformat(),
        "commands": {},
        "texts": {"sacct": "\n".join(["|".join(FIELDS), *lines]) + "\n"},
        "not_taken": {},
        **given,
    }
