"""What a dispatch measured, from dispatch.jsonl: a row for each replica and each CPU worker.

Parts (a dispatch that was stopped and went on) are added up; the time between them is not. What a
folder does not have is said, and everything else is measured all the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from perfkit.dispatch.idle import CAUSES, Divided, divide_time, overlap_ns
from perfkit.dispatch.journal import EVENTS, read_events
from perfkit.dispatch.part import Part
from perfkit.dispatch.step import rank_of
from perfkit.dispatch.summary import SUMMARY, summary
from perfkit.measures import NS_PER_S
from perfkit.schema import RunFolder, read_if_whole

REPLICAS = pl.Schema(
    {
        "replica": pl.Int32(),  # counts from 0
        "name": pl.String(),
        "host": pl.String(),
        "batches": pl.Int64(),
        "prompts": pl.Int64(),
        "new_tokens": pl.Int64(),
        "wall_s": pl.Float64(),  # from the start of each part to its end: busy_s + idle_s
        "idle_s": pl.Float64(),  # the sum of start_up_s, lost_s, starved_s, hand_over_s, drained_s
        **{f"{cause}_s": pl.Float64() for cause in CAUSES},  # see perfkit.dispatch.idle
        "first_starved_s": pl.Float64(),  # of starved_s, what was before its first batch
        "idle": pl.Float64(),  # idle / wall
        "deaths": pl.Int32(),
    }
)

CPU_WORKERS = pl.Schema(
    {
        "cpu_worker": pl.Int32(),  # counts from 0
        "name": pl.String(),
        "host": pl.String(),
        "windows": pl.Int64(),
        "prompts": pl.Int64(),
        "tokens": pl.Int64(),
        "busy_s": pl.Float64(),  # reading, tokenising, batching
        "read_s": pl.Float64(),  # of it
        "s_per_1000_tokens": pl.Float64(),
        "ms_per_prompt": pl.Float64(),
        "busy": pl.Float64(),  # busy / time from its first being ready to the end, all parts
        "busy_while_starved": pl.Float64(),  # busy / time of replicas that had no batch to answer
        "deaths": pl.Int32(),
    }
)


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that is known of a dispatch."""

    replicas: pl.DataFrame
    cpu_workers: pl.DataFrame
    summary: pl.DataFrame
    parts: int
    missing: tuple[str, ...]
    """what the folder does not have, in words"""

    def value(self, measure: str) -> float | None:
        """One figure of the summary."""
        found = dict(self.summary.select("measure", "value").iter_rows())
        value: float | None = found[measure]
        return value


def measure(folder: RunFolder) -> Measured:
    """The tables of a run folder, with fewer rows and dashes where it has less."""
    events, damaged = read_events(folder)
    # Without its first event nobody knows when a part began.
    numbers = [event["part"] for event in events if event["kind"] == "part"]
    parts = [Part([one for one in events if one["part"] == number]) for number in numbers]
    replicas = _table(parts, "replica", _replica, REPLICAS)
    cpu_workers = _table(parts, "cpu", _cpu_worker, CPU_WORKERS)
    return Measured(
        replicas=replicas,
        cpu_workers=cpu_workers,
        summary=summary(parts, replicas, cpu_workers) if parts else pl.DataFrame(schema=SUMMARY),
        parts=len(parts),
        missing=tuple(_missing(folder, parts, damaged)),
    )


def _missing(folder: RunFolder, parts: Sequence[Part], damaged: int) -> Iterator[str]:
    if damaged:
        yield f"{damaged} line(s) of {EVENTS} cannot be read: what they said is not counted"
    record = read_if_whole(folder.run_json) or {}
    if record.get("state") != "finished":
        reason = (record.get("failure") or {}).get("reason")
        why = f": {reason}" if reason else ""
        yield f"this dispatch is not finished (state {record.get('state')}{why})"
    yield from record.get("warnings", ())
    if not parts:
        yield f"{EVENTS} has nothing: no worker was ever started, and nothing was measured"
        return
    last = parts[-1]
    if not last.ended:
        yield "its last part has no end (it still runs, or was killed): measured to its last event"
    if not any(part.batches for part in parts):
        yield "no batch was answered: nothing can be said of preprocessing, waits and rates"
    if (absent := last.expected - len({one["name"] for one in last.born})) > 0:
        yield f"{absent} of {last.expected} workers never came"
    ready = {one["name"] for one in last.ready}
    for name in dict.fromkeys(one["name"] for one in last.born):
        if name not in ready:
            yield f"{name} was never ready: see {folder.rank_file(rank_of(name), 'log.txt')}"


