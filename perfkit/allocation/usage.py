"""A snapshot's text of sacct -> one row a job, and what the jobs used in each month.

Queue wait is from the time a job could have started (Slurm's Eligible) to its start: the wait of a
dependency chain for its own earlier jobs is none. Calendar time is of merged intervals: two jobs
at once use an hour of the calendar, not two.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median, quantiles
from typing import Any

import polars as pl

from perfkit.allocation.units import billed_part, shares_nodes
from perfkit.errors import ConfigError
from perfkit.ingest.sacct_cells import (
    NO_ENERGY,
    NO_VALUE,
    UNFINISHED,
    read_gpus,
    utc_time,
    whole,
)
from perfkit.study.systems import System

TIME = pl.Datetime("us", "UTC")
JOBS = pl.Schema(
    {
        "job": pl.String(),  # as Slurm writes it; a requeued job has several rows
        "account": pl.String(),
        "partition": pl.String(),
        "state": pl.String(),
        "submit": TIME,
        "eligible": TIME,  # when nothing but the queue held it back; null: not yet
        "start": TIME,  # null: never started
        "end": TIME,  # null: still runs
        "nodes": pl.Int64(),
        "cpus": pl.Int64(),
        "gpus": pl.Int64(),  # null: AllocTRES names none
        "energy_j": pl.Float64(),  # null: no plugin filled it in
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Of jobs that started, in hours."""

    jobs: int
    median_h: float
    p90_h: float
    total_h: float
    since_submit_h: float
    """the sum of start - submit, which counts dependency chains as waiting"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """How much of the time between the first start and the last end a job ran."""

    span_h: float
    busy_h: float
    queued_h: float
    """no job ran, and at least one could have"""
    idle_h: float
    """no job ran, and none was there that could have"""


def jobs_of(document: Mapping[str, Any]) -> pl.DataFrame:
    """JOBS of a snapshot; ConfigError when its text is not what sacct prints."""
    head, *lines = str(document["texts"]["sacct"]).splitlines() or [""]
    columns = head.lower().split("|")
    wanted = {"jobid", "state", "submit", "eligible", "start", "end", "nnodes", "alloctres"}
    if missing := sorted(wanted - set(columns)):
        raise ConfigError(
            f"the snapshot's sacct text has no {', '.join(missing)}: take it again with "
            "`perfkit allocation snapshot`.",
        )
    cells = (line.split("|") for line in lines if line.strip())
    rows = [_job(dict(zip(columns, one, strict=True))) for one in cells if len(one) == len(columns)]
    return pl.DataFrame(rows, schema=JOBS).sort("submit", "job", nulls_last=True)


def _job(cells: Mapping[str, str]) -> dict[str, Any]:
    start, end = _time(cells["start"]), _time(cells["end"])
    state = cells["state"].partition(" ")[0]
    energy = whole(cells.get("consumedenergyraw", ""))
    return {
        "job": cells["jobid"],
        "account": cells.get("account"),
        "partition": cells.get("partition"),
        "state": state,
        "submit": _time(cells["submit"]),
        "eligible": _time(cells["eligible"]),
        "start": start,
        "end": None if state in UNFINISHED else end,
        "nodes": whole(cells["nnodes"]),
        "cpus": whole(cells.get("ncpus", "")),
        "gpus": read_gpus(cells)[0],
        "energy_j": float(energy) if energy and energy < NO_ENERGY else None,
    }


def _time(text: str) -> datetime | None:
    found = None if text in NO_VALUE else utc_time(text, 0)
    return found if found and found.timestamp() > 0 else None


def ran(
    jobs: pl.DataFrame, document: Mapping[str, Any]
) -> list[tuple[dict[str, Any], float, float]]:
    """(job, start, end) in seconds since 1970 inside the snapshot's window; running jobs until it
    was taken."""
    since, until = _seconds(document["since"]), _seconds(document["until"])
    taken = _seconds(document["taken_at"])
    found = []
    for job in jobs.filter(pl.col("start").is_not_null()).to_dicts():
        end = job["end"].timestamp() if job["end"] else taken
        start = max(job["start"].timestamp(), since)
        if (end := min(end, until, taken)) > start:
            found.append((job, start, end))
    return found


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def node_share(job: Mapping[str, Any], system: System | None) -> float:
    """Nodes that a job is billed for: its GPUs' part where the site shares nodes."""
    nodes = float(job["nodes"] or 0)
    if system is None or not nodes or not shares_nodes(system):
        return nodes
    held = job["gpus"] if system.gpus_per_node else job["cpus"]
    room = system.gpus_per_node or system.cores_per_node
    if held is None or not room:
        return nodes
    ranks = system.ranks_per_node or room
    return nodes * billed_part(system, held / nodes * ranks / room)


