"""How a run ended, from what its ranks left on disk, and which rank is to blame."""

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perfkit.collect.launch import Place
from perfkit.collect.supervise import (
    FAILED_MARKER,
    Watch,
    log_tail,
    read_exit,
    shell_code,
    signal_name,
    state_of,
)
from perfkit.collect.tasks import Task
from perfkit.schema import RunFolder, nearly_full, read_if_whole, read_json

# Rank 0 waits at the end for the others' status files, which may travel through a slow shared file
# system; longer for a rank whose program has ended well and whose products are still being written.
FINISH_S, PRODUCTS_S = 30.0, 900.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: its state, exit code for the shell, and what to tell the user."""

    state: str
    exit_code: int
    failure: Mapping[str, Any] | None


def judge(folder: RunFolder, task: Task, place: Place, watch: Watch) -> Outcome:
    """The run's state from how its ranks ended; the first rank that failed by itself is named."""
    if watch.received is not None:
        return Outcome("stopped", 128 + watch.received, stop_record(watch.received))
    if not place.first:
        return judge_own(folder, task, watch)
    if not place.whole:
        wait_for_the_others(folder, place.num_ranks)
    statuses = read_statuses(folder, place.num_ranks)
    if all(has_finished(folder, status) for status in statuses.values()):
        return Outcome("finished", 0, None)
    failure = blame(folder, statuses)
    code = program_code(statuses[failure["rank"]]) if task.echoed else failure.get("exit_code", 1)
    return Outcome("failed", int(code), failure)


def stop_record(number: int) -> dict[str, Any]:
    """Why a run that was asked to stop has stopped, as far as a signal can tell."""
    who = {signal.SIGTERM: "scancel, a time limit or kill", signal.SIGINT: "Ctrl-C"}
    by = who.get(signal.Signals(number), "its terminal was closed")
    return {"reason": f"stopped by {signal_name(number)} ({by})", "signal": signal_name(number)}


def judge_own(folder: RunFolder, task: Task, watch: Watch) -> Outcome:
    """What a Slurm task other than rank 0's reports: how its own rank ended.

    A program's exit code is passed through; of a rank that was only stopped because another one
    failed, that one's: srun reports the highest.
    """
    failed = [ours for ours in watch.ranks if state_of(ours) != "finished"]
    if not failed:
        return Outcome("finished", 0, None)
    if not task.echoed:
        return Outcome("failed", 1, None)
    if failed[0].stopped_by_us:
        marker = folder.root / FAILED_MARKER
        code = read_json(marker)["exit_code"] if marker.is_file() else 1
        return Outcome("stopped", int(code), None)
    return Outcome("failed", shell_code(failed[0].code or 1), None)


def program_code(status: Mapping[str, Any]) -> int:
    """The exit code of the rank that is to blame, as a shell has it."""
    if status.get("signal"):
        return 128 + int(getattr(signal, status["signal"], 0))
    return int(status.get("exit_code") or 1)


def has_finished(folder: RunFolder, status: Mapping[str, Any]) -> bool:
    """True when the rank's program ended well, even if its supervisor is not heard of any more."""
    if status.get("state") != "running":
        return status.get("state") == "finished"
    return read_exit(folder, int(status["rank"])).get("exit_code") == 0


def wait_for_the_others(folder: RunFolder, num_ranks: int) -> None:
    """Give the other nodes' supervisors time to write how their ranks ended."""
    started = time.monotonic()
    while (waited := time.monotonic() - started) < PRODUCTS_S:
        late = [
            status
            for status in read_statuses(folder, num_ranks).values()
            if status.get("state") in ("running", "missing") or status.get("collectors") is None
        ]
        if not late or (waited > FINISH_S and not all(has_finished(folder, s) for s in late)):
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
    errors = {rank: read_if_whole(folder.rank_file(rank, "error.json")) for rank in statuses}

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
    full = f" ({folder.root} is on a full file system)" if nearly_full(folder.root) else ""
    if error is not None:
        message, code = error["message"], error.get("exit_code", 1)
        return {**record, "reason": message + full, "exit_code": code}
    return {**record, "reason": end_of(folder, rank, status) + full}


def end_of(folder: RunFolder, rank: int, status: Mapping[str, Any]) -> str:
    """How a rank that said nothing itself has ended, with the last lines that it printed."""
    if status["state"] == "missing":
        return "never started: its node or its supervisor died before it could (see srun's output)"
    if status["state"] == "running":
        return "its node or its supervisor died (out of memory, or killed: see dmesg or sacct)"
    if status.get("signal") == "SIGKILL":
        return "was killed by SIGKILL (by somebody, or for lack of memory: see dmesg or sacct)"
    if status.get("signal"):
        return f"was killed by {status['signal']}"
    tail = log_tail(folder.rank_file(rank, "log.txt"))
    return f"exited with code {status.get('exit_code')}\n{tail}".rstrip()


def tell(outcome: Outcome) -> str:
    """One message for the person who started the run."""
    failure = outcome.failure or {}
    if "rank" not in failure:
        return str(failure.get("reason", f"the run is {outcome.state}"))
    return f"rank {failure['rank']} on {failure['host']}: {failure['reason']}"
