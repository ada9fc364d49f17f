"""What the collectors beside the traces left in a run folder, as tables.

collectors   what each collector did, and what is lost where it did nothing
processes    each rank's own program, from its witness: exit, CPU time, peak memory
counters     perf stat of each rank
stacks       perf record of the profiled ranks
gpus         utilisation, power and memory of each GPU over the run, from nvidia-smi
gpu_metrics  hardware counters of each GPU while kernels were captured, from nsys; the traces bring
             them, so that they are empty until those have been read
nccl         which NCCL each rank ran, and over what it moved data
jobs         Slurm's accounting, and job_sources: where each of its numbers is from
resources    what the run took, each number with its source
"""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.errors import ConfigError
from perfkit.ingest.accounting import RESOURCES, ending_findings, own_rows, resources
from perfkit.ingest.collectors import COLLECTORS, collectors_table
from perfkit.ingest.frames import GPU_METRICS, finding
from perfkit.ingest.nccl_log import NCCL, read_nccl_log, socket_findings
from perfkit.ingest.nvml import GPU_SUMMARY, read_nvml, summarise_gpus
from perfkit.ingest.perf import COUNTERS, read_perf_stat
from perfkit.ingest.perf_script import STACKS, read_perf_script
from perfkit.ingest.rank_words import listed
from perfkit.ingest.sacct import JOBS, SOURCES, Accounting, read_sacct
from perfkit.schema import RunFolder, read_json

PROCESSES = pl.Schema(
    {
        "rank": pl.Int32,
        "exit_code": pl.Int32,  # null when a signal ended it, or when it was never seen to end
        "signal": pl.Int32,
        # witness: the program's own end; supervisor: that of the profiler around it, because the
        # program was not seen to end
        "seen_by": pl.String,
        "wall_s": pl.Float64,  # start to end of the program, loading included
        "cpu_s": pl.Float64,  # user and system time of all its threads and children
        "max_rss_bytes": pl.Int64,  # peak resident memory, mapped files included
        "involuntary_switches": pl.Int64,  # times it lost its core to somebody else
    }
)
SCHEMAS = {
    "collectors": COLLECTORS,
    "processes": PROCESSES,
    "counters": COUNTERS,
    "stacks": STACKS,
    "gpus": GPU_SUMMARY,
    "gpu_metrics": GPU_METRICS,
    "nccl": NCCL,
    "jobs": JOBS,
    "job_sources": SOURCES,
    "resources": RESOURCES,
}
# One file of each rank, and what reads it.
RANK_FILES = {
    "perf-stat": ("perf-stat.jsonl", read_perf_stat, COUNTERS),
    "perf-record": ("perf-script.txt", read_perf_script, STACKS),
    "nccl-log": ("nccl-log.txt", read_nccl_log, NCCL),
}

