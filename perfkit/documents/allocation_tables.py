"""Tables of what was used: T13 burn-down, T14 what the final report asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from perfkit.allocation.burn import Grant, burn_down, pace, pace_words, used_in_units
from perfkit.allocation.usage import Calendar, Waits, calendar, energy_kwh, jobs_of, waits
from perfkit.documents.settings import FinalReport
from perfkit.documents.tables import (
    NOT_GIVEN,
    Cell,
    DocTable,
    absent,
    left,
    number,
    right,
    word,
)
from perfkit.study.systems import System

SNAPSHOT = "perfkit allocation snapshot --account PROJECT"
SACCT = "snapshot: sacct"
NO_SNAPSHOT = "no snapshot of the accounting is given"


def burn_table(
    document: Mapping[str, Any] | None, grant: Grant | None, system: System | None
) -> DocTable:
    """T13."""
    caption = "Allocation: planned and used"
    if document is None:
        return absent("T13", caption, NO_SNAPSHOT, SNAPSHOT, NOT_GIVEN)
    used, unit = used_in_units(document, system)
    rows = burn_down(used, grant, document["taken_at"])
    if rows.is_empty():
        return absent("T13", caption, "no job ran in the snapshot's window", SNAPSHOT)
    heads = (
        left("month"),
        right(f"planned [{unit}]"),
        right("used", "measured"),
        right("planned so far"),
        right("used so far", "measured"),
        right("left", "computed"),
    )
    cells = tuple(
        (
            word(row["month"]),
            number(row["planned"]),
            _used(row["used"]),
            number(row["planned_so_far"]),
            _used(row["used_so_far"]),
            number(row["left"]),
        )
        for row in rows.to_dicts()
    )
    note = f"Accounting as of {document['taken_at']}."
    if grant is not None:
        note += f" {pace_words(pace(used, grant, document['taken_at']), unit)}"
    return DocTable(id="T13", caption=caption, heads=heads, rows=cells, note=note)


def _fields(found: Waits | Calendar | None, names: Sequence[str]) -> dict[str, Cell]:
    return {name: _used(getattr(found, name) if found else None) for name in names}


def _used(value: float | None) -> Cell:
    cell = number(value, "allocation snapshot", query=SACCT)
    return replace(cell, kind="measured")


def final_table(document: Mapping[str, Any] | None, given: FinalReport | None) -> DocTable:
    """T14: what Slurm's accounting says; energy only where a plugin filled it in."""
    caption = "Use of the allocation: waiting, gaps, energy"
    if document is None:
        return absent("T14", caption, NO_SNAPSHOT, SNAPSHOT, NOT_GIVEN)
    jobs = jobs_of(document)
    queue = _fields(waits(jobs), ("median_h", "p90_h"))
    hours = _fields(calendar(jobs, document), ("busy_h", "queued_h", "idle_h"))
    kwh, said, started = energy_kwh(jobs)
    rate = given.grid_g_co2_per_kwh if given else None
    carbon = kwh * rate / 1e3 if kwh is not None and rate else None
    source = given.grid_source if given and given.grid_source else "no grid intensity is given"
    rows = (
        ("jobs that started", _used(started), SACCT),
        ("queue wait, median [h]", queue["median_h"], "start - eligible"),
        (
            "queue wait, 90th percentile [h]",
            queue["p90_h"],
            "start - eligible",
        ),
        ("time with a job running [h]", hours["busy_h"], "merged intervals"),
        (
            "gaps: jobs waited in the queue [h]",
            hours["queued_h"],
            "merged intervals",
        ),
        ("gaps: no job was waiting [h]", hours["idle_h"], "merged intervals"),
        ("energy [kWh]", _used(kwh), f"ConsumedEnergy of {said} of {started} jobs"),
        ("carbon [kg CO2e]", number(carbon), source),
        ("deviations from the plan", word(given.deviations if given else None), "given"),
    )
    return DocTable(
        id="T14",
        caption=caption,
        heads=(left(""), right("value", "computed"), left("from")),
        rows=tuple((word(what), value, word(why)) for what, value, why in rows),
    )
