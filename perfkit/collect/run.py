"""One run from its settings to a finished run folder, whatever happens in between."""

import contextlib
import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perfkit import __version__
from perfkit.calibrate.store import device_name, find_calibration
from perfkit.collect import facts
from perfkit.collect.claim import claim_folder, join
from perfkit.collect.collectors import CAPTURE, Collector, Probed, probe
from perfkit.collect.containers import container_of
from perfkit.collect.launch import choose_master
from perfkit.collect.plan import RunPlan
from perfkit.collect.supervise import (
    FAILED_MARKER,
    GRACE_S,
    RankProcess,
    RankStart,
    Watch,
    WatchOptions,
    now,
    run_ranks,
    write_status,
)
from perfkit.collect.tasks import EngineTask
from perfkit.collect.verdict import Outcome, judge, read_statuses, stop_record
from perfkit.collect.wrapping import (
    after,
    beside,
    missing_products,
    on_rank,
    scratch_folders,
    settle,
    wrap,
)
from perfkit.schema import RunFolder, read_json, release, write_json, write_surely
from perfkit.secrets import without_secret_arguments

# A profiler needs longer to write what it has when its rank is asked to end, and a program that
# perfkit does not know may have something to save. Slurm itself waits 30 s before it kills.
HEAVY_GRACE_S, PROGRAM_GRACE_S = 20.0, 25.0
LEFT_FOR_LATER = "the run was stopped before it could be exported: `perfkit collect` does it"


def describe(plan: RunPlan) -> dict[str, Any]:
    """run.json as it stands when the ranks start."""
    place = plan.place
    return {
        "id": plan.folder.name,
        "task": plan.task.name,
        "state": "running",
        "started_at": now(),
        "ended_at": None,
        "command": without_secret_arguments(plan.command),
        "launch_id": place.launch_id,
        "supervisor": {"host": socket.gethostname(), "pid": os.getpid()},
        "master": list(choose_master(place, os.environ)),
        **plan.task.record(),
        "versions": {**facts.versions(), "perfkit": __version__},
        "hardware": facts.host_facts(),
        "container": container_of(os.environ),
        "slurm": facts.slurm_variables(),
        "nccl": facts.nccl_variables(),
        "collectors": {c.name: {"state": "asked", "asked": plan.explicit} for c in plan.collectors},
        "warnings": [],
        "failure": None,
    }


def execute(plan: RunPlan, progress: Callable[[str], None]) -> Outcome:
    """Run the plan's ranks here; rank 0's process owns run.json from start to end."""
    if not plan.place.first:
        folder, master = RunFolder(plan.folder), tuple(join(plan)["master"])
        return judge(folder, plan.task, plan.place, supervise(folder, plan, master, progress))
    folder = claim_folder(plan.folder, plan.force, plan.place.launch_id)
    record = describe(plan)
    write_json(folder.run_json, record)
    keep_calibration(folder, plan, record["hardware"])

    def on_stop(number: int) -> None:
        # Whatever comes after the signal may be cut short: say at once what is known.
        write_surely(
            folder.run_json,
            {**record, "state": "stopped", "ended_at": now(), "failure": stop_record(number)},
        )

    watch = supervise(folder, plan, tuple(record["master"]), progress, on_stop)
    outcome = judge(folder, plan.task, plan.place, watch)
    finish(folder, plan, record, outcome)
    return outcome


def keep_calibration(folder: RunFolder, plan: RunPlan, hardware: Mapping[str, Any]) -> None:
    """Copy this machine's measured rates into the run, so that it can be predicted elsewhere."""
    task = plan.task
    if not isinstance(task, EngineTask) or task.name != "inference":
        return
    source = find_calibration(task.settings, device_name(task.settings.device, hardware))
    if source is not None:
        folder.calibration.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder.calibration)


