"""The dask scheduler and its workers: all on this machine, or each a task of one Slurm step.

Under Slurm the first task of the step has the scheduler and the dispatcher; every other task finds
them by a file, so that no node list is parsed and no port is chosen. Each worker has a nanny, which
starts it again when it dies.
"""

import asyncio
import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from perfkit.collect.facts import usable_cores
from perfkit.collect.launch import LOOPBACK
from perfkit.dispatch.plan import DispatchPlan
from perfkit.dispatch.step import ARRIVE_S, REPLICA, Meeting, Step

ALLOWED_DEATHS = 3
"""of workers with one and the same task, or of one worker with no task done between"""
LEAVE_S = 10.0
ENDINGS: dict[int, str] = {}
"""how worker processes that this one looked after have ended, by pid"""


class Endings(logging.Handler):
    """Takes from a nanny's log how its worker's process ended; nothing else of it is of use."""

    def emit(self, record: logging.LogRecord) -> None:
        if found := re.match(r"Worker process (\d+) (.+)", record.getMessage()):
            ENDINGS[int(found[1])] = found[2]


def configure() -> None:
    """Quiet loggers, here and in the processes to come; tasks that end workers are given up."""
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")
    import dask
    import distributed.nanny

    dask.config.set(
        {
            "distributed.scheduler.allowed-failures": ALLOWED_DEATHS - 1,
            "distributed.comm.timeouts.connect": "30s",
        }
    )
    distributed.nanny.logger.setLevel(logging.INFO)
    distributed.nanny.logger.addHandler(Endings())
    distributed.nanny.logger.propagate = False


@contextlib.contextmanager
def running(plan: DispatchPlan, meeting: Meeting | None) -> Iterator[Any]:
    """A scheduler, with workers on this machine unless they are other tasks of a Slurm step."""
    from distributed import Nanny, Scheduler, SpecCluster

    names = [] if meeting else local_names(plan)
    host = own_address() if meeting else LOOPBACK
    options = {"port": 0, "host": host, "dashboard": False, "dashboard_address": ":0"}
    cluster = SpecCluster(
        workers={n: {"cls": Nanny, "options": local_worker(plan, n)} for n in names},
        scheduler={"cls": Scheduler, "options": options},
    )
    try:
        if meeting:
            meeting.open(cluster.scheduler_address)
        yield cluster
    finally:
        with contextlib.suppress(TimeoutError, OSError):
            cluster.close(timeout=LEAVE_S)


def local_names(plan: DispatchPlan) -> list[str]:
    """cpu-1, cpu-2, replica-3: the numbers are those that Slurm would give the tasks."""
    first = 1 + plan.cpu_workers
    return [f"cpu-{number}" for number in range(1, first)] + [
        f"replica-{number}" for number in range(first, first + plan.replicas)
    ]


def local_worker(plan: DispatchPlan, name: str) -> dict[str, Any]:
    role, _, number = name.partition("-")
    ranks = plan.replicas * plan.settings.num_ranks
    cores = max(1, (usable_cores() - plan.cpu_workers) // ranks)
    environment = {"PERFKIT_LOCAL_RANK": str(int(number) - 1 - plan.cpu_workers)}
    threads = cores if role == REPLICA else 1
    return worker_options(name, environment, threads) | {"host": LOOPBACK}


def worker_options(name: str, environment: dict[str, str], threads: int) -> dict[str, Any]:
    """Of a dask nanny: one task at a time; memory is watched by Slurm or the kernel, not by it."""
    return {
        "name": name,
        "nthreads": 1,
        "resources": {name.partition("-")[0]: 1},
        "memory_limit": 0,
        "dashboard": False,
        "env": {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
            "PYTHONUNBUFFERED": "1",
            # transformers must never look for a hub, not even for a missing file.
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            **environment,
        },
    }


def own_address() -> str:
    """This host's address on the job's network: that of its name, or of its way out."""
    from distributed.utils import get_ip

    try:
        found = socket.gethostbyname(socket.gethostname())
    except OSError:
        found = LOOPBACK
    return str(get_ip()) if found.startswith("127.") else found


def serve(step: Step, meeting: Meeting, ranks: int) -> None:
    """One worker of a Slurm step, until the dispatcher has done its work.

    `ranks` of a replica share its cores.
    """
    configure()
    if address := meeting.wait():
        try:
            asyncio.run(_serve(step, address, ranks))
        except (OSError, TimeoutError):
            # A short dispatch may have ended before this task had come.
            if not meeting.over:
                raise


async def _serve(step: Step, address: str, ranks: int) -> None:
    from distributed import Nanny

    threads = max(1, cores_of_task(os.environ) // ranks) if step.role == REPLICA else 1
    options = worker_options(f"{step.role}-{step.rank}", {}, threads)
    async with Nanny(address, host=own_address(), death_timeout=ARRIVE_S, **options) as nanny:
        await nanny.finished()


def cores_of_task(environ: Mapping[str, str]) -> int:
    """What Slurm gave a replica's task; its mask alone can be the whole node.

    The step's own number is there only where srun was told it, then that of the second component.
    """
    names = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_PER_TASK_HET_GROUP_1")
    given = next((int(environ[name]) for name in names if name in environ), usable_cores())
    return min(given, usable_cores())
