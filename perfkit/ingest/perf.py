"""perf-stat.jsonl of a rank -> its CPU counters, one row each.

perf prints JSON lines (-j), cells (-x,) or a table for people; keys and columns move between its
versions, so each line is read by what it holds. A counter that perf could not count is null.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.errors import ConfigError
from perfkit.ingest.frames import finding

COUNTERS = pl.Schema(
    {
        "rank": pl.Int32(),
        "event": pl.String(),  # perf's name without its modifiers: task-clock, context-switches
        "value": pl.Float64(),  # scaled up by perf when the counter ran part of the time
        "unit": pl.String(),  # msec for the clocks; null for plain counts
        "running_share": pl.Float64(),  # 0..1, how much of the time the counter ran
        "metric_value": pl.Float64(),  # what perf derives from it: 0.49 CPUs utilized
        "metric_unit": pl.String(),
        "user_only": pl.Boolean(),  # the kernel's share is not in it (:u)
        "until_s": pl.Float64(),  # end of the interval with -I; null for the whole run
        "reason": pl.String(),  # why value is null
    }
)

# Counted where the kernel switches tasks: user space alone never sees one, and perf prints 0.
SEEN_BY_KERNEL = {"context-switches", "cs", "cpu-migrations", "migrations", "cgroup-switches"}
NOT_COUNTED = {
    "<not counted>": "not counted: the counter never ran",
    "<not supported>": "not supported on this machine",
}
FALSE_ZERO = "false zero: user space only (perf_event_paranoid), and only the kernel sees it"
NEVER_RAN = "the counter never ran"
NO_PARTS = {"cpu", "core", "socket", "die", "node", "thread", "cluster", "cache"}

Counter = dict[str, Any]
"""value, unit, event, runtime, running, metric, metric_unit, until: as perf writes them"""

NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
NOT_JSON = re.compile(r":\s*-?(?:nan|inf)\b")
PLAIN = re.compile(
    r"\s*(?P<value><not \w+>|[\d,]+(?:\.\d+)?)\s+(?:(?P<unit>msec|ns|us|Joules|MiB|GiB|bytes)\s+)?"
    r"(?P<event>[^\s#]+)\s*(?:#\s*(?P<metric>[\d.,]+|nan|inf)\s*(?P<metric_unit>[^(]*?))?"
    r"\s*(?:\( ?\+-\s*[\d.]+% ?\))?\s*(?:\((?P<running>[\d.]+)%\))?\s*"
)
# Lines of the table for people that hold no counter.
ELAPSED = re.compile(r"\s*(?:[\d.]+ .*seconds\b.*|Performance counter stats for .*|#.*)")


def read_perf_stat(path: Path, rank: int) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """One rank's counters (COUNTERS) and what was wrong; ConfigError if it is no perf output."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    source = f"ranks/{rank:04d}/{path.name}"
    lines = [line for line in text.splitlines() if line.strip() and not ELAPSED.fullmatch(line)]
    rows = [row for line in lines if (row := read_counter(line, rank)) is not None]
    if lines and not rows:
        raise ConfigError(
            f"{path} is no output of perf stat: its first line is {lines[0][:80]!r}. "
            "Expected `perf stat -j`, `-x,` or plain `perf stat`.",
        )
    return pl.DataFrame(rows, schema=COUNTERS), _findings(
        rows, len(lines) - len(rows), rank, source
    )


def read_counter(line: str, rank: int) -> dict[str, Any] | None:
    """One row of COUNTERS; None when the line holds no counter of the whole rank."""
    if line.lstrip().startswith("{"):
        counter = _from_json(line)
    else:
        counter = (_from_cells(line) if "," in line else None) or _from_plain(line)
    return None if counter is None else _row(rank, counter)


def _from_json(line: str) -> Counter | None:
    try:
        found = json.loads(NOT_JSON.sub(": null", line))
    except ValueError:
        return None
    if NO_PARTS & set(found) or not {"counter-value", "event"} <= set(found):
        return None
    return {
        "value": str(found["counter-value"]),
        "unit": found.get("unit"),
        "event": str(found["event"]),
        "runtime": found.get("event-runtime"),
        "running": found.get("pcnt-running"),
        "metric": found.get("metric-value"),
        "metric_unit": found.get("metric-unit"),
        "until": found.get("interval"),
    }