def supervise(
    folder: RunFolder,
    plan: RunPlan,
    master: tuple[str, int],
    progress: Callable[[str], None],
    on_stop: Callable[[int], None] = lambda _number: None,
) -> Watch:
    """Run this process's ranks with the plan's collectors around and beside them."""
    place = plan.place
    probed = [probe(collector, os.environ) for collector in plan.collectors]
    samplers = [p for p in probed if p.collector.scope == "node" and not p.missing]
    with (
        scratch_folders(place.ranks) as scratch,
        beside(samplers if 0 in place.local_ids else [], folder, socket.gethostname()),
    ):
        recorders = {
            rank: on_rank(probed, rank, place.num_ranks, plan.profile_ranks) for rank in place.ranks
        }
        starts = {
            rank: rank_start(folder, plan, master, rank, recorders[rank], scratch[rank])
            for rank in place.ranks
        }
        heavy = any(p.collector.wrap for rank in recorders.values() for p in rank)
        options = WatchOptions(
            grace_s=grace_s(plan, heavy),
            echo=sys.stdout.buffer if plan.task.echoed else None,
            arriving=0 if place.whole or not place.first else place.num_ranks,
            signalled_too=place.slurm,
            on_stop=on_stop,
        )
        watch = run_ranks(folder, starts, progress, options)
        for ours in watch.ranks:
            here = recorders[ours.rank]
            problems = problems_of(folder, watch, ours, here, scratch[ours.rank])
            ours.collectors = collector_states(probed, here, problems, plan.explicit)
            write_status(folder, ours)
            release(folder.rank(ours.rank))
    return watch


def grace_s(plan: RunPlan, heavy: bool) -> float:
    """Seconds from asking a rank to end to killing it."""
    return PROGRAM_GRACE_S if plan.task.echoed else HEAVY_GRACE_S if heavy else GRACE_S


def rank_start(
    folder: RunFolder,
    plan: RunPlan,
    master: tuple[str, int],
    rank: int,
    recorders: Sequence[Probed],
    scratch: Path,
) -> RankStart:
    """How one rank is started inside its collectors, and how without what stands around it."""
    place = folder.rank(rank).resolve()
    witness = [sys.executable, "-m", "perfkit.collect.witness", str(place), "--"]
    line = [*witness, *plan.task.command(folder.root.resolve())]
    environment = plan.task.environment(plan.place, rank, master, os.environ)
    if plan.task.opens_range and any(CAPTURE in c.environment for c in plan.collectors):
        # Every rank takes part in the pass that some ranks record.
        environment[CAPTURE] = "nothing"
    wrapped = wrap(line, recorders, place, scratch, opens_range=plan.task.opens_range)
    inside = [p for p in recorders if not p.collector.wrap]
    bare = wrap(line, inside, place, scratch, opens_range=plan.task.opens_range)
    return RankStart(
        wrapped.command,
        {**environment, **wrapped.environment},
        (bare.command, {**environment, **bare.environment})
        if len(inside) < len(recorders)
        else None,
    )


def problems_of(
    folder: RunFolder, watch: Watch, ours: RankProcess, here: Sequence[Probed], scratch: Path
) -> dict[str, str]:
    """collector -> why it has no product of this rank, once the rank has ended."""
    place = folder.rank(ours.rank)
    if watch.received is not None:
        # Slurm kills what is left within seconds; exports can wait, products cannot.
        left = {p.collector.name: LEFT_FOR_LATER for p in here if p.collector.after}
        return {**left, **missing_products(here, place)}
    if ours.without_wrappers:
        around = [p for p in here if p.collector.wrap]
        inside = [p for p in here if not p.collector.wrap]
        lost = {p.collector.name: ours.without_wrappers for p in around}
        return {**lost, **after(inside, place, scratch)}
    return {**after(here, place, scratch), **engine_problems(folder, ours.rank)}


def engine_problems(folder: RunFolder, rank: int) -> dict[str, str]:
    """What the engine says of a product that it could not write itself."""
    path = folder.rank_file(rank, "engine.json")
    problems: dict[str, str] = read_json(path).get("problems", {}) if path.is_file() else {}
    return problems


def collector_states(
    probed: Sequence[Probed], here: Sequence[Probed], problems: Mapping[str, str], explicit: bool
) -> dict[str, Any]:
    """What each collector did on one rank: ran, failed, missing, or left out."""
    found: dict[str, Any] = {}
    for one in probed:
        name = one.collector.name
        ran = one in here or one.collector.scope != "rank"
        reason = one.missing or problems.get(name)
        state = "missing" if one.missing else "failed" if reason else "ran" if ran else "left out"
        found[name] = {
            "state": state,
            "reason": reason,
            "asked": explicit,
            "version": one.version,
            "not_possible_here": list(one.dropped),
        }
    return found


