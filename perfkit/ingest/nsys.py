"""One nsys export -> the tables of every rank in it, the ones that any trace source fills.

A file can hold several processes, each with devices of its own: each process that used a GPU is a
rank. Without any GPU activity, which is a valid answer, each process with phases is one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from perfkit.ingest.frames import ACTIVITIES, DEVICES, GPU_METRICS, RANGES, SYNCS, finding
from perfkit.ingest.nsys_calls import SYNC_ROWS, Launches, launch_times, read_calls
from perfkit.ingest.nsys_facts import (
    Findings,
    devices_table,
    lost_events,
    mpi_ranks,
    not_traced,
    start_ns,
    version,
)
from perfkit.ingest.nsys_folder import FolderSource
from perfkit.ingest.nsys_gpu import NO_PROCESS, gpu_rows
from perfkit.ingest.nsys_metrics import Sampled, read_metrics
from perfkit.ingest.nsys_nccl import Call, Communicator, communicators, launched_in, nccl_calls
from perfkit.ingest.nsys_ranges import NVTX, phases_of, read_ranges
from perfkit.ingest.nsys_ranks import Ranked, about_ranks, device_names, rank_processes
from perfkit.ingest.nsys_source import Source
from perfkit.ingest.nsys_sqlite import SqliteSource
from perfkit.ingest.trace import Trace

NCCL_FAMILIES = ("nccl", "nccl_symmetric")


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Everything read from one file, before it is known which process is which rank."""

    source: Source
    base_ns: int
    """UNIX time of the file's time 0"""
    rows: dict[int, pl.DataFrame]
    """nsys_gpu.ROWS of each process"""
    labels: pl.DataFrame
    """nsys_gpu.LABELS"""
    launches: Launches
    syncs: pl.DataFrame
    """nsys_calls.SYNC_ROWS"""
    nvtx: pl.DataFrame
    """nsys_ranges.NVTX"""
    calls: dict[int, list[Call]]
    known: dict[int, dict[int, Communicator]]
    sampled: Sampled
    phases: bool


def read_nsys(path: Path, rank: int | None = None, *, phases: bool = True) -> list[Trace]:
    """Every rank of one export; `rank` is that of its folder in a run of several ranks.

    Without `phases`, launches and ranges are not read: enough to split the whole, twice as fast.
    """
    source: Source = FolderSource(path) if path.is_dir() else SqliteSource(path)
    export, findings = read_export(source, phases)
    processes = sorted(export.rows) or sorted(export.nvtx["process"].unique())
    ranked = rank_processes(path, processes, rank, export.known, mpi_ranks(source))
    members = ranked.processes() or {rank or 0: []}
    nsys = version(source)
    recognised = f"Nsight Systems{f' {nsys}' if nsys else ''} {source.format}"
    traces = [_trace(export, number, mine, ranked, recognised) for number, mine in members.items()]
    traces[0].findings.extend(findings + about_ranks(path, ranked))
    return traces


def read_export(source: Source, phases: bool) -> tuple[Export, Findings]:
    """All tables of a file that perfkit reads, and what is to be said about them."""
    rows, labels, broken = gpu_rows(source, phases)
    launches, syncs = read_calls(source) if phases else ({}, pl.DataFrame(schema=SYNC_ROWS))
    nvtx, findings = read_ranges(source) if phases else (pl.DataFrame(schema=NVTX), [])
    firsts = [frame["start"].min() for frame in (*rows.values(), nvtx) if len(frame)]
    base_ns, no_start = start_ns(source, firsts)
    hosts = {*launches, *nvtx["process"].unique()}
    if set(rows) == {NO_PROCESS} and len(hosts) == 1:
        rows = {hosts.pop(): rows[NO_PROCESS]}
    sampled, about_samples = read_metrics(source, rows)
    calls = nccl_calls(source, nvtx)
    export = Export(
        source=source,
        base_ns=base_ns,
        rows=rows,
        labels=labels,
        launches=launches,
        syncs=syncs,
        nvtx=nvtx,
        calls=calls,
        known=communicators(calls),
        sampled=sampled,
        phases=phases,
    )
    if broken:
        text = f"{broken} GPU activities without an end, or with one before their start, left out"
        findings.append(finding("broken-rows", text, count=broken))
    if source.unreadable:
        text = (
            f"nsys declares {', '.join(source.unreadable)} of this export as text, which it is "
            "not: without pyarrow it cannot be read, and sizes and communicators of NCCL's calls "
            "are missing. Install pyarrow, or export to SQLite with --include-blobs=true"
        )
        findings.append(finding("unreadable-payloads", text))
    return export, [
        *not_traced(source, bool(rows), phases),
        *lost_events(source),
        *no_start,
        *findings,
        *about_samples,
    ]


