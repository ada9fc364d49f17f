"""One table for each source beside the traces, as people read it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from perfkit.ingest.accounting import own_rows
from perfkit.ingest.collected import Collected
from perfkit.ingest.perf_script import hottest
from perfkit.ingest.rank_words import listed, of_ranks
from perfkit.report.tables import Column, cell

MIB, GIB = 2**-20, 2**-30
HOTTEST, NAME_WIDTH = 8, 60

RESOURCES = (
    Column(name="title", title="the run took", kind="text"),
    Column(name="text", title="", kind="figure"),
    Column(name="source", title="source", kind="text"),
)
# The quantities of perfkit.ingest.accounting.RESOURCES.
QUANTITIES = (
    Column(name="elapsed_s", title="elapsed [s]"),
    Column(name="time_limit_s", title="time limit [s]"),
    Column(name="num_nodes", title="nodes", kind="integer"),
    Column(name="cpu_time_s", title="CPU time [s]"),
    Column(name="max_rss_bytes", title="peak memory of the largest task [MiB]", scale=MIB),
    Column(name="consumed_energy_j", title="energy, Slurm's [kJ]", scale=1e-3),
    Column(name="gpu_energy_j", title="energy of the GPUs [kJ]", scale=1e-3),
    Column(name="gpu_hours", title="GPU-hours"),
)
PROCESSES = (
    Column(name="rank", title="rank", kind="integer"),
    Column(name="ended", title="ended", kind="text"),
    Column(name="wall_s", title="wall s"),
    Column(name="cpu_s", title="CPU s"),
    Column(name="cores", title="cores busy"),
    Column(name="max_rss_bytes", title="peak memory MiB", scale=MIB),
    Column(name="involuntary_switches", title="lost core", kind="integer"),
)
STACKS = (
    Column(name="rank", title="rank", kind="integer"),
    Column(name="function", title="CPU time is spent in", kind="text"),
    Column(name="samples", title="samples", kind="integer"),
    Column(name="share", title="share", kind="percent"),
)
GPUS = (
    Column(name="host", title="host", kind="text"),
    Column(name="gpu", title="GPU", kind="integer"),
    Column(name="mean_utilisation", title="mean busy", kind="percent"),
    Column(name="max_memory_used_bytes", title="peak memory GiB", scale=GIB),
    Column(name="mean_power_w", title="mean power W"),
    Column(name="max_power_w", title="max W"),
    Column(name="energy_j", title="energy kJ", scale=1e-3),
    Column(name="covered_s", title="over s"),
)
NCCL = (
    Column(name="rank", title="rank", kind="integer"),
    Column(name="nccl_version", title="NCCL", kind="text"),
    Column(name="transports", title="data went over", kind="text"),
    Column(name="num_channels", title="channels", kind="integer"),
    Column(name="network", title="network between nodes", kind="text"),
)
JOBS = (
    Column(name="row_id", title="Slurm job", kind="text"),
    Column(name="state", title="state", kind="text"),
    Column(name="exit", title="exit", kind="text"),
    Column(name="num_nodes", title="nodes", kind="integer"),
    Column(name="num_tasks", title="tasks", kind="integer"),
    Column(name="elapsed_s", title="elapsed s"),
    Column(name="cpu_time_s", title="CPU s"),
    Column(name="max_rss_bytes", title="MaxRSS MiB", scale=MIB),
    Column(name="gpu_hours", title="GPU-hours"),
    Column(name="consumed_energy_j", title="energy kJ", scale=1e-3),
)
PROCESS_NOTE = "whole program, loading included; memory is resident, mapped files included"
STACK_NOTE = "samples in the function itself, not in what it called; loading included"
GPU_NOTE = "from the first to the last sample, loading included; memory of all processes on the GPU"
NCCL_NOTE = "between GPUs of one node only the rank that sends says over what"
JOB_NOTES = (
    "every number is Slurm's; MaxRSS is sampled and misses short peaks",
    "energy is of the job's whole nodes: each step of a node would repeat it",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One table with what a reader must know of it."""

    name: str
    title: str
    source: str
    frame: pl.DataFrame
    columns: Sequence[Column]
    notes: list[str] = field(default_factory=list)


def resources(collected: Collected) -> Block:
    """Numbers that are not there are rows only where there is accounting that could have them."""
    rows = collected.resources
    if collected.jobs.is_empty():
        rows = rows.drop_nulls("value")
    how = {column.name: column for column in QUANTITIES}
    read = [
        {
            "title": how[row["quantity"]].title,
            "text": cell(row["value"], how[row["quantity"]]),
            "source": row["source"],
        }
        for row in rows.to_dicts()
    ]
    frame = pl.DataFrame(read, schema={c.name: pl.String for c in RESOURCES})
    return Block(
        name="resources",
        title="What the run took",
        source="Slurm's accounting and the ranks' own counts",
        frame=frame,
        columns=RESOURCES,
    )


