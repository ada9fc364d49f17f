"""What Slurm's accounting and the ranks' own counts say of one run: how it ended, what it took.

A job's rows can be of other runs too: other tasks of an array, other steps of a script. Each number
says where it is from; Slurm's comes first, except where it is known to be too low.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from perfkit.ingest.frames import finding
from perfkit.ingest.rank_words import of_ranks
from perfkit.ingest.sacct_cells import SACCT, UNFINISHED

RESOURCES = pl.Schema(
    {
        # elapsed_s, time_limit_s, num_nodes, cpu_time_s, max_rss_bytes (of the largest task),
        # consumed_energy_j (whole nodes), gpu_energy_j, gpu_hours
        "quantity": pl.String(),
        "value": pl.Float64(),
        "source": pl.String(),  # sacct and its row, getrusage ..., or "not measured: " and why
    }
)

# States in which it was Slurm, or somebody through it, that ended a job.
ENDED_BY_SLURM = (
    *("TIMEOUT", "OUT_OF_MEMORY", "CANCELLED", "PREEMPTED", "DEADLINE", "REVOKED"),
    *("NODE_FAIL", "BOOT_FAIL"),
)
OF_A_NODE = ("NODE_FAIL", "BOOT_FAIL")
SIGKILL = 9

Read = tuple[float | None, str]
"""A value and where it is from, or None and why."""


def own_rows(jobs: pl.DataFrame, job_id: str | None) -> pl.DataFrame:
    """The rows of the job that SLURM_JOB_ID names: of an array its own task, of a heterogeneous
    job every component. All rows where that cannot be told."""
    if job_id is None or not job_id.isdecimal():
        return jobs
    mine = jobs.filter(pl.col("raw_id") == int(job_id)).select("job_id", "array_task").unique()
    if mine.is_empty():
        return jobs
    keys = ["job_id", "array_task"]
    return jobs.join(mine, on=keys, how="semi", nulls_equal=True, maintain_order="left")


def own_step(rows: pl.DataFrame, step_id: str | None) -> dict[str, Any] | None:
    """The row of the step that SLURM_STEP_ID names; None where there is none, or several."""
    found = rows.filter(pl.col("step") == step_id).to_dicts() if step_id else []
    return found[0] if len(found) == 1 else None


def ending_findings(rows: pl.DataFrame, step_id: str | None, source: str) -> list[dict[str, Any]]:
    """What Slurm did to a job, or to its step; `rows` as own_rows gives them.

    A run whose own step completed is left alone: what came later ended the job, not the run.
    """
    step = own_step(rows, step_id)
    if step is not None and step["state"] == "COMPLETED":
        return []
    ended = rows.filter(pl.col("step").is_null(), pl.col("state").is_in(ENDED_BY_SLURM)).to_dicts()
    steps = [step] if step is not None else rows.filter(pl.col("step").is_not_null()).to_dicts()
    # The steps of a job that Slurm ends are cancelled with it.
    ended = ended or [row for row in steps if _stopped_alone(row)]
    return [finding("ended-by-slurm", f"Slurm ended {ending(row)}", source=source) for row in ended]


def _stopped_alone(step: Mapping[str, Any]) -> bool:
    """A step that Slurm ended, not one that it cancelled because a task of it had failed."""
    if step["state"] != "CANCELLED":
        return step["state"] in ENDED_BY_SLURM
    return step["by_uid"] is not None or step["signal"] == SIGKILL


def ending(row: Mapping[str, Any]) -> str:
    """`the job: TIMEOUT after 00:01:00, limit 00:01:00`, `step 6.0: OUT_OF_MEMORY after ...`"""
    what = "the job" if row["step"] is None else f"step {row['row_id']}"
    by = "" if row["by_uid"] is None else f" by user {row['by_uid']}"
    signal = f" with signal {row['signal']}" if row["signal"] == SIGKILL else ""
    after = "" if row["elapsed_s"] is None else f" after {clock(row['elapsed_s'])}"
    limit = ""
    if row["state"] == "TIMEOUT" and row["time_limit_s"] is not None:
        limit = f", limit {clock(row['time_limit_s'])}"
    where = f" on {row['nodes']}" if row["state"] in OF_A_NODE and row["nodes"] else ""
    return f"{what}: {row['state']}{by}{signal}{where}{after}{limit}"


def clock(seconds: float) -> str:
    """[D-]HH:MM:SS, as Slurm writes durations."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}-" if days else "") + f"{hour:02}:{minute:02}:{second:02}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Everything that says what a run took."""

    rows: pl.DataFrame
    """of JOBS, its own"""
    job: dict[str, Any] | None
    step: dict[str, Any] | None
    sources: pl.DataFrame
    processes: pl.DataFrame
    gpus: pl.DataFrame
    run: Mapping[str, Any]


