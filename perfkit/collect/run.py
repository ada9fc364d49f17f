"""One run from its settings to a finished run folder, whatever happens in between."""

import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit import __version__
from perfkit.calibrate.store import device_name, find_calibration
from perfkit.collect import facts
from perfkit.collect.collectors import CAPTURE, Collector, Probed, probe
from perfkit.collect.launch import Place, choose_master, engine_command, rank_environment
from perfkit.collect.plan import RunPlan
from perfkit.collect.supervise import (
    FAILED_MARKER,
    GRACE_S,
    Watch,
    log_tail,
    now,
    run_ranks,
    state_of,
    write_status,
)
from perfkit.collect.wrapping import after, beside, on_rank, scratch_folders, settle, wrap
from perfkit.errors import ConfigError
from perfkit.schema import RunFolder, read_json, write_json

# How long the ranks of a Slurm step wait for rank 0 to create the run folder, and rank 0 at the
# end for the others' status files, which may travel through a slow shared file system.
JOIN_S, JOIN_POLL_S = 60.0, 0.2
FINISH_S = 30.0
# A profiler needs longer to write what it has when its rank is asked to end.
HEAVY_GRACE_S = 20.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: its state, exit code for the shell, and what to tell the user."""

    state: str
    exit_code: int
    failure: Mapping[str, Any] | None


def claim_folder(root: Path, force: bool, launch_id: str) -> RunFolder:
    """An empty run folder; ConfigError when it exists without --force or cannot be written.

    It appears whole, with a run.json that says whose it is: a folder without one is never ours,
    so that the other ranks can refuse it at once (see join).
    """
    folder = RunFolder(root)
    if root.exists():
        check_replaceable(folder, force)
    prepared = root.with_name(f".{root.name}.{launch_id}")
    replaced = root.with_name(f".{root.name}.{launch_id}.replaced")
    try:
        content = {"state": "preparing", "launch_id": launch_id}
        write_json(RunFolder(prepared).run_json, content)
        if root.exists():
            root.rename(replaced)
        prepared.rename(root)
    except OSError as error:
        shutil.rmtree(prepared, ignore_errors=True)
        raise unwritable(root, error) from error
    shutil.rmtree(replaced, ignore_errors=True)
    return folder


def check_replaceable(folder: RunFolder, force: bool) -> None:
    """An existing folder may be replaced only with --force, and only when it is a run."""
    if not force:
        raise ConfigError(
            f"{folder.root} exists already. Use --force to replace it, or give another folder "
            "with --out.",
        )
    if not folder.run_json.is_file():
        raise ConfigError(
            f"{folder.root} is not a run folder (it has no run.json), so --force will not delete "
            "it. Give another folder with --out.",
        )


def unwritable(root: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot write the run folder {root}: {error.strerror}. "
        "Give a folder you may write to with --out.",
    )


def describe(plan: RunPlan) -> dict[str, Any]:
    """run.json as it stands when the ranks start."""
    settings, place = plan.settings, plan.place
    return {
        "id": plan.folder.name,
        "task": plan.task,
        "state": "running",
        "started_at": now(),
        "ended_at": None,
        "command": list(plan.command),
        "launch_id": place.launch_id,
        "master": list(choose_master(place, os.environ)),
        "config": settings.as_dict(),
        "model": {"id": settings.model_id, "config": plan.model_config},
        "layout": [
            {"rank": rank, "pp_rank": rank // settings.tp, "tp_rank": rank % settings.tp}
            for rank in range(settings.num_ranks)
        ],
        "versions": {**facts.versions(), "perfkit": __version__},
        "hardware": facts.host_facts(),
        "slurm": facts.slurm_variables(),
        "collectors": {collector.name: {"state": "asked"} for collector in plan.collectors},
        "warnings": [],
        "failure": None,
    }


def execute(plan: RunPlan, progress: Callable[[str], None]) -> Outcome:
    """Run the plan's ranks here; rank 0's process owns run.json from start to end."""
    if not plan.place.first:
        folder, master = RunFolder(plan.folder), tuple(join(plan)["master"])
        return judge(folder, plan.place, supervise(folder, plan, master, progress))
    folder = claim_folder(plan.folder, plan.force, plan.place.launch_id)
    record = describe(plan)
    write_json(folder.run_json, record)
    keep_calibration(folder, plan, record["hardware"])
    watch = supervise(folder, plan, tuple(record["master"]), progress)
    outcome = judge(folder, plan.place, watch)
    finish(folder, plan, record, outcome)
    return outcome


def keep_calibration(folder: RunFolder, plan: RunPlan, hardware: Mapping[str, Any]) -> None:
    """Copy this machine's measured rates into the run, so that it can be predicted elsewhere."""
    name = device_name(plan.settings.device, hardware)
    source = find_calibration(plan.settings, name) if plan.task == "inference" else None
    if source is not None:
        folder.calibration.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder.calibration)