def _from_cells(line: str) -> Counter | None:
    """[time,] value, unit, event, [stddev%,] runtime, running, metric, metric unit."""
    cells = _events_joined([cell.strip() for cell in line.split(",")])
    until = cells.pop(0) if len(cells) > 3 and _is_value(cells[1]) else None
    if until is not None and not _is_value(until):
        return None  # CPU0, S0: a part of the machine
    if len(cells) > 3 and cells[3].endswith("%"):
        del cells[3]
    if len(cells) < 5 or not _is_value(cells[0]) or not cells[2] or _is_value(cells[2]):
        return None
    names = ("value", "unit", "event", "runtime", "running", "metric", "metric_unit")
    return {**dict.fromkeys(names), **dict(zip(names, cells, strict=False)), "until": until}


def _events_joined(cells: Sequence[str]) -> list[str]:
    """Commas inside an event such as cpu/event=0x3c,umask=0/ do not part cells."""
    joined: list[str] = []
    for cell in cells:
        if joined and joined[-1].count("/") == 1 and not joined[-1].startswith("/"):
            joined[-1] += f",{cell}"
        else:
            joined.append(cell)
    return joined


def _from_plain(line: str) -> Counter | None:
    match = PLAIN.fullmatch(line)
    if match is None:
        return None
    found = {name: text and text.strip() for name, text in match.groupdict().items()}
    commas = {name: (found[name] or "").replace(",", "") for name in ("value", "metric")}
    return {**found, **commas, "runtime": None, "until": None}


def _is_value(text: str) -> bool:
    return text in NOT_COUNTED or NUMBER.fullmatch(text) is not None


def _row(rank: int, counter: Counter) -> dict[str, Any]:
    event, modifiers = _event(counter["event"])
    user_only = "u" in modifiers and "k" not in modifiers
    reason = _reason(counter, event, user_only)
    known = reason is None
    share = _number(counter["running"])
    return {
        "rank": rank,
        "event": event,
        "value": _number(counter["value"]) if known else None,
        "unit": counter["unit"] or None,
        "running_share": share / 100 if known and share is not None else None,
        "metric_value": _number(counter["metric"]) if known and counter["metric_unit"] else None,
        "metric_unit": counter["metric_unit"] or None if known else None,
        "user_only": user_only,
        "until_s": _number(counter["until"]),
        "reason": reason,
    }


def _reason(counter: Counter, event: str, user_only: bool) -> str | None:
    """Why a counter was not measured; None when it was."""
    value = _number(counter["value"])
    if value is None:
        return NOT_COUNTED.get(counter["value"], f"cannot read {counter['value']!r}")
    if value == 0 and user_only and event in SEEN_BY_KERNEL:
        return FALSE_ZERO
    if value == 0 and _number(counter["runtime"]) == 0:
        return NEVER_RAN
    return None


def _event(text: str) -> tuple[str, str]:
    """The event and its modifiers: cycles:u, or msr/tsc/u for an event of a unit."""
    if text.count("/") == 2:
        unit, name, modifiers = text.split("/")
        return f"{unit}/{name}/", modifiers.lstrip(":")
    name, _, modifiers = text.rpartition(":")
    return (name, modifiers) if name and re.fullmatch(r"[ukhGHIpPSDeW]+", modifiers) else (text, "")


def _number(value: Any) -> float | None:
    text = str(value).strip()
    return float(text) if NUMBER.fullmatch(text) else None


def _findings(
    rows: Sequence[dict[str, Any]], broken: int, rank: int, source: str
) -> list[dict[str, Any]]:
    """What was wrong with the file, for the quality table."""
    false_zeros = [row["event"] for row in rows if row["reason"] == FALSE_ZERO]
    others = [row["event"] for row in rows if row["reason"] not in (None, FALSE_ZERO)]
    said = (
        ("perf-stat-empty", int(not rows), "no counter: perf was ended before it wrote them"),
        ("perf-stat-broken-lines", broken, f"{broken} line(s) that are no counter were left out"),
        ("perf-false-zero", len(false_zeros), f"{listed(false_zeros)} read a false 0: left out"),
        ("perf-not-counted", len(others), f"{listed(others)} could not be counted here"),
    )
    return [
        finding(
            code,
            f"{source}: {text}",
            rank=rank,
            source=source,
            count=count,
            severity="info" if code in ("perf-false-zero", "perf-not-counted") else "warning",
        )
        for code, count, text in said
        if count
    ]


def listed(names: Sequence[str]) -> str:
    """Each name once, in order."""
    return ", ".join(dict.fromkeys(names))