def resources(
    jobs: pl.DataFrame,
    sources: pl.DataFrame,
    processes: pl.DataFrame,
    gpus: pl.DataFrame,
    run: Mapping[str, Any],
) -> pl.DataFrame:
    """What a run took (RESOURCES), from tables of perfkit.ingest.collected and run.json."""
    slurm = run.get("slurm") or {}
    rows = own_rows(jobs, slurm.get("SLURM_JOB_ID"))
    own = rows.filter(pl.col("step").is_null()).to_dicts()
    told = Told(
        rows=rows,
        job=own[0] if len(own) == 1 else None,
        step=own_step(rows, slurm.get("SLURM_STEP_ID")),
        sources=sources,
        processes=processes,
        gpus=gpus,
        run=run,
    )
    reads = {
        "elapsed_s": _first(_sacct(told, "elapsed_s"), _own_elapsed(told)),
        "time_limit_s": _sacct(told, "time_limit_s"),
        "num_nodes": _first(_sacct(told, "num_nodes"), _own_hosts(told)),
        "cpu_time_s": _first(_sacct(told, "cpu_time_s"), _own_cpu_time(told)),
        "max_rss_bytes": _max_rss(told),
        "consumed_energy_j": _job_number(told, "consumed_energy_j"),
        "gpu_energy_j": _gpu_energy(told),
        "gpu_hours": _gpu_hours(told),
    }
    found = [
        {"quantity": name, "value": value, "source": source}
        for name, (value, source) in reads.items()
    ]
    return pl.DataFrame(found, schema=RESOURCES)


def _first(*reads: Read) -> Read:
    """The first that has a value; without one, the first one's reason."""
    return next((read for read in reads if read[0] is not None), reads[0])


def _sacct(told: Told, number: str) -> Read:
    """What Slurm says of the run's own step, else of its job, once they have ended."""
    for row in (told.step, told.job):
        if row is not None and row["state"] not in UNFINISHED and row[number] is not None:
            return float(row[number]), _of_row(row)
    return None, _reason(told, told.job, number)


def _job_number(told: Told, number: str) -> Read:
    """What Slurm says of the job as a whole: steps of one node each have the node's joules."""
    own = told.rows.filter(pl.col("step").is_null()).height
    if own > 1:
        return None, f"not measured: {own} jobs or tasks, which may share nodes"
    if told.job is None or told.job[number] is None:
        return None, _reason(told, told.job, number)
    return float(told.job[number]), f"{_of_row(told.job)}: its whole nodes"


def _of_row(row: Mapping[str, Any]) -> str:
    return f"sacct, {'job' if row['step'] is None else 'step'} {row['row_id']}"


def _reason(told: Told, row: Mapping[str, Any] | None, number: str) -> str:
    """Why Slurm does not say a number."""
    if row is not None:
        mine = (pl.col("row_id") == row["row_id"]) & (pl.col("number") == number)
        for why in told.sources.filter(mine)["source"].to_list():
            return "not measured: the job had not ended" if why == SACCT else str(why)
    if not told.rows.is_empty():
        return "not measured: sacct has no row of this one job"
    asked = (told.run.get("collectors") or {}).get("sacct") or {}
    return f"not measured: {asked.get('reason') or 'no accounting from Slurm'}"


