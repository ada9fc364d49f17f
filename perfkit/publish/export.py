"""Analyses in the formats of other tools: Perfetto's viewer, spreadsheets, Extra-P.

perfetto  Chrome trace JSON (ui.perfetto.dev reads it): every rank a process, on one clock, phases
          and streams as threads, waiting and transfer as arguments of the collectives
csv       every table of the analysis, one file each
extrap    JSON Lines of Extra-P 4: measures of each timed pass against ranks, tp, pp and batch
"""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.errors import ConfigError
from perfkit.timeline.analysis import TABLES, Analysis
from perfkit.timeline.whatif import clock_offsets, shifted

US = 1e-3
PHASES = "phases"
MEASURES = ("ttft_s", "tpot_s", "e2e_s", "tokens_per_s")
PARAMETERS = ("tp", "pp", "batch")


def perfetto(analysis: Analysis, path: Path) -> None:
    """Write one Chrome trace of all ranks; gzip when the name ends so."""
    if analysis.activities.is_empty() and analysis.ranges.is_empty():
        raise ConfigError(f"{analysis.source} has no trace to export.")
    text = json.dumps({"displayTimeUnit": "ns", "traceEvents": list(events(analysis))})
    content = text.encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def events(analysis: Analysis) -> Iterator[dict[str, Any]]:
    """Chrome trace events: names of processes, then activities and phases, in us from the start."""
    offsets = clock_offsets(analysis)
    activities = shifted(analysis.activities, offsets, ("start_ns", "end_ns"))
    ranges = shifted(analysis.ranges, offsets, ("start_ns", "end_ns"))
    first = min(
        int(start)
        for frame in (activities, ranges)
        if (start := frame["start_ns"].min()) is not None and isinstance(start, int)
    )
    for rank in analysis.ranks:
        yield {"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"rank {rank}"}}
    for rank, phase, start, end in ranges.iter_rows():
        yield _complete(rank, PHASES, phase, "phase", start - first, end - start, {})
    keys = ["rank", "device", "start_ns", "end_ns", "group"]
    waits = shifted(analysis.waits, offsets, ("start_ns", "end_ns"))
    known = waits.select(*keys, "wait_ns", "transfer_ns")
    rows = activities.join(known, on=keys, how="left", nulls_equal=True)
    names = ("device", "stream", "class", "name", "bytes", "group", "wait_ns", "transfer_ns")
    for row in rows.select("rank", "start_ns", "end_ns", *names).iter_rows(named=True):
        args = {key: row[key] for key in names[4:] if row[key] is not None}
        thread = f"{row['device']} stream {row['stream']}"
        duration = row["end_ns"] - row["start_ns"]
        start = row["start_ns"] - first
        yield _complete(row["rank"], thread, row["name"], row["class"], start, duration, args)


def _complete(
    rank: int, thread: str, name: str, kind: str, start: int, duration: int, args: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "ph": "X",
        "pid": rank,
        "tid": thread,
        "name": name,
        "cat": kind,
        "ts": start * US,
        "dur": duration * US,
        "args": dict(args),
    }


def csv(analysis: Analysis, folder: Path) -> None:
    """Write every table that has rows as folder/NAME.csv, exact values under the tables' names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        frame: pl.DataFrame = getattr(analysis, name)
        if not frame.is_empty():
            frame.write_csv(folder / f"{name}.csv")


def extrap(analyses: Sequence[Analysis], path: Path) -> None:
    """Write a line for each measure of each timed pass; ConfigError where nothing was timed."""
    lines = [line for analysis in analyses for line in measurements(analysis)]
    if not lines:
        raise ConfigError("no timed pass in these runs: there is nothing that Extra-P could model.")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def measurements(analysis: Analysis) -> Iterator[dict[str, Any]]:
    """Extra-P's measurements: parameters, callpath, metric, value."""
    config = analysis.run.get("config") or {}
    if any(name not in config for name in PARAMETERS):
        raise ConfigError(f"{analysis.source} does not record tp, pp and batch: no run of a model.")
    params = {"ranks": len(analysis.ranks), **{name: config[name] for name in PARAMETERS}}
    for row in analysis.measures.filter(pl.col("kind") == "timed").iter_rows(named=True):
        for metric in MEASURES:
            if row[metric] is not None:
                yield {"params": params, "callpath": "run", "metric": metric, "value": row[metric]}