def _trace(
    export: Export, rank: int, processes: Sequence[int], ranked: Ranked, recognised: str
) -> Trace:
    """The tables of one rank: of one process, as a rule."""
    used = {p: export.rows[p]["device"].unique().to_list() for p in processes if p in export.rows}
    names = device_names(used)
    parts = [_activities(export, process, rank, names[process]) for process in names]
    activities = pl.concat([pl.DataFrame(schema=ACTIVITIES), *parts])
    ranges, findings = _ranges(export, rank, processes)
    devices = [devices_table(export.source, rank, p, names[p]) for p in names]
    metrics = [export.sampled.table(rank, p, names[p]) for p in names]
    return Trace(
        rank=rank,
        rank_known=ranked.known,
        world_size=ranked.world_size,
        activities=activities.sort("start_ns", "end_ns") if len(parts) > 1 else activities,
        ranges=ranges,
        syncs=_syncs(export, rank, processes),
        devices=pl.concat([pl.DataFrame(schema=DEVICES), *devices]),
        findings=[
            {**row, "rank": rank} for row in findings + about_activities(activities, export.phases)
        ],
        recognised=recognised,
        gpu_metrics=pl.concat([pl.DataFrame(schema=GPU_METRICS), *metrics]),
        own_clock=True,
    )


def _activities(export: Export, process: int, rank: int, names: Mapping[int, str]) -> pl.DataFrame:
    """ACTIVITIES of one process, whose rows are given up: many millions need the room."""
    rows = export.rows.pop(process)
    rows = rows if rows["start"].is_sorted() else rows.sort("start", "end")
    launch: pl.Series | pl.Expr = pl.lit(None, pl.Int64)
    if export.phases:
        launch = launch_times(rows["correlation"], export.launches, process)
    rows = rows.with_columns(launch=launch).drop("correlation")
    rows = rows.join(export.labels, on="label", how="left", maintain_order="left").drop("label")
    rows = _with_collectives(rows, export, process)
    base = export.base_ns
    return rows.select(
        rank=pl.lit(rank, pl.Int32),
        device=_device(names),
        stream="stream",
        kind="kind",
        **{"class": "class"},
        family="family",
        name="name",
        start_ns=pl.col("start") + base,
        end_ns=pl.col("end") + base,
        launch_ns=pl.col("launch") + base,
        op="op",
        group="group",
        num_ranks="num_ranks",
        bytes="bytes",
    )


def _device(names: Mapping[int, str]) -> pl.Expr:
    if len(names) == 1:
        return pl.lit(next(iter(names.values())))
    return pl.col("device").replace_strict(dict(names), return_dtype=pl.String)


def _with_collectives(rows: pl.DataFrame, export: Export, process: int) -> pl.DataFrame:
    """With group, num_ranks and bytes of NCCL's kernels, where NCCL told them."""
    nothing = rows.with_columns(group=pl.lit(None, pl.String), num_ranks=pl.lit(None, pl.Int32))
    calls = export.calls.get(process)
    if not calls or not any(call.payload for call in calls):
        return nothing
    of_nccl = pl.col("family").is_in(NCCL_FAMILIES) & (pl.col("kind") == "kernel")
    numbered = nothing.with_row_index("row")
    kernels = numbered.filter(of_nccl).sort("launch")
    told = launched_in(kernels["launch"], calls, export.known.get(process, {}))
    told = told.with_columns(kernels["row"])
    joined = numbered.join(told, on="row", how="left", suffix="_told", maintain_order="left")
    better = [pl.coalesce(f"{n}_told", n).alias(n) for n in ("op", "group", "num_ranks", "bytes")]
    return joined.with_columns(better)


def _ranges(export: Export, rank: int, processes: Sequence[int]) -> tuple[pl.DataFrame, Findings]:
    parts, findings = [pl.DataFrame(schema=RANGES)], []
    for process in processes:
        mine, found = phases_of(export.nvtx.filter(pl.col("process") == process))
        findings += found
        parts.append(
            mine.select(
                rank=pl.lit(rank, pl.Int32),
                phase="phase",
                start_ns=pl.col("start") + export.base_ns,
                end_ns=pl.col("end") + export.base_ns,
            )
        )
    return pl.concat(parts), findings


def _syncs(export: Export, rank: int, processes: Sequence[int]) -> pl.DataFrame:
    mine = export.syncs.filter(pl.col("process").is_in(list(processes)))
    columns = {
        "rank": pl.lit(rank),
        "name": pl.col("name"),
        "start_ns": pl.col("start") + export.base_ns,
        "end_ns": pl.col("end") + export.base_ns,
    }
    return mine.select(column.cast(SYNCS[n]).alias(n) for n, column in columns.items())


def about_activities(activities: pl.DataFrame, launches: bool) -> Findings:
    """Activities that cannot be placed, and graphs that cannot be looked into."""
    found = []
    lone = activities["launch_ns"].null_count()
    if launches and 0 < lone < activities.height:
        text = f"{lone} GPU activities have no launch in the trace: they are in no phase"
        found.append(finding("no-launch", text, count=lone, severity="info"))
    graphs = activities.filter(pl.col("kind") == "graph").height
    if graphs:
        text = (
            f"{graphs} replays of CUDA graphs were recorded as a whole: they count as busy, as "
            "compute, and what ran inside (communication, too) is unknown. Record with "
            "--cuda-graph-trace=node to see it"
        )
        found.append(finding("graphs-only", text, count=graphs))
    return found