def _own_elapsed(told: Told) -> Read:
    started, ended = told.run.get("started_at"), told.run.get("ended_at")
    if not started or not ended:
        return None, "not measured: run.json has no end"
    passed = datetime.fromisoformat(ended) - datetime.fromisoformat(started)
    return passed.total_seconds(), "run.json, start to end"


def _own_hosts(told: Told) -> Read:
    hosts = {place.get("host") for place in told.run.get("layout", [])} - {None}
    return (float(len(hosts)), "run.json, hosts of the ranks") if hosts else (None, "not measured")


def _of_ranks(told: Told, column: str) -> tuple[pl.DataFrame, str]:
    """The ranks that were seen to end with this number, and what it is from."""
    seen, num_ranks = told.processes.drop_nulls(column), told.processes.height
    of = "every rank" if seen.height == num_ranks else f"{of_ranks(seen.height, num_ranks)} only"
    return seen, f"getrusage of {of}"


def _own_cpu_time(told: Told) -> Read:
    seen, source = _of_ranks(told, "cpu_s")
    return (float(seen["cpu_s"].sum()), source) if seen.height else (None, "not measured")


def _max_rss(told: Told) -> Read:
    """The largest task's peak: Slurm samples and misses short ones, the kernel's own does not."""
    steps = told.rows.filter(pl.col("step").is_not_null())
    if told.step is not None:
        steps = steps.filter(pl.col("row_id") == told.step["row_id"])
    sampled = steps.drop_nulls("max_rss_bytes").sort("max_rss_bytes").tail(1).to_dicts()
    seen, source = _of_ranks(told, "max_rss_bytes")
    if not sampled and not seen.height:
        return None, _reason(told, next(iter(steps.to_dicts()), None), "max_rss_bytes")
    slurm = float(sampled[0]["max_rss_bytes"]) if sampled else 0.0
    largest = seen.sort("max_rss_bytes", "rank", descending=[True, False]).head(1).to_dicts()
    if not largest or largest[0]["max_rss_bytes"] < slurm:
        return slurm, _of_row(sampled[0])
    text = f"{source}, most on rank {largest[0]['rank']}"
    if sampled:
        text += f"; {_of_row(sampled[0])}, sampled only {slurm / 2**20:,.1f} MiB"
    return float(largest[0]["max_rss_bytes"]), text


def _gpu_energy(told: Told) -> Read:
    """All GPUs that were sampled; a GPU without power readings leaves the sum unknown."""
    if told.gpus.is_empty():
        return None, "not measured: no samples of nvidia-smi"
    if told.gpus["energy_j"].null_count():
        return None, "not measured: not every GPU tells its power"
    hosts = {place.get("host") for place in told.run.get("layout", [])} - {None}
    sampled = told.gpus["host"].n_unique()
    of = f"{sampled} of {len(hosts)} hosts only" if sampled < len(hosts) else "every host"
    source = f"nvidia-smi, {told.gpus.height} GPUs of {of}, while it sampled"
    return float(told.gpus["energy_j"].sum()), source


def _gpu_hours(told: Told) -> Read:
    """Allocated GPUs * elapsed, used or not."""
    own = told.rows.filter(pl.col("step").is_null())
    unknown = own.filter(pl.col("state").is_in(UNFINISHED) | pl.col("gpu_hours").is_null())
    if own.is_empty() or not unknown.is_empty():
        return None, _reason(told, next(iter(unknown.to_dicts()), None), "gpu_hours")
    rows = ", ".join(own["row_id"])
    return float(own["gpu_hours"].sum()), f"sacct, job {rows}: allocated GPUs * elapsed"
