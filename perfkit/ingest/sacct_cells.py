"""One row of sacct: each cell as a number with its source, or None with the reason.

A false zero is worse than a gap: what Slurm did not sample is None, and so is energy that no plugin
read.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

UNFINISHED = {"RUNNING", "PENDING", "SUSPENDED", "REQUEUED", "RESIZING", "COMPLETING"}
NO_VALUE = {
    "",
    "Unknown",
    "None",
    "None assigned",
    "N/A",
    "INVALID",
    "UNLIMITED",
    "Partition_Limit",
}
NO_ENERGY = 2**63  # NO_VAL64, or a counter that went backwards
SACCT = "sacct"
UNREADABLE = "not measured: cannot read "
LOCAL_TIME = "not measured: local time, offset from UTC not known"
MEMORY_UNITS = {unit: 1024**power for power, unit in enumerate(["", "K", "M", "G", "T", "P"])}
DURATION = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")
MEMORY = re.compile(r"(\d+(?:\.\d+)?)([KMGTP]?)")

Read = tuple[Any, str]
"""A value and where it is from, or None and why."""


def numbers(
    cells: Mapping[str, str], step: str | None, state: str, utc_offset_s: int | None
) -> dict[str, Read]:
    """Every number of a row of JOBS; `cells` are texts by field name in lower case."""
    unfinished = state in UNFINISHED
    elapsed, gpus = read(cells, "Elapsed", duration_s), read_gpus(cells)
    if unfinished and elapsed[0] == 0:
        elapsed = None, "not measured: it had not started"

    def usage(field: str, parse: Callable[[str], Any]) -> Read:
        return _usage(read(cells, field, parse), unfinished)

    def rss(field: str) -> Read:
        if step is None:
            return None, "not measured: only steps have it"
        return usage(field, memory_bytes)

    return {
        "num_nodes": _recorded(read(cells, "NNodes", whole, tres="node")),
        "num_tasks": _recorded(read(cells, "NTasks", whole)),
        "num_cpus": _recorded(read(cells, "NCPUS", whole, tres="cpu")),
        "submit": read_time(cells, "Submit", utc_offset_s),
        "start": read_time(cells, "Start", utc_offset_s),
        "end": read_time(cells, "End", utc_offset_s),
        "elapsed_s": elapsed,
        "time_limit_s": _recorded(read(cells, "Timelimit", duration_s)),
        "cpu_time_s": usage("TotalCPU", duration_s),
        "max_rss_bytes": rss("MaxRSS"),
        "ave_rss_bytes": rss("AveRSS"),
        "consumed_energy_j": _energy(usage("ConsumedEnergyRaw", whole), step),
        "gpus": gpus,
        "gpu_hours": _gpu_hours(gpus, elapsed, step),
    }


def read(
    cells: Mapping[str, str], field: str, parse: Callable[[str], Any], tres: str | None = None
) -> Read:
    """One field, or the entry of AllocTRES that says the same when it was not asked for."""
    text = cells.get(field.lower())
    if text is None and tres is not None:
        text = allocated(cells.get("alloctres", "")).get(tres)
    if text is None:
        return None, f"not measured: sacct was not asked for {field}"
    if text in NO_VALUE:
        return None, f"not measured: sacct says {text or 'nothing'}"
    value = parse(text)
    return (None, f"{UNREADABLE}{field} {text!r}") if value is None else (value, SACCT)


def read_time(cells: Mapping[str, str], field: str, utc_offset_s: int | None) -> Read:
    value, why = read(cells, field, lambda text: utc_time(text, utc_offset_s))
    if value is None and utc_time(cells.get(field.lower(), ""), 0) is not None:
        return None, LOCAL_TIME
    return value, why


def _recorded(found: Read) -> Read:
    """A job that just started reads 0 nodes, 0 CPUs and no time limit for some seconds."""
    return (None, "not measured: sacct reads 0, not yet recorded") if found[0] == 0 else found


def _usage(found: Read, unfinished: bool) -> Read:
    value, why = found
    if unfinished:
        return None, "not measured: it had not ended"
    return (None, "not measured: sacct reads 0, never sampled") if value == 0 else (value, why)


def _energy(read: Read, step: str | None) -> Read:
    """Joules of the job's nodes: each step of a node reads the same joules, so steps have none."""
    value, why = read
    if step is not None:
        return None, "not measured: energy is of whole nodes, only the job's row has it"
    if value is None and ("reads 0" in why or "nothing" in why):
        return None, "not measured: no reading, as without an energy plugin"
    if value is not None and value >= NO_ENERGY:
        return None, "not measured: the energy counter went backwards"
    return value, why


def read_gpus(cells: Mapping[str, str]) -> Read:
    tres = allocated(cells.get("alloctres", ""))
    typed = [count for name, count in tres.items() if name.startswith("gres/gpu:")]
    counts = [tres["gres/gpu"]] if "gres/gpu" in tres else typed
    if not counts:
        return None, "not measured: AllocTRES names no gres/gpu"
    numbers = [whole(count) for count in counts]
    if None in numbers:
        return None, f"{UNREADABLE}AllocTRES {cells['alloctres']!r}"
    return sum(number for number in numbers if number is not None), SACCT


def _gpu_hours(gpus: Read, elapsed: Read, step: str | None) -> Read:
    if step is not None:
        return None, "not measured: counted in the job's row"
    if gpus[0] is None or elapsed[0] is None:
        return None, gpus[1] if gpus[0] is None else elapsed[1]
    return gpus[0] * elapsed[0] / 3600, SACCT


def allocated(tres: str) -> dict[str, str]:
    """`cpu=4,gres/gpu=4,node=2` by name."""
    return dict(part.split("=", 1) for part in tres.split(",") if "=" in part)


def whole(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def duration_s(text: str) -> float | None:
    """Seconds of [D-]HH:MM:SS or MM:SS.mmm."""
    if not (match := DURATION.fullmatch(text)):
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return days * 86400 + hours * 3600 + minutes * 60 + seconds


def memory_bytes(text: str) -> int | None:
    """Bytes of 56984K or 1.50G; units are powers of 1024, none is bytes."""
    match = MEMORY.fullmatch(text)
    return round(float(match[1]) * MEMORY_UNITS[match[2]]) if match else None


def utc_time(text: str, utc_offset_s: int | None) -> datetime | None:
    """A time as sacct prints it: seconds since 1970, ISO with its zone, or local ISO."""
    if text.isdecimal():
        return datetime.fromtimestamp(int(text), UTC)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    if time.tzinfo is not None:
        return time.astimezone(UTC)
    if utc_offset_s is None:
        return None
    return time.replace(tzinfo=UTC) - timedelta(seconds=utc_offset_s)
