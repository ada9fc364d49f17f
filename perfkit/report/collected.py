"""What the collectors beside the traces found, as text: processes, GPUs, Slurm's accounting."""

from collections.abc import Iterator

import polars as pl

from perfkit.ingest.collected import Collected
from perfkit.report.tables import Column, render

MIB, GIB = 2**-20, 2**-30

PROCESSES = (
    Column(name="rank", title="rank", kind="integer"),
    Column(name="ended", title="ended", kind="text"),
    Column(name="wall_s", title="wall s"),
    Column(name="cpu_s", title="CPU s"),
    Column(name="cores", title="cores busy"),
    Column(name="max_rss_bytes", title="peak memory MiB", scale=MIB),
    Column(name="involuntary_switches", title="lost core", kind="integer"),
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
JOBS = (
    Column(name="row_id", title="Slurm job", kind="text"),
    Column(name="state", title="state", kind="text"),
    Column(name="num_nodes", title="nodes", kind="integer"),
    Column(name="num_tasks", title="tasks", kind="integer"),
    Column(name="elapsed_s", title="elapsed s"),
    Column(name="cpu_time_s", title="CPU s"),
    Column(name="max_rss_bytes", title="peak memory MiB", scale=MIB),
    Column(name="gpu_hours", title="GPU-hours"),
    Column(name="consumed_energy_j", title="energy kJ", scale=1e-3),
)
PROCESS_NOTE = "whole program, loading included; memory is resident, mapped files included"


def sections(collected: Collected, fmt: str) -> Iterator[str]:
    """One table for each source that left something; nothing for the others."""
    if collected.processes["exit_code"].null_count() < collected.processes.height or (
        collected.processes["signal"].null_count() < collected.processes.height
    ):
        yield render(readable_processes(collected), PROCESSES, fmt)
        yield f"{PROCESS_NOTE}\n"
    for frame, columns in ((collected.gpus, GPUS), (collected.jobs, JOBS)):
        if not frame.is_empty():
            yield render(frame, columns, fmt)


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