def _table(parts: Sequence[Part], role: str, row: Any, schema: pl.Schema) -> pl.DataFrame:
    """A row for each worker that was ever there, in order of rank."""
    names = sorted({name for part in parts for name in part.names(role)}, key=rank_of)
    rows = []
    for number, name in enumerate(names):
        there = [part for part in parts if name in part.names(role)]
        hosts = dict.fromkeys(host for part in there if (host := part.host(name)))
        deaths = sum(len(part.lives(name)) - 1 + (name in part.gone) for part in there)
        own = {"name": name, "host": ", ".join(hosts), "deaths": deaths}
        rows.append({schema.names()[0]: number, **own, **row(there, name)})
    return pl.DataFrame(rows, schema=schema)


def divided(part: Part, name: str) -> Divided:
    """The time of one replica in one part."""
    intervals = [(one["start_ns"], one["end_ns"]) for one in part.answered_by(name)]
    return divide_time(part.span, part.lives(name), intervals, part.supply, part.gone.get(name))


def _replica(parts: Sequence[Part], name: str) -> dict[str, Any]:
    batches = [one for part in parts for one in part.answered_by(name)]
    times = [divided(part, name) for part in parts]
    ns = {cause: sum(own.ns[cause] for own in times) for cause in CAUSES}
    wall_ns = sum(part.span[1] - part.span[0] for part in parts)
    assert sum(ns.values()) == wall_ns
    return {
        "batches": len(batches),
        **{key: sum(one[key] for one in batches) for key in ("prompts", "new_tokens")},
        "wall_s": wall_ns / NS_PER_S,
        "idle_s": (wall_ns - ns["busy"]) / NS_PER_S,
        **{f"{cause}_s": length / NS_PER_S for cause, length in ns.items()},
        "first_starved_s": sum(own.first_starved for own in times) / NS_PER_S,
        "idle": 1 - ns["busy"] / wall_ns if wall_ns else None,
    }


def _cpu_worker(parts: Sequence[Part], name: str) -> dict[str, Any]:
    windows = [one for part in parts for one in part.prepared_by(name)]
    totals: Mapping[str, int] = {
        key: sum(one[key] for one in windows) for key in ("prompts", "tokens")
    }
    busy_s = sum(one["end_ns"] - one["start_ns"] for one in windows) / NS_PER_S
    firsts = [(part, life.ready) for part in parts for life in part.lives(name)[:1]]
    there_s = sum(part.span[1] - ready for part, ready in firsts if ready) / NS_PER_S
    return {
        "windows": len(windows),
        **totals,
        "busy_s": busy_s,
        "read_s": sum(one["read_ns"] - one["start_ns"] for one in windows) / NS_PER_S,
        "s_per_1000_tokens": 1000 * busy_s / totals["tokens"] if totals["tokens"] else None,
        "ms_per_prompt": 1000 * busy_s / totals["prompts"] if totals["prompts"] else None,
        "busy": busy_s / there_s if there_s else None,
        "busy_while_starved": _busy_while_starved(parts, name),
    }


def _busy_while_starved(parts: Sequence[Part], name: str) -> float | None:
    """Of the time in which replicas starved, each counted by itself, the share it worked in."""
    starved_ns = shared_ns = 0
    for part in parts:
        own = [(one["start_ns"], one["end_ns"]) for one in part.prepared_by(name)]
        for replica in set(part.names("replica")):
            starved = divided(part, replica).starved
            starved_ns += sum(end - start for start, end in starved)
            shared_ns += overlap_ns(starved, own)
    return shared_ns / starved_ns if starved_ns else None