def processes(collected: Collected) -> Block:
    frame, seen = readable_processes(collected), _seen_to_end(collected.processes)
    if not seen.height:
        frame = frame.clear()
    notes = [PROCESS_NOTE]
    if around := seen.filter(pl.col("seen_by") == "supervisor")["rank"].to_list():
        notes.append(f"{listed(around)}: how the profiler around the program ended")
    if seen.height < frame.height:
        notes.append(f"{of_ranks(seen.height, frame.height)} were seen to end")
    return Block(
        name="processes",
        title="Processes",
        source="getrusage of each rank's program",
        frame=frame,
        columns=PROCESSES,
        notes=notes,
    )


def _seen_to_end(processes: pl.DataFrame) -> pl.DataFrame:
    return processes.filter(pl.col("exit_code").is_not_null() | pl.col("signal").is_not_null())


def readable_processes(collected: Collected) -> pl.DataFrame:
    """How each rank's program ended, and how many cores it kept busy."""
    ended = (
        pl.when(pl.col("signal").is_not_null())
        .then(pl.format("signal {}", "signal"))
        .when(pl.col("exit_code").is_not_null())
        .then(pl.format("exit {}", "exit_code"))
    )
    cores = pl.col("cpu_s") / pl.col("wall_s")
    return collected.processes.with_columns(ended=ended, cores=cores)


def counters(collected: Collected) -> Block:
    """One row a rank, one column an event; what was not counted is a dash."""
    counters = collected.counters
    events = counters["event"].unique(maintain_order=True).to_list()
    # With intervals the rows of a rank are summed; polars calls a sum of nothing 0.
    whole = pl.when(pl.col("value").null_count() == 0).then(pl.col("value").sum())
    sums = counters.group_by("rank", "event").agg(value=whole)
    wide = _every_rank(collected, sums.pivot("event", index="rank", values="value"))
    units = dict(counters.drop_nulls("unit").select("event", "unit").iter_rows())
    columns = [
        Column(name="rank", title="rank", kind="integer"),
        *(
            Column(name=event, title=f"{event} {units[event]}")
            if event in units
            else Column(name=event, title=event, kind="integer")
            for event in events
        ),
    ]
    return Block(
        name="counters",
        title="CPU counters",
        source="perf stat of each rank's program",
        frame=wide,
        columns=columns,
        notes=_counter_notes(collected),
    )


def _counter_notes(collected: Collected) -> list[str]:
    lost = collected.counters.drop_nulls("reason").select("event", "reason").unique()
    notes = [f"{event}: {reason}" for event, reason in sorted(lost.iter_rows())]
    if collected.counters["user_only"].any():
        notes.append("user space only: the kernel's share is in none of them")
    asked = collected.collectors.filter(pl.col("collector") == "perf-stat")["not_possible"]
    if refused := [event for events in asked.to_list() for event in events or []]:
        notes.append(f"not countable on this machine: {', '.join(refused)}")
    return notes


def _every_rank(collected: Collected, frame: pl.DataFrame) -> pl.DataFrame:
    """A row for every rank of the run: dashes for one of which there is nothing."""
    if frame.is_empty():
        return frame
    ranks = collected.processes.select("rank")
    return ranks.join(frame, on="rank", how="left", maintain_order="left")


def stacks(collected: Collected) -> Block:
    found = hottest(collected.stacks, HOTTEST)
    sampled = found["rank"].unique().to_list()
    of = f"sampled: {listed(sampled)} of {collected.processes.height}"
    name = pl.col("function")
    cut = pl.when(name.str.len_chars() > NAME_WIDTH).then(name.str.head(NAME_WIDTH - 3) + "...")
    return Block(
        name="stacks",
        title="Where the CPU time goes",
        source=f"perf record, the {HOTTEST} hottest functions of each sampled rank",
        frame=found.with_columns(function=cut.otherwise(name)),
        columns=STACKS,
        notes=[f"{of}; {STACK_NOTE}"],
    )


def gpus(collected: Collected) -> Block:
    return Block(
        name="gpus",
        title="GPUs",
        source="nvidia-smi, two samples a second",
        frame=collected.gpus,
        columns=GPUS,
        notes=[GPU_NOTE],
    )


def nccl(collected: Collected) -> Block:
    return Block(
        name="nccl",
        title="NCCL",
        source="NCCL's own log of each rank",
        frame=_every_rank(collected, collected.nccl),
        columns=NCCL,
        notes=[NCCL_NOTE],
    )


def jobs(collected: Collected, job_id: str | None) -> Block:
    """The run's own job with its steps; exit code and signal as Slurm writes them, 0:15."""
    rows = own_rows(collected.jobs, job_id)
    notes = [*JOB_NOTES]
    if places := rows.filter(pl.col("step").is_null())["nodes"].drop_nulls().to_list():
        notes.append(f"nodes: {', '.join(places)}")
    if others := collected.jobs.height - rows.height:
        notes.append(f"{others} rows of the array's other tasks are in jobs.parquet")
    code = pl.col("exit_code").cast(pl.String)
    signal = pl.col("signal").cast(pl.String)
    both = pl.when(pl.col("signal").is_not_null()).then(code + ":" + signal).otherwise(code)
    return Block(
        name="jobs",
        title="Slurm's accounting",
        source="sacct, the job and its steps",
        frame=rows.with_columns(exit=both),
        columns=JOBS,
        notes=notes,
    )
