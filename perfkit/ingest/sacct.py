"""job/sacct.psv (`sacct -P -o FIELDS`) -> one row for each job, array task, component and step.

Text, not JSON: the same columns worked on Slurm 22.05, 24.11 and 26.05, while 22.05's JSON says
exit code 0 of failed jobs. Every number says in SOURCES where it is from, or why it is null.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.errors import ConfigError
from perfkit.ingest.frames import finding
from perfkit.ingest.sacct_cells import LOCAL_TIME, NO_VALUE, UNFINISHED, UNREADABLE, numbers, whole

# What perfkit asks for; collectors/sacct.toml has the same list.
FIELDS = (
    *("JobID", "JobIDRaw", "JobName", "State", "ExitCode", "Submit", "Start", "End", "Elapsed"),
    *("Timelimit", "NNodes", "NTasks", "NCPUS", "TotalCPU", "MaxRSS", "AveRSS"),
    *("ConsumedEnergyRaw", "AllocTRES", "NodeList"),
)

JOBS = pl.Schema(
    {
        "row_id": pl.String(),  # as Slurm writes it: 2, 2.batch, 7_0.0, 8+1
        "job_id": pl.Int64(),  # the number in front of _ + and .
        "raw_id": pl.Int64(),  # of this job, task or component alone: its SLURM_JOB_ID
        "step": pl.String(),  # batch, extern, interactive or a number; null on the job's own row
        "array_task": pl.String(),  # 0, or [3-5%2] for the tasks that still wait
        "het_component": pl.Int32(),
        "name": pl.String(),
        "state": pl.String(),  # one word: COMPLETED, FAILED, CANCELLED, TIMEOUT, OUT_OF_MEMORY ...
        "by_uid": pl.Int64(),  # who cancelled it
        "exit_code": pl.Int32(),  # death by signal N reads N before Slurm 26.05, 128 + N from there
        "signal": pl.Int32(),  # null when none; 125 is Slurm's own mark for out of memory
        "nodes": pl.String(),  # as Slurm shortens it: node[0-1]
        "num_nodes": pl.Int32(),
        "num_tasks": pl.Int32(),  # of a step
        "num_cpus": pl.Int32(),
        "submit": pl.Datetime("us", "UTC"),
        "start": pl.Datetime("us", "UTC"),
        "end": pl.Datetime("us", "UTC"),
        "elapsed_s": pl.Float64(),  # whole seconds: 0 is below one second
        "time_limit_s": pl.Float64(),
        "cpu_time_s": pl.Float64(),  # user + system, all tasks
        "max_rss_bytes": pl.Int64(),  # of the largest task of a step; sampled, short peaks missed
        "ave_rss_bytes": pl.Int64(),  # mean of the tasks' peaks
        "consumed_energy_j": pl.Float64(),  # of the job's whole nodes, also if others share them
        "gpus": pl.Int32(),  # allocated
        "gpu_hours": pl.Float64(),  # allocated GPUs * elapsed, used or not; on the job's row only
    }
)

SOURCES = pl.Schema(
    {
        "row_id": pl.String(),  # as in JOBS
        "number": pl.String(),  # column of JOBS
        "source": pl.String(),  # sacct, or "not measured: " and the reason
    }
)

ROW_ID = re.compile(r"(\d+)(?:_(\d+|\[[^\]]*\]))?(?:\+(\d+))?(?:\.(\S+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting:
    """What Slurm says of a job."""

    jobs: pl.DataFrame
    """JOBS"""
    sources: pl.DataFrame
    """SOURCES"""
    findings: list[dict[str, Any]]
    """perfkit.ingest.frames.QUALITY"""


def read_sacct(path: Path, utc_offset_s: int | None = None) -> Accounting:
    """A run's sacct.psv; ConfigError when it is no sacct output at all."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    return parse_sacct(text, str(path), utc_offset_s)