def join(plan: RunPlan) -> dict[str, Any]:
    """Wait for the run.json of this launch, which rank 0's process writes.

    What makes rank 0 refuse the folder makes every rank refuse it, at once: nobody waits for a
    rank 0 that has gone.
    """
    folder, launch_id = RunFolder(plan.folder), plan.place.launch_id
    try:
        folder.root.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder.root, error) from error
    deadline, looks = time.monotonic() + JOIN_S, 0
    while time.monotonic() < deadline:
        # In this order: a folder that was there before its run.json was read is not a new one.
        existed, record = folder.root.exists(), read_claim(folder)
        ours = record is not None and record.get("launch_id") == launch_id
        if record is not None and ours and "config" in record:
            return record
        # Twice in a row: with --force rank 0 may replace the folder between the two questions.
        not_replaceable = existed and not ours and (record is None or not plan.force)
        looks = looks + 1 if not_replaceable else 0
        if looks == 2:
            check_replaceable(folder, plan.force)
        time.sleep(JOIN_POLL_S)
    raise ConfigError(
        f"rank 0 did not create {folder.root} within {JOIN_S:.0f} s. "
        "--out must be on a file system that every node of the job shares.",
    )


def read_claim(folder: RunFolder) -> dict[str, Any] | None:
    """run.json of whoever has the folder; None where there is none, or while rank 0 replaces it."""
    try:
        return read_json(folder.run_json)
    except ConfigError:
        return None


