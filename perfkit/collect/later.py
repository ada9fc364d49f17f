"""What could not be had while the job ran: accounting that arrives late, reports not imported."""

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perfkit.collect.collectors import (
    Collector,
    Probed,
    find_program,
    read_collectors,
    run_quietly,
)
from perfkit.collect.run import ask_job, collector_warnings, joined_states
from perfkit.collect.verdict import blame, read_statuses
from perfkit.collect.witness import alive
from perfkit.collect.wrapping import after
from perfkit.errors import ConfigError
from perfkit.schema import RunFolder, open_run, write_json


def collect_later(
    path: Path, within_s: float, collectors_dir: Path | None
) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """Ask again for what run.json says is partial, missing or failed; returns (states, warnings).

    Job-wide sources are read until they settle. For a rank's collector whose product is missing,
    the steps that follow its end are run again (nsys imports a kept .qdstrm, say).
    """
    folder, record = open_run(path)
    known = read_collectors(collectors_dir)
    collectors = [known[name] for name in record.get("collectors", {}) if name in known]
    if record.get("state") in ("preparing", "running"):
        if not abandoned(record):
            raise ConfigError(f"{path} is still {record['state']}. Collect when the run has ended.")
        record |= last_words(folder, record, collectors)
    states: dict[str, Any] = dict(record.get("collectors", {}))
    old = collector_warnings(collectors, states)
    for collector in collectors:
        state = states[collector.name]
        if state["state"] != "ran":
            states[collector.name] = again(folder, record, collector, state, within_s)
    new = collector_warnings(collectors, states)
    record["collectors"] = states
    record["warnings"] = [text for text in record["warnings"] if text not in old] + new
    write_json(folder.run_json, record)
    return states, record["warnings"]


def abandoned(record: Mapping[str, Any]) -> bool:
    """True when nobody is left who would write how the run ended: perfkit itself was killed."""
    job = record.get("slurm", {}).get("SLURM_JOB_ID")
    if job is not None:
        return run_quietly(["squeue", "--version"]) is not None and not in_queue(job)
    owner = record.get("supervisor", {})
    return owner.get("host") == socket.gethostname() and not alive(int(owner["pid"]))


def in_queue(job: str) -> bool:
    """True while Slurm has the job; an error, for one that it has forgotten, is no."""
    return bool((run_quietly(["squeue", "-h", "-j", job, "-o", "%i"]) or "").strip())


def last_words(
    folder: RunFolder, record: Mapping[str, Any], collectors: Sequence[Collector]
) -> dict[str, Any]:
    """What the supervisor of rank 0 would have written into run.json."""
    statuses = read_statuses(folder, len(record.get("layout", [])))
    if not statuses:
        reason = "perfkit was killed before its ranks started"
        return {"state": "failed", "failure": {"reason": reason}}
    joined = joined_states(collectors, statuses)
    states = {name: {**record["collectors"][name], **state} for name, state in joined.items()}
    return {"state": "failed", "failure": blame(folder, statuses), "collectors": states}


def again(
    folder: RunFolder,
    record: Mapping[str, Any],
    collector: Collector,
    state: Mapping[str, Any],
    within_s: float,
) -> Mapping[str, Any]:
    """One collector's new state."""
    if collector.scope == "job":
        job_id = record["slurm"].get("SLURM_JOB_ID", "")
        return ask_job(folder, collector, bool(state.get("asked")), job_id, within_s)
    if collector.scope == "rank":
        return retried(folder, collector, state, state.get("missing_ranks", ()))
    return state


def retried(
    folder: RunFolder, collector: Collector, state: Mapping[str, Any], ranks: Sequence[int]
) -> Mapping[str, Any]:
    """The steps after the end, once more on this machine, for ranks without a product."""
    program = find_program(collector.program) if collector.program else None
    if program is None and collector.after:
        return state
    probed = Probed(collector=collector, program=program)
    problems = {
        rank: found[collector.name]
        for rank in ranks
        if (found := after([probed], folder.rank(rank), folder.rank(rank)))
    }
    regained = sorted({*state.get("ranks", ()), *(set(ranks) - set(problems))})
    if not problems:
        return {**state, "state": "ran", "reason": None, "ranks": regained, "missing_ranks": []}
    reason = state.get("reason") or next(iter(problems.values()))
    return {**state, "reason": reason, "ranks": regained, "missing_ranks": sorted(problems)}