Findings = list[dict[str, Any]]
Reader = Callable[[Path], tuple[pl.DataFrame, Findings]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The tables; each is empty where nothing was collected."""

    collectors: pl.DataFrame
    processes: pl.DataFrame
    counters: pl.DataFrame
    stacks: pl.DataFrame
    gpus: pl.DataFrame
    gpu_metrics: pl.DataFrame
    nccl: pl.DataFrame
    jobs: pl.DataFrame
    job_sources: pl.DataFrame
    resources: pl.DataFrame


def read_collected(
    folder: RunFolder, ranks: Sequence[int], utc_offset_s: int | None, findings: Findings
) -> Collected:
    """Every product that is there; what cannot be read becomes a finding, never an error."""
    run = read_json(folder.run_json) if folder.run_json.is_file() else {}
    findings += _warnings(run)
    states = collectors_table(run)
    processes = pl.DataFrame([process_row(folder, rank) for rank in ranks], schema=PROCESSES)
    of_ranks = {name: _of_ranks(name, folder, ranks, states, findings) for name in RANK_FILES}
    findings += socket_findings(of_ranks["nccl-log"])
    gpus = _gpus(folder, utc_offset_s, findings)
    accounting = _accounting(folder, run, findings)
    jobs, sources = accounting.jobs, accounting.sources
    return Collected(
        collectors=states,
        processes=processes,
        counters=of_ranks["perf-stat"],
        stacks=of_ranks["perf-record"],
        gpus=gpus,
        gpu_metrics=pl.DataFrame(schema=GPU_METRICS),
        nccl=of_ranks["nccl-log"],
        jobs=jobs,
        job_sources=sources,
        resources=resources(jobs, sources, processes, gpus, run),
    )


def nothing() -> Collected:
    """The tables of loose trace files."""
    return Collected(**{f.name: pl.DataFrame(schema=SCHEMAS[f.name]) for f in fields(Collected)})


def process_row(folder: RunFolder, rank: int) -> dict[str, Any]:
    """One rank's exit.json; nulls for what it does not say."""
    seen = _content(folder.rank_file(rank, "exit.json"))
    ended = "ended_ns" in seen
    how = {"exit_code": seen.get("exit_code"), "signal": seen.get("signal"), "seen_by": "witness"}
    if how["exit_code"] is None and how["signal"] is None:
        how = _end_around(_content(folder.rank_file(rank, "status.json")))
    return {
        "rank": rank,
        **how,
        "wall_s": (seen["ended_ns"] - seen["started_ns"]) / 1e9 if ended else None,
        "cpu_s": seen["user_s"] + seen["system_s"] if ended else None,
        "max_rss_bytes": seen.get("max_rss_bytes"),
        "involuntary_switches": seen.get("involuntary_switches"),
    }


def _end_around(status: Mapping[str, Any]) -> dict[str, Any]:
    """How what stood around the program ended; 0 says nothing of the program (perf says 0)."""
    number = getattr(signal, str(status.get("signal")), None)
    code = status.get("exit_code") or None
    known = number is not None or code is not None
    return {"exit_code": code, "signal": number, "seen_by": "supervisor" if known else None}


def _content(file: Path) -> dict[str, Any]:
    """A JSON file of a rank; empty where it is not there or was cut off."""
    try:
        return read_json(file) if file.is_file() else {}
    except ConfigError:
        return {}


def _warnings(run: Mapping[str, Any]) -> Findings:
    """What run.json warns of, so that the tables alone say it too."""
    texts = run.get("warnings", [])
    return [finding("run-warning", str(text), source="run.json") for text in texts]


def _of_ranks(
    name: str, folder: RunFolder, ranks: Sequence[int], states: pl.DataFrame, findings: Findings
) -> pl.DataFrame:
    """What one collector left of each rank, in one frame."""
    file, reader, schema = RANK_FILES[name]
    frames = [pl.DataFrame(schema=schema)]
    state = next(iter(states.filter(pl.col("collector") == name).to_dicts()), {})
    for rank in ranks:
        found: Findings = []
        read = _read(folder.rank_file(rank, file), folder, found, partial(reader, rank=rank))
        frames += [read[0]] if read else []
        if rank in state.get("missing_ranks", []):  # run.json has warned of it already
            found = [{**row, "severity": "info"} for row in found]
        findings += found
    lost = [rank for rank in state.get("ranks", []) if not folder.rank_file(rank, file).is_file()]
    if lost:
        text = f"{name} recorded {listed(lost)}, but {file} is not here: was all copied?"
        findings.append(finding("missing-product", text, count=len(lost)))
    return pl.concat(frames)


def _gpus(folder: RunFolder, utc_offset_s: int | None, findings: Findings) -> pl.DataFrame:
    frames = [pl.DataFrame(schema=GPU_SUMMARY)]
    for path in sorted((folder.root / "nodes").glob("*/nvml.csv")):
        reader = partial(read_nvml, host=path.parent.name, utc_offset_s=utc_offset_s)
        read = _read(path, folder, findings, reader)
        frames += [summarise_gpus(read[0])] if read else []
    return pl.concat(frames)


def _accounting(folder: RunFolder, run: Mapping[str, Any], findings: Findings) -> Accounting:
    """job/sacct.psv, and what it says of how the run ended."""
    path, slurm = folder.job / "sacct.psv", run.get("slurm") or {}
    read: list[Accounting] = []

    def keep(path: Path) -> tuple[pl.DataFrame, Findings]:
        read.append(read_sacct(path))
        return read[0].jobs, read[0].findings

    _read(path, folder, findings, keep)
    if not read:
        empty = pl.DataFrame(schema=JOBS), pl.DataFrame(schema=SOURCES)
        return Accounting(jobs=empty[0], sources=empty[1], findings=[])
    rows = own_rows(read[0].jobs, slurm.get("SLURM_JOB_ID"))
    findings += ending_findings(rows, slurm.get("SLURM_STEP_ID"), "job/sacct.psv")
    return read[0]


def _read(
    path: Path, folder: RunFolder, findings: Findings, reader: Reader
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
