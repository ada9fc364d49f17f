"""A run folder, or loose trace files -> every table that `perfkit analyze` writes.

One broken or missing file never stops the others: it becomes a finding and a missing rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.errors import ConfigError
from perfkit.executors import Executor, Here
from perfkit.ingest.collected import Collected, nothing, read_collected
from perfkit.ingest.frames import DEVICES, GPU_METRICS, QUALITY, RANGES, SYNCS, finding
from perfkit.ingest.recognise import trace_files, traces_of_rank
from perfkit.ingest.timers import (
    concatenated,
    empty,
    measure_passes,
    profiler_ratio,
    read_timers,
    summarise,
)
from perfkit.ingest.traces import Traces, read_all
from perfkit.schema import RunFolder, open_run
from perfkit.timeline.clocks import clocks_table
from perfkit.timeline.communicators import find_communicators, named
from perfkit.timeline.findings import (
    listed,
    measure_findings,
    phase_findings,
    state_findings,
    status_findings,
    trace_findings,
    unknown_findings,
)
from perfkit.timeline.looks import activities as activities_of
from perfkit.timeline.looks import look, prepare, write_activities
from perfkit.timeline.looks import split as split_of
from perfkit.timeline.matching import match_collectives
from perfkit.timeline.operations import FAMILIES, OPERATIONS, collectives_table
from perfkit.timeline.parts import together
from perfkit.timeline.peers import layout_of
from perfkit.timeline.split import SPLIT
from perfkit.timeline.waits import stragglers_table, waits_table
from perfkit.timeline.windows import WHOLE

PROGRAM = "program"
COLLECTED = tuple(Collected.__dataclass_fields__)
TABLES = (
    "timers",
    "measures",
    "summary",
    "activities",
    "ranges",
    "devices",
    "split",
    "operations",
    "families",
    "collectives",
    "waits",
    "stragglers",
    "clocks",
    "quality",
)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Activities that stay with the workers of an executor."""

    executor: Executor
    by_rank: dict[int, tuple[Any, ...]]

    def write(self, folder: Path) -> None:
        """folder/RANK.parquet, written by the workers: on a file system that they share."""
        rows = [
            (*row, folder.resolve() / f"{rank:04d}.parquet") for rank, row in self.by_rank.items()
        ]
        self.executor.fetch(write_activities, rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """Everything known about one run. Frames are declared where they are made."""

    source: Path
    """The run folder, or the first of the trace files."""
    run: dict[str, Any]
    """run.json; empty for loose trace files."""
    timers: pl.DataFrame
    """perfkit.ingest.timers.TIMERS"""
    measures: pl.DataFrame
    """perfkit.ingest.timers.MEASURES: one row a timed or captured pass"""
    summary: pl.DataFrame
    """perfkit.ingest.timers.SUMMARY: one row a measure"""
    activities: pl.DataFrame
    """perfkit.ingest.frames.ACTIVITIES; empty when they are elsewhere"""
    elsewhere: "Elsewhere | None"
    """activities that were read on other machines and stay there"""
    ranges: pl.DataFrame
    """perfkit.ingest.frames.RANGES"""
    syncs: pl.DataFrame
    """perfkit.ingest.frames.SYNCS"""
    devices: pl.DataFrame
    """perfkit.ingest.frames.DEVICES"""
    split: pl.DataFrame
    """perfkit.timeline.split.SPLIT"""
    operations: pl.DataFrame
    """perfkit.timeline.operations.OPERATIONS"""
    families: pl.DataFrame
    """perfkit.timeline.operations.FAMILIES"""
    collectives: pl.DataFrame
    """perfkit.timeline.operations.COLLECTIVES"""
    waits: pl.DataFrame
    """perfkit.timeline.waits.WAITS: one row a rank of each collective matched over ranks"""
    stragglers: pl.DataFrame
    """perfkit.timeline.waits.STRAGGLERS"""
    clocks: pl.DataFrame
    """perfkit.timeline.clocks.CLOCKS"""
    collected: Collected
    """perfkit.ingest.collected: processes, counters, gpus, jobs; gpu_metrics are of the traces"""
    quality: pl.DataFrame
    """perfkit.ingest.frames.QUALITY"""
    ranks: tuple[int, ...]
    """Ranks that the run has, whether they left anything or not."""
    missing_traces: tuple[int, ...]
    """Ranks of which there is no usable trace although there should be one."""
    missing_timers: tuple[int, ...]
    profiler_ratio: float | None
    """e2e of the captured pass / median e2e of the timed passes."""
    clock_of: dict[int, str]
    """Whose clock each rank's times are by, as `clocks` names it."""
    recognised: tuple[str, ...]
    """What the traces are, for people."""

    @property
    def warnings(self) -> list[str]:
        """For people: what is missing or doubtful."""
        texts = self.quality.filter(pl.col("severity") == "warning")["text"].to_list()
        return list(dict.fromkeys([*self.run.get("warnings", []), *texts]))


def analyze_paths(
    paths: Sequence[Path], *, phases: bool = True, executor: Executor | None = None
) -> list[Analysis]:
    """One analysis for each run folder, and one for all loose trace files together.

    Without `phases`, those of nsys exports are not read.
    """
    executor = executor or Here()
    runs = [path for path in paths if RunFolder(path).run_json.is_file()]
    loose = [path for path in paths if path not in runs]
    found = [analyze_run(path, phases=phases, executor=executor) for path in runs]
    return found + ([analyze_traces(loose, phases=phases, executor=executor)] if loose else [])


def analyze_run(path: Path, *, phases: bool = True, executor: Executor | None = None) -> Analysis:
    """Analyse a run folder as far as its files allow; ConfigError only when it is none."""
    folder, run = open_run(path)
    ranks = _ranks(folder, run)
    findings = state_findings(run) + status_findings(folder, ranks)
    timers, missing_timers = _read_timers(folder, ranks, findings)
    engine = run.get("task") != PROGRAM
    if missing_timers and engine:
        text = f"no timers of ranks {listed(missing_timers)}"
        findings.append(finding("missing-timers", text, count=len(missing_timers)))
    files = {rank: traces_of_rank(folder.rank(rank)) for rank in ranks}
    places = [(found, rank) for rank, found in files.items()]
    executor = executor or Here()
    read = read_all(places, executor, path, alone=len(ranks) == 1, phases=phases)
    ranks = tuple(sorted({*ranks, *read.by_rank}))
    missing = tuple(rank for rank in ranks if rank not in read.by_rank)
    findings += read.findings + trace_findings(ranks, missing, any(files.values()), engine)
    measures = measure_passes(timers, _last_stage(run, timers))
    if engine:
        findings += measure_findings(measures) + phase_findings(read.in_order)
    offset_s = run.get("hardware", {}).get("utc_offset_s")
    collected = read_collected(folder, ranks, offset_s, findings)
    return _assemble(
        path,
        run,
        read,
        executor,
        findings,
        timers,
        measures,
        collected,
        ranks,
        missing,
        missing_timers,
    )


def analyze_traces(
    paths: Sequence[Path], *, phases: bool = True, executor: Executor | None = None
) -> Analysis:
    """Analyse loose traces of any kind or folders of them; ConfigError when none can be used."""
    files = [file for path in paths for file in trace_files(path)]
    executor = executor or Here()
    read = read_all([([file], None) for file in files], executor, phases=phases)
    if not read.by_rank:
        raise ConfigError("\n".join(str(row["text"]) for row in read.findings))
    world = max((member.head.world_size or 0 for member in read.in_order), default=0)
    ranks = tuple(sorted({*read.by_rank, *range(world)}))
    missing = tuple(rank for rank in ranks if rank not in read.by_rank)
    findings = read.findings
    if missing:
        text = f"no trace of ranks {listed(missing)} of {world}: give their files too"
        findings.append(finding("missing-trace", text, count=len(missing)))
    timers = empty()
    return _assemble(
        files[0],
        {},
        read,
        executor,
        findings,
        timers,
        measure_passes(timers, 0),
        nothing(),
        ranks,
        missing,
        (),
    )


def table_folder(analysis: Analysis, wanted: Path | None, num_analyses: int) -> Path | None:
    """Where the tables go: the folder asked for, else the run's own; loose files have none."""
    if wanted is not None:
        return wanted / analysis.source.name if num_analyses > 1 else wanted
    return RunFolder(analysis.source).tables if analysis.run else None


def write_tables(analysis: Analysis, folder: Path) -> Path:
    """Write every table as folder/NAME.parquet; returns the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in TABLES:
            if name == "activities" and analysis.elsewhere:
                analysis.elsewhere.write(folder / name)
                continue
            getattr(analysis, name).write_parquet(folder / f"{name}.parquet")
        for name in COLLECTED:
            getattr(analysis.collected, name).write_parquet(folder / f"{name}.parquet")
    except OSError as error:
        raise ConfigError(
            f"cannot write the tables to {folder}: {error.strerror}. "
            "Give a folder you may write to with --out.",
        ) from error
    return folder


def _assemble(
    source: Path,
    run: dict[str, Any],
    read: Traces,
    executor: Executor,
    findings: list[dict[str, Any]],
    timers: pl.DataFrame,
    measures: pl.DataFrame,
    collected: Collected,
    ranks: tuple[int, ...],
    missing_traces: tuple[int, ...],
    missing_timers: Sequence[int],
) -> Analysis:
    members, layout = read.in_order, layout_of(run)
    kept = executor.keep(prepare, [(m.place, m.index, m.rank, layout) for m in members])
    looks = executor.fetch(look, [(prepared,) for prepared in kept])
    names, told = find_communicators(together([mine.collectives for mine in looks]))
    collectives = named(together([mine.collectives for mine in looks]), names)
    hosts = read.clocks(hosts_of(run, sorted(read.by_rank)))
    matched, unmatched = match_collectives(collectives, sorted(read.by_rank))
    clocks = clocks_table(matched, hosts)
    waits = waits_table(matched, clocks, hosts)
    findings += [*told, *unmatched]
    own = [(prepared, waits.filter(rank=m.rank)) for prepared, m in zip(kept, members, strict=True)]
    split = _stacked(SPLIT, executor.fetch(split_of, own))
    operations = _stacked(OPERATIONS, [mine.operations for mine in looks])
    findings += unknown_findings(split.filter(pl.col("phase") == WHOLE), operations)
    rows = [(prepared, names) for prepared in kept]
    metrics = _stacked(GPU_METRICS, [mine.gpu_metrics for mine in looks])
    here = executor.fetch(activities_of, rows) if executor.here else []
    held = {m.rank: row for m, row in zip(members, rows, strict=True)}
    return Analysis(
        source=source,
        run=run,
        timers=timers,
        measures=measures,
        summary=summarise(measures),
        activities=together(here),
        elsewhere=None if executor.here else Elsewhere(executor, held),
        ranges=_stacked(RANGES, [mine.ranges for mine in looks]),
        syncs=_stacked(SYNCS, [mine.syncs for mine in looks]),
        devices=_stacked(DEVICES, [mine.devices for mine in looks]),
        split=split,
        operations=operations,
        families=_stacked(FAMILIES, [mine.families for mine in looks]),
        collectives=collectives_table(collectives, waits),
        waits=waits,
        stragglers=stragglers_table(waits),
        clocks=clocks,
        collected=replace(collected, gpu_metrics=metrics),
        quality=pl.DataFrame(findings, schema=QUALITY),
        ranks=ranks,
        missing_traces=missing_traces,
        missing_timers=tuple(missing_timers),
        profiler_ratio=profiler_ratio(measures),
        clock_of=hosts,
        recognised=read.recognised,
    )


def _stacked(schema: pl.Schema, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=schema), *frames])


def hosts_of(run: dict[str, Any], ranks: Sequence[int]) -> dict[int, str]:
    """The host of each rank of which there is a trace.

    Where it is not known each trace is taken to have a clock of its own, and is aligned.
    """
    known = {int(place["rank"]): place.get("host") for place in run.get("layout", [])}
    return {rank: str(known.get(rank) or f"trace of rank {rank}") for rank in ranks}


def _read_timers(
    folder: RunFolder, ranks: Sequence[int], findings: list[dict[str, Any]]
) -> tuple[pl.DataFrame, list[int]]:
    frames, missing = [], []
    for rank in ranks:
        path = folder.rank_file(rank, "timers.jsonl")
        if not path.is_file():
            missing.append(rank)
            continue
        frame, found = read_timers(path, rank)
        frames.append(frame)
        findings += found
    return concatenated(frames), missing


def _ranks(folder: RunFolder, run: dict[str, Any]) -> tuple[int, ...]:
    """The ranks of the layout, and any other that left a folder."""
    planned = {int(place["rank"]) for place in run.get("layout", [])}
    return tuple(sorted(planned | {rank for rank, _path in folder.ranks()}))


def _last_stage(run: dict[str, Any], timers: pl.DataFrame) -> int:
    """The stage whose ranks have the tokens."""
    planned = [int(place.get("pp_rank", 0)) for place in run.get("layout", [])]
    seen = timers["pp_rank"].max()
    return max(planned) if planned else int(seen) if isinstance(seen, int) else 0