def finish(folder: RunFolder, plan: RunPlan, record: dict[str, Any], outcome: Outcome) -> None:
    """run.json as it stands at the end: state, what the ranks found, warnings, failure."""
    record.update(state=outcome.state, ended_at=now(), failure=outcome.failure)
    statuses = read_statuses(folder, plan.place.num_ranks)
    for place in record["layout"]:
        place["host"] = statuses[place["rank"]].get("host")
        place.update(engine_facts(folder, place["rank"]))
    record["warnings"] += scattered_stages(record["layout"])
    record["collectors"] = joined_states(plan.collectors, statuses)
    for collector in plan.collectors:
        if collector.scope == "job":
            record["collectors"][collector.name] = ask_job(
                folder, collector, plan.explicit, os.environ.get("SLURM_JOB_ID", "")
            )
    record["warnings"] += collector_warnings(plan.collectors, record["collectors"])
    if plan.task.opens_range:
        record["warnings"] += cautions(plan.collectors, record["collectors"])
    write_surely(folder.run_json, record)
    release(folder.root)
    with contextlib.suppress(OSError):
        (folder.root / FAILED_MARKER).unlink(missing_ok=True)


def scattered_stages(layout: Sequence[Mapping[str, Any]]) -> list[str]:
    """Tensor-parallel groups that span nodes: a slow layout that Slurm may choose by itself."""
    hosts: dict[int, list[str]] = {}
    for place in layout:
        if "pp_rank" in place and place["host"] not in hosts.setdefault(place["pp_rank"], []):
            hosts[place["pp_rank"]].append(place["host"])
    return [
        f"the tensor-parallel ranks of stage {stage} are on {' and '.join(names)}: their "
        "all-reduces cross the network. Give srun --ntasks-per-node."
        for stage, names in hosts.items()
        if len(names) > 1
    ]


def joined_states(
    collectors: Sequence[Collector], statuses: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """Each collector over all ranks: which it recorded, which it missed, and why."""
    joined = {}
    for collector in collectors:
        states = {
            rank: (status.get("collectors") or {}).get(collector.name, {"state": "unknown"})
            for rank, status in statuses.items()
        }
        ran = [rank for rank, state in states.items() if state["state"] == "ran"]
        lost = [rank for rank, state in states.items() if state["state"] not in ("ran", "left out")]
        worst = next((states[rank] for rank in lost), next(iter(states.values())))
        joined[collector.name] = {**worst, "ranks": ran, "missing_ranks": lost}
    return joined


def ask_job(
    folder: RunFolder, collector: Collector, explicit: bool, job_id: str, within_s: float = 0.0
) -> dict[str, Any]:
    """A job-wide source, read until it has settled; partial when it had not.

    From inside the job there is no use in waiting: the job runs as long as somebody waits.
    """
    probed = probe(collector, {"SLURM_JOB_ID": job_id} if job_id else {})
    complete, problem = False, probed.missing
    if problem is None:
        complete, problem = settle(probed, folder.job, job_id, within_s)
    state = "ran" if complete else "missing" if probed.missing else "partial"
    return {
        "state": state,
        "reason": problem,
        "asked": explicit,
        "version": probed.version,
        "ranks": [],
        "missing_ranks": [],
    }


def collector_warnings(
    collectors: Sequence[Collector], states: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """What was asked for and is not there, and what that costs.

    What `auto` left out because the node has no such thing is recorded, not warned of. So are
    options that a collector ran without, but for those of which its program says why.
    """
    found = []
    for collector in collectors:
        state = states[collector.name]
        refused = [text for text in state.get("not_possible_here", ()) if " (" in text]
        if refused and state["asked"]:
            found.append(f"{collector.name} without {' and '.join(refused)}")
        # Accounting of a job that still runs is always partial, and `perfkit collect` is told.
        quiet = ("missing", "partial")
        if state["state"] in ("ran", "left out") or (
            state["state"] in quiet and not state["asked"]
        ):
            continue
        ranks = f" on ranks {state['missing_ranks']}" if state["missing_ranks"] else ""
        reason = state.get("reason") or "the rank ended before it could write"
        found.append(f"{collector.name} {state['state']}{ranks}: {reason} ({collector.absence})")
    return found


def cautions(collectors: Sequence[Collector], states: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What collectors that ran have done to the timed passes."""
    return [
        f"{collector.name}: {collector.caution}"
        for collector in collectors
        if collector.caution and states[collector.name]["ranks"]
    ]


def engine_facts(folder: RunFolder, rank: int) -> dict[str, Any]:
    """What a rank's engine.json adds to the layout: host, device, layers."""
    path = folder.rank_file(rank, "engine.json")
    if not path.is_file():
        return {}
    content = read_json(path)
    kept = ("host", "device", "layers", "decode", "experts", "quantize", "memory")
    return {key: content[key] for key in kept if content.get(key) is not None}