def supervise(
    folder: RunFolder,
    plan: RunPlan,
    master: tuple[str, int],
    progress: Callable[[str], None],
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
        commands = {
            rank: rank_command(folder, plan, master, rank, recorders[rank], scratch[rank])
            for rank in place.ranks
        }
        heavy = any(p.collector.wrap for rank in recorders.values() for p in rank)
        grace_s = HEAVY_GRACE_S if heavy else GRACE_S
        watch = run_ranks(folder, commands, progress, grace_s)
        for ours in watch.ranks:
            here = recorders[ours.rank]
            problems = after(here, folder.rank(ours.rank), scratch[ours.rank])
            ours.collectors = collector_states(probed, here, problems, plan.explicit)
            write_status(folder, ours)
    return watch


def rank_command(
    folder: RunFolder,
    plan: RunPlan,
    master: tuple[str, int],
    rank: int,
    recorders: Sequence[Probed],
    scratch: Path,
) -> tuple[Sequence[str], Mapping[str, str]]:
    """(command line, environment) of one rank inside its collectors."""
    place = folder.rank(rank).resolve()
    program = engine_command(folder.root.resolve())
    witness = [sys.executable, "-m", "perfkit.collect.witness", str(place), "--"]
    wrapped = wrap([*witness, *program], recorders, place, scratch)
    environment = rank_environment(plan.place, rank, master, os.environ)
    if any(CAPTURE in collector.environment for collector in plan.collectors):
        # Every rank takes part in the pass that some ranks record.
        environment[CAPTURE] = "nothing"
    return wrapped.command, {**environment, **wrapped.environment}


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


def judge(folder: RunFolder, place: Place, watch: Watch) -> Outcome:
    """The run's state from how its ranks ended; the first rank that failed by itself is named."""
    if watch.received is not None:
        return Outcome("stopped", 128 + watch.received, {"reason": "the run was asked to stop"})
    if not place.first:
        return judge_own(watch)
    if not place.whole:
        wait_for_the_others(folder, place.num_ranks)
    statuses = read_statuses(folder, place.num_ranks)
    if all(status.get("state") == "finished" for status in statuses.values()):
        return Outcome("finished", 0, None)
    failure = blame(folder, statuses)
    return Outcome("failed", int(failure.get("exit_code", 1)), failure)


def judge_own(watch: Watch) -> Outcome:
    """What a Slurm task other than rank 0's reports: only how its own rank ended."""
    if all(state_of(ours) == "finished" for ours in watch.ranks):
        return Outcome("finished", 0, None)
    return Outcome("failed", 1, None)


def wait_for_the_others(folder: RunFolder, num_ranks: int) -> None:
    """Give the other nodes' supervisors time to write how their ranks ended."""
    deadline = time.monotonic() + FINISH_S
    while time.monotonic() < deadline:
        states = [s.get("state") for s in read_statuses(folder, num_ranks).values()]
        if all(state not in ("running", "missing") for state in states):
            return
        time.sleep(0.2)


def read_statuses(folder: RunFolder, num_ranks: int) -> dict[int, dict[str, Any]]:
    """status.json of every rank; a missing file is itself a finding."""
    found = {}
    for rank in range(num_ranks):
        path = folder.rank_file(rank, "status.json")
        found[rank] = read_json(path) if path.is_file() else {"rank": rank, "state": "missing"}
    return found


def blame(folder: RunFolder, statuses: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The rank whose own failure ended the run.

    A rank that dies makes its peers fail within milliseconds with a lost connection. So a rank
    killed by a signal or with an error of its own comes before one that lost a peer, then the
    earliest comes first.
    """
    errors = {rank: read_error(folder, rank) for rank in statuses}

    def order(rank: int) -> tuple[bool, bool, int]:
        status, error = statuses[rank], errors[rank]
        # Still "running" after everybody has ended: its supervisor died before it could say how.
        failed = status["state"] in ("failed", "missing", "running")
        consequence = error is not None and error.get("kind") == "peer-lost"
        return not failed, consequence, status.get("ended_ns") or 0

    rank = min(statuses, key=order)
    return failure_record(folder, rank, statuses[rank], errors[rank])


def failure_record(
    folder: RunFolder, rank: int, status: Mapping[str, Any], error: Mapping[str, Any] | None
) -> dict[str, Any]:
    record = {"rank": rank, "host": status.get("host"), "log": f"ranks/{rank:04d}/log.txt"}
    if error is not None:
        message, code = error["message"], error.get("exit_code", 1)
        return {**record, "reason": message, "exit_code": code}
    if status["state"] in ("missing", "running"):
        reason = "its node or its supervisor died (out of memory, or killed: see dmesg or sacct)"
        return {**record, "reason": reason}
    if status.get("signal"):
        reason = f"was killed by {status['signal']}"
        if status["signal"] == "SIGKILL":
            reason += " (by somebody, or by the kernel for lack of memory: see dmesg or sacct)"
        return {**record, "reason": reason}
    tail = log_tail(folder.rank_file(rank, "log.txt"))
    return {**record, "reason": f"exited with code {status.get('exit_code')}\n{tail}".rstrip()}


def read_error(folder: RunFolder, rank: int) -> dict[str, Any] | None:
    path = folder.rank_file(rank, "error.json")
    try:
        return read_json(path) if path.is_file() else None
    except ConfigError:
        return None


def finish(folder: RunFolder, plan: RunPlan, record: dict[str, Any], outcome: Outcome) -> None:
    """run.json as it stands at the end: state, what the ranks found, warnings, failure."""
    record.update(state=outcome.state, ended_at=now(), failure=outcome.failure)
    for place in record["layout"]:
        place.update(engine_facts(folder, place["rank"]))
    record["warnings"] += scattered_stages(record["layout"])
    statuses = read_statuses(folder, plan.place.num_ranks)
    record["collectors"] = joined_states(plan.collectors, statuses)
    for collector in plan.collectors:
        if collector.scope == "job":
            record["collectors"][collector.name] = ask_job(
                folder, collector, plan.explicit, os.environ.get("SLURM_JOB_ID", "")
            )
    record["warnings"] += collector_warnings(plan.collectors, record["collectors"])
    write_json(folder.run_json, record)
    (folder.root / FAILED_MARKER).unlink(missing_ok=True)


def scattered_stages(layout: Sequence[Mapping[str, Any]]) -> list[str]:
    """Tensor-parallel groups that span nodes: a slow layout that Slurm may choose by itself."""
    hosts: dict[int, list[str]] = {}
    for place in layout:
        if "host" in place and place["host"] not in hosts.setdefault(place["pp_rank"], []):
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
            rank: status.get("collectors", {}).get(collector.name, {"state": "unknown"})
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

    What `auto` left out because the node has no such thing is recorded, not warned of.
    """
    found = []
    for collector in collectors:
        state = states[collector.name]
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


def engine_facts(folder: RunFolder, rank: int) -> dict[str, Any]:
    """What a rank's engine.json adds to the layout: host, device, layers."""
    path = folder.rank_file(rank, "engine.json")
    if not path.is_file():
        return {}
    content = read_json(path)
    return {key: content[key] for key in ("host", "device", "layers") if key in content}


def tell(outcome: Outcome) -> str:
    """One message for the person who started the run."""
    failure = outcome.failure or {}
    if "rank" not in failure:
        return str(failure.get("reason", f"the run is {outcome.state}"))
    return f"rank {failure['rank']} on {failure['host']}: {failure['reason']}"
