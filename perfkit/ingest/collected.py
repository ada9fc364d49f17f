"""What the collectors beside the traces left in a run folder, as tables.

processes  each rank's own program, from its witness: exit, CPU time, peak memory
counters   perf stat of each rank
gpus       utilisation, power and memory of each GPU over the run, from nvidia-smi
jobs       Slurm's accounting
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.errors import ConfigError
from perfkit.ingest.frames import finding
from perfkit.ingest.nvml import GPU_SUMMARY, read_nvml, summarise_gpus
from perfkit.ingest.perf import COUNTERS, read_perf_stat
from perfkit.ingest.sacct import JOBS, read_sacct
from perfkit.schema import RunFolder, read_json

PROCESSES = pl.Schema(
    {
        "rank": pl.Int32,
        "exit_code": pl.Int32,  # null when a signal ended it, or when it was never seen to end
        "signal": pl.Int32,
        "wall_s": pl.Float64,  # start to end of the program, loading included
        "cpu_s": pl.Float64,  # user and system time of all its threads and children
        "max_rss_bytes": pl.Int64,  # peak resident memory, mapped files included
        "involuntary_switches": pl.Int64,  # times it lost its core to somebody else
    }
)

Findings = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The four tables; each is empty where nothing was collected."""

    processes: pl.DataFrame
    counters: pl.DataFrame
    gpus: pl.DataFrame
    jobs: pl.DataFrame


def read_collected(
    folder: RunFolder, ranks: Sequence[int], utc_offset_s: int | None, findings: Findings
) -> Collected:
    """Every product that is there; what cannot be read becomes a finding, never an error."""
    return Collected(
        processes=pl.DataFrame([process_row(folder, rank) for rank in ranks], schema=PROCESSES),
        counters=_counters(folder, ranks, findings),
        gpus=_gpus(folder, utc_offset_s, findings),
        jobs=_jobs(folder, findings),
    )


def nothing() -> Collected:
    """The tables of loose trace files."""
    schemas = {"processes": PROCESSES, "counters": COUNTERS, "gpus": GPU_SUMMARY, "jobs": JOBS}
    return Collected(**{name: pl.DataFrame(schema=schema) for name, schema in schemas.items()})


def process_row(folder: RunFolder, rank: int) -> dict[str, Any]:
    """One rank's exit.json; nulls for what it does not say."""
    file = folder.rank_file(rank, "exit.json")
    try:
        seen = read_json(file) if file.is_file() else {}
    except ConfigError:
        seen = {}
    ended = "ended_ns" in seen
    return {
        "rank": rank,
        "exit_code": seen.get("exit_code"),
        "signal": seen.get("signal"),
        "wall_s": (seen["ended_ns"] - seen["started_ns"]) / 1e9 if ended else None,
        "cpu_s": seen["user_s"] + seen["system_s"] if ended else None,
        "max_rss_bytes": seen.get("max_rss_bytes"),
        "involuntary_switches": seen.get("involuntary_switches"),
    }


def _counters(folder: RunFolder, ranks: Sequence[int], findings: Findings) -> pl.DataFrame:
    frames = [pl.DataFrame(schema=COUNTERS)]
    for rank in ranks:
        path = folder.rank_file(rank, "perf-stat.jsonl")
        read = _read(path, folder, findings, partial(read_perf_stat, rank=rank))
        frames += [read[0]] if read else []
    return pl.concat(frames)


def _gpus(folder: RunFolder, utc_offset_s: int | None, findings: Findings) -> pl.DataFrame:
    frames = [pl.DataFrame(schema=GPU_SUMMARY)]
    for path in sorted((folder.root / "nodes").glob("*/nvml.csv")):
        reader = partial(read_nvml, host=path.parent.name, utc_offset_s=utc_offset_s)
        read = _read(path, folder, findings, reader)
        frames += [summarise_gpus(read[0])] if read else []
    return pl.concat(frames)


def _jobs(folder: RunFolder, findings: Findings) -> pl.DataFrame:
    def read(path: Path) -> tuple[pl.DataFrame, Findings]:
        accounting = read_sacct(path)
        return accounting.jobs, accounting.findings

    found = _read(folder.job / "sacct.psv", folder, findings, read)
    return found[0] if found else pl.DataFrame(schema=JOBS)


def _read(
    path: Path,
    folder: RunFolder,
    findings: Findings,
    reader: Callable[[Path], tuple[pl.DataFrame, Findings]],
) -> tuple[pl.DataFrame, Findings] | None:
    """A product's frame; a missing file is None, an unusable one a finding too."""
    if not path.is_file():
        return None
    source = str(path.relative_to(folder.root))
    try:
        frame, found = reader(path)
    except ConfigError as error:
        text = str(error).replace(str(path), source)
        findings.append(finding("unreadable-product", text, source=source))
        return None
    findings += [{**row, "source": source} for row in found]
    return frame, found
