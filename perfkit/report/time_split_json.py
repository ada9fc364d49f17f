"""The JSON document of an analysis: exact ns under the tables' own names, null for not measured."""

from typing import Any

import polars as pl

from perfkit.ingest.perf_script import hottest
from perfkit.report.ending import first_lines
from perfkit.timeline.analysis import COLLECTED, Analysis
from perfkit.timeline.split import SPLIT
from perfkit.timeline.windows import WHOLE

KEYS = ("rank", "device")
RUN_KEYS = ("id", "state", "failure", "started_at", "ended_at", "config")
# Whole stacks can be many MB: they are in stacks.parquet, and here the functions they end in.
TOO_LARGE, TOP_FUNCTIONS = "stacks", 30
NO_DEVICE = ""
NUMBERS = [name for name in SPLIT.names() if name not in (*KEYS, "phase")]


def document(analysis: Analysis) -> dict[str, Any]:
    """One analysis; as_json adds schema_version. Its ranks have one entry for each device."""
    return {
        "source": str(analysis.source),
        "run": {key: analysis.run.get(key) for key in RUN_KEYS},
        "ending": first_lines(analysis),
        "ranks": [entry for rank in analysis.ranks for entry in rank_entries(analysis, rank)],
        "measures": measures(analysis),
        "missing_traces": list(analysis.missing_traces),
        "missing_timers": list(analysis.missing_timers),
        **{n: getattr(analysis.collected, n).to_dicts() for n in COLLECTED if n != TOO_LARGE},
        "hottest_functions": hottest(analysis.collected.stacks, TOP_FUNCTIONS).to_dicts(),
        "warnings": analysis.warnings,
    }


def rank_entries(analysis: Analysis, rank: int) -> list[dict[str, Any]]:
    """One entry for each device of a rank; one with nulls when there is no trace of it."""
    rows = analysis.split.filter(pl.col("rank") == rank)
    devices = rows["device"].unique(maintain_order=True).to_list() or [NO_DEVICE]
    about = analysis.quality.filter(pl.col("rank") == rank)["text"].to_list()
    return [
        {
            "rank": rank,
            "device": device or None,
            "host": host(analysis, rank),
            **_whole(rows.filter(pl.col("device") == device)),
            "phases": _phases(rows.filter(pl.col("device") == device)),
            "collectives": _of(analysis.collectives, rank, device),
            "kernel_classes": _of(analysis.families, rank, device),
            "warnings": about,
        }
        for device in devices
    ]


def host(analysis: Analysis, rank: int) -> str | None:
    """The rank's host, from run.json's layout, else from its timers."""
    for place in analysis.run.get("layout", []):
        if place.get("rank") == rank and place.get("host"):
            return str(place["host"])
    hosts = analysis.timers.filter(pl.col("rank") == rank)["host"]
    return str(hosts[0]) if len(hosts) else None


def measures(analysis: Analysis) -> dict[str, Any]:
    """Median and range of the timed passes, the captured value, each pass, the profiler ratio."""
    summary = {row.pop("measure"): row for row in analysis.summary.to_dicts()}
    ratio = {"profiler_ratio": analysis.profiler_ratio}
    return {**summary, **ratio, "passes": analysis.measures.to_dicts()}


def _whole(rows: pl.DataFrame) -> dict[str, Any]:
    found = rows.filter(pl.col("phase") == WHOLE).select(NUMBERS).to_dicts()
    return found[0] if found else dict.fromkeys(NUMBERS)


def _phases(rows: pl.DataFrame) -> list[dict[str, Any]]:
    return rows.filter(pl.col("phase") != WHOLE).drop(KEYS).to_dicts()


def _of(frame: pl.DataFrame, rank: int, device: str) -> list[dict[str, Any]]:
    return frame.filter(pl.col("rank") == rank, pl.col("device") == device).drop(KEYS).to_dicts()