def parse_sacct(text: str, source: str, utc_offset_s: int | None = None) -> Accounting:
    """The output of `sacct -P -o FIELDS`, with its header line.

    sacct prints local times: give the cluster's offset from UTC, or have them printed with
    SLURM_TIME_FORMAT=%s (or %z at the end); otherwise times are null.
    """
    head, *lines = [line for line in text.splitlines() if line.strip()] or [""]
    columns = head.lower().split("|")
    if not {"jobid", "state"} <= set(columns):
        raise ConfigError(
            f"{source} is no sacct output: its first line is {head[:80]!r}. "
            "Expected a header with JobID|...|State, as `sacct -P -o FIELDS` prints it.",
        )
    cells = [_cells(columns, line) for line in lines]
    pairs = [_row(row, utc_offset_s) for row in cells if row is not None]
    sources = [
        {"row_id": row["row_id"], "number": number, "source": why}
        for row, reasons in pairs
        for number, why in reasons.items()
    ]
    jobs = pl.DataFrame([row for row, _reasons in pairs], schema=JOBS)
    told = pl.DataFrame(sources, schema=SOURCES)
    return Accounting(
        jobs=jobs,
        sources=told,
        findings=_findings(source, len(lines) - len(pairs), jobs, told),
    )


def _cells(columns: Sequence[str], line: str) -> dict[str, str] | None:
    """The cells of one line by field; surplus bars belong to the job's name. None if cut off."""
    parts = line.split("|")
    surplus = len(parts) - len(columns)
    if surplus > 0 and "jobname" in columns:
        at = columns.index("jobname")
        parts[at : at + surplus + 1] = ["|".join(parts[at : at + surplus + 1])]
    if len(parts) != len(columns) or not ROW_ID.fullmatch(parts[columns.index("jobid")]):
        return None
    return {name: part.strip() for name, part in zip(columns, parts, strict=True)}


def _row(
    cells: Mapping[str, str], utc_offset_s: int | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """One row of JOBS, and the source of each of its numbers."""
    identity = ROW_ID.fullmatch(cells["jobid"])
    assert identity is not None
    job, task, component, step = identity.groups()
    state, _by, uid = cells["state"].partition(" by ")
    code, _colon, signal = cells.get("exitcode", "").partition(":")
    reads = numbers(cells, step, state, utc_offset_s)
    row = {
        "row_id": cells["jobid"],
        "job_id": int(job),
        "raw_id": whole(cells.get("jobidraw", "").partition(".")[0]),
        "step": step,
        "array_task": task,
        "het_component": whole(component or ""),
        "name": cells.get("jobname"),
        "state": state,
        "by_uid": whole(uid),
        "exit_code": whole(code) if state not in UNFINISHED else None,
        "signal": whole(signal) or None,
        "nodes": None if cells.get("nodelist", "") in NO_VALUE else cells["nodelist"],
    }
    reasons = {name: why for name, (_value, why) in reads.items()}
    return row | {name: value for name, (value, _why) in reads.items()}, reasons


def _findings(
    source: str, broken: int, jobs: pl.DataFrame, sources: pl.DataFrame
) -> list[dict[str, Any]]:
    """What was wrong with the file, for the quality table."""
    source = "/".join(Path(source).parts[-2:])
    unreadable = sources.filter(pl.col("source").str.starts_with(UNREADABLE))["source"].to_list()
    local = sources.filter(pl.col("source") == LOCAL_TIME).height
    running = jobs.filter(pl.col("state").is_in(UNFINISHED))["row_id"].to_list()
    said = [
        ("sacct-broken-lines", broken, f"{broken} line(s) that are no row were left out"),
        (
            "sacct-unreadable",
            len(unreadable),
            f"{unreadable[0].removeprefix(UNREADABLE)} cannot be read" if unreadable else "",
        ),
        (
            "sacct-unfinished",
            len(running),
            f"{', '.join(running)} had not ended: ask again with `perfkit collect`",
        ),
        ("sacct-no-rows", int(jobs.is_empty()), "no row: the job is unknown or not yet recorded"),
    ]
    found = [
        finding(code, f"{source}: {text}", source=source, count=count)
        for code, count, text in said
        if count
    ]
    if local:
        text = f"{source}: times are local and the cluster's offset from UTC is not known: left out"
        found.append(
            finding("sacct-local-times", text, source=source, count=local, severity="info")
        )
    return found