def used_by_month(
    jobs: pl.DataFrame, document: Mapping[str, Any], system: System | None
) -> dict[str, float]:
    """{2026-11: node-hours}: a job that runs over midnight of the first counts in both."""
    found: dict[str, float] = {}
    for job, start, end in ran(jobs, document):
        for month, seconds in by_month(start, end):
            hours = seconds / 3600 * node_share(job, system)
            found[month] = found.get(month, 0.0) + hours
    return dict(sorted(found.items()))


def by_month(start: float, end: float) -> Iterator[tuple[str, float]]:
    """(month, seconds of it) of an interval."""
    while start < end:
        here = datetime.fromtimestamp(start, UTC)
        following = next_month(here).timestamp()
        yield here.strftime("%Y-%m"), min(end, following) - start
        start = following


def next_month(time: datetime) -> datetime:
    """Midnight UTC of the first day after this month."""
    year, month = divmod(time.year * 12 + time.month, 12)
    return datetime(year, month + 1, 1, tzinfo=UTC)


def waits(jobs: pl.DataFrame) -> Waits | None:
    """Of the jobs that started; None of none."""
    started = jobs.drop_nulls(["eligible", "start", "submit"])
    if started.is_empty():
        return None
    hours = [
        max(0.0, (row["start"] - row["eligible"]).total_seconds()) / 3600
        for row in started.to_dicts()
    ]
    whole_waits = [
        (row["start"] - row["submit"]).total_seconds() / 3600 for row in started.to_dicts()
    ]
    p90 = quantiles(hours, n=10, method="inclusive")[-1] if len(hours) > 1 else hours[0]
    return Waits(
        jobs=len(hours),
        median_h=median(hours),
        p90_h=p90,
        total_h=sum(hours),
        since_submit_h=sum(whole_waits),
    )


def calendar(jobs: pl.DataFrame, document: Mapping[str, Any]) -> Calendar | None:
    """Between the first start and the last end of the window's jobs; None where none ran."""
    busy = merged([(start, end) for _job, start, end in ran(jobs, document)])
    if not busy:
        return None
    first, last = busy[0][0], busy[-1][1]
    gaps = [(a[1], b[0]) for a, b in itertools.pairwise(busy)]
    taken = _seconds(document["taken_at"])
    queued = merged(
        [
            (row["eligible"].timestamp(), row["start"].timestamp() if row["start"] else taken)
            for row in jobs.drop_nulls("eligible").to_dicts()
            if row["start"] or row["state"] in UNFINISHED
        ]
    )
    queued_s = common(gaps, queued)
    gap_s = sum(end - start for start, end in gaps)
    return Calendar(
        span_h=(last - first) / 3600,
        busy_h=sum(end - start for start, end in busy) / 3600,
        queued_h=queued_s / 3600,
        idle_h=(gap_s - queued_s) / 3600,
    )


def merged(intervals: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The union: overlapping and touching intervals are one."""
    found: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        elif end > start:
            found.append((start, end))
    return found


def common(one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> float:
    """How long both hold; each is sorted and has no overlaps of its own."""
    total, at, beside = 0.0, 0, 0
    while at < len(one) and beside < len(other):
        (start, end), (from_, to) = one[at], other[beside]
        total += max(0.0, min(end, to) - max(start, from_))
        if end < to:
            at += 1
        else:
            beside += 1
    return total


def energy_kwh(jobs: pl.DataFrame) -> tuple[float | None, int, int]:
    """(kWh of the jobs that say so, how many do, how many started)."""
    started = jobs.filter(pl.col("start").is_not_null())
    said = started.drop_nulls("energy_j")
    total = float(said["energy_j"].sum()) / 3.6e6 if said.height else None
    return total, said.height, started.height
