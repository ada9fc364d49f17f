"""This process's place in a Slurm step, and the file by which its tasks find their scheduler.

The first task has the scheduler and the dispatcher. The file stands beside the run folder, because
only the dispatcher knows whether that folder may be written.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from perfkit.collect.launch import num_tasks
from perfkit.errors import ConfigError, PerfkitError, one_of
from perfkit.schema import read_if_whole, write_json

CPU, REPLICA = ROLES = ("cpu", "replica")
"""what a worker does, and the resource that it offers"""
ARRIVE_S = 180.0
LOOK_S = 0.2


def rank_of(name: str) -> int:
    """replica-3 is rank 3, which is its task of the Slurm step."""
    return int(name.rpartition("-")[2])


@dataclass(frozen=True, slots=True)
class Step:
    """One task of a step."""

    role: str
    rank: int
    tasks: int
    launch_id: str

    @property
    def workers(self) -> int:
        """Every task but the first."""
        return self.tasks - 1


def slurm_step(environ: Mapping[str, str], role: str | None) -> Step | None:
    """None where this process starts its workers itself; ConfigError for a role that cannot be."""
    tasks = num_tasks(environ)
    if role is not None:
        one_of("--role", role, ROLES)
    if tasks == 1:
        if role is None:
            return None
        raise ConfigError(
            "--role is for the tasks of one srun. Leave it out, and the workers are started here.",
        )
    rank = int(environ["SLURM_PROCID"])
    role = role or role_of(rank, environ)
    if role is None or (rank == 0 and role != CPU):
        raise ConfigError(
            f"srun started {tasks} tasks, and task {rank} has --role {role}. Start them in a "
            "heterogeneous job with `srun --het-group=0,1`, or give each --role cpu or --role "
            "replica; the first one is a cpu task, and dispatches.",
        )
    restart = environ.get("SLURM_RESTART_COUNT", "0")
    launch_id = f"slurm-{environ['SLURM_JOB_ID']}.{environ['SLURM_STEP_ID']}"
    return Step(role, rank, tasks, launch_id + (f"-restart{restart}" if restart != "0" else ""))


def role_of(rank: int, environ: Mapping[str, str]) -> str | None:
    """In a heterogeneous job the first component is of CPU tasks, the second of replicas."""
    first = environ.get("SLURM_NTASKS_HET_GROUP_0")
    if first is None:
        return None
    return CPU if rank < int(first) else REPLICA


class Meeting:
    """The file: the scheduler's address, or that there is none any more."""

    def __init__(self, folder: Path, step: Step) -> None:
        folder = folder.resolve()
        self.name = f".{folder.name}"
        self.path = folder.with_name(f"{self.name}.{step.launch_id}.scheduler")
        self.everyone_came = False

    @contextlib.contextmanager
    def hosted(self) -> Iterator["Meeting"]:
        """However the first task ends, nobody goes on waiting for it."""
        try:
            yield self
        finally:
            with contextlib.suppress(OSError):
                if self.everyone_came:
                    self.path.unlink(missing_ok=True)
                else:
                    write_json(self.path, {"address": None})

    def open(self, address: str) -> None:
        """Tell the others; what was left beside this folder by earlier steps is of no use."""
        for old in self.path.parent.glob(f"{escape(self.name)}.*.scheduler"):
            old.unlink(missing_ok=True)
        write_json(self.path, {"address": address})

    def wait(self) -> str | None:
        """The scheduler's address; None when the first task has ended already."""
        deadline = time.monotonic() + ARRIVE_S
        while (found := read_if_whole(self.path)) is None:
            if time.monotonic() > deadline:
                raise PerfkitError(
                    f"the first task of this step did not write {self.path} within "
                    f"{ARRIVE_S:.0f} s. Its own message says why; or --out is not on a file "
                    "system that every node of the job shares.",
                )
            time.sleep(LOOK_S)
        return found["address"] and str(found["address"])

    @property
    def over(self) -> bool:
        """True once the first task has ended, also when it has removed the file."""
        found = read_if_whole(self.path)
        return found is None or found["address"] is None
