"""Where this process stands in the run: one rank under srun, or the parent of all ranks.

Under srun each task is one rank (SLURM_PROCID). Otherwise perfkit starts every rank here.
The ranks find each other through run.json: rank 0's supervisor writes its address and a free port
there, so no node list is parsed and no extra program is needed.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from perfkit.collect.facts import usable_cores
from perfkit.errors import ConfigError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The ranks that this process supervises, and how they stand in the run."""

    ranks: tuple[int, ...]
    num_ranks: int
    local_ids: tuple[int, ...]
    ranks_on_node: int
    launch_id: str
    """Same on every rank of one launch, different for the next: tells a stale run folder."""
    slurm: bool

    @property
    def first(self) -> bool:
        return 0 in self.ranks

    @property
    def whole(self) -> bool:
        """True when every rank of the run is supervised here."""
        return len(self.ranks) == self.num_ranks


def num_tasks(environ: Mapping[str, str]) -> int:
    """Tasks of the Slurm step that this process belongs to; 1 outside srun."""
    return int(environ.get("SLURM_NTASKS", "1")) if "SLURM_STEP_ID" in environ else 1


def find_place(num_ranks: int, environ: Mapping[str, str]) -> Place:
    """This process's place from SLURM_* variables, or all `num_ranks` ranks here."""
    tasks = int(environ.get("SLURM_NTASKS", "1"))
    # Only srun sets a step; a batch script has SLURM_PROCID and SLURM_NTASKS without being a task.
    if "SLURM_STEP_ID" not in environ or (tasks == 1 and num_ranks > 1):
        check_one_node(environ)
        return local_place(num_ranks)
    if tasks != num_ranks:
        raise ConfigError(
            f"srun started {tasks} tasks, but tp * pp = {num_ranks}. "
            f"Use `srun --ntasks={num_ranks}` or change --tp and --pp.",
        )
    job, step = environ.get("SLURM_JOB_ID", "0"), environ.get("SLURM_STEP_ID", "0")
    # A requeued job keeps its number and starts again at step 0.
    restart = environ.get("SLURM_RESTART_COUNT", "0")
    return Place(
        ranks=(int(environ["SLURM_PROCID"]),),
        num_ranks=num_ranks,
        local_ids=(int(environ["SLURM_LOCALID"]),),
        ranks_on_node=tasks_on_this_node(environ, num_ranks),
        launch_id=f"slurm-{job}.{step}" + (f"-restart{restart}" if restart != "0" else ""),
        slurm=True,
    )


def check_one_node(environ: Mapping[str, str]) -> None:
    """ConfigError in a batch script of several nodes, where srun was forgotten."""
    nodes = int(environ.get("SLURM_JOB_NUM_NODES", "1"))
    if nodes > 1:
        raise ConfigError(
            f"this job has {nodes} nodes, but perfkit was not started by srun, so its ranks would "
            "all run on this one. Use `srun perfkit run ...`, one task for each rank.",
        )


def local_place(num_ranks: int) -> Place:
    """Every rank on this machine, started by this process."""
    everyone = tuple(range(num_ranks))
    return Place(
        ranks=everyone,
        num_ranks=num_ranks,
        local_ids=everyone,
        ranks_on_node=num_ranks,
        launch_id=f"local-{socket.gethostname()}-{os.getpid()}",
        slurm=False,
    )


def tasks_on_this_node(environ: Mapping[str, str], num_ranks: int) -> int:
    """Tasks of the step on this node, from SLURM_STEP_TASKS_PER_NODE such as `2(x3),1`."""
    layout = environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    counts: list[int] = []
    for part in filter(None, layout.split(",")):
        tasks, _, repeat = part.partition("(x")
        counts += [int(tasks)] * int(repeat.rstrip(")") or 1)
    node = int(environ.get("SLURM_NODEID", "0"))
    return counts[node] if node < len(counts) else num_ranks


def rendezvous(place: Place, rank: int, master: tuple[str, int]) -> dict[str, str]:
    """The variables by which torch.distributed finds the other ranks."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(place.num_ranks),
        "LOCAL_RANK": str(place.local_ids[place.ranks.index(rank)]),
        "LOCAL_WORLD_SIZE": str(place.ranks_on_node),
        "MASTER_ADDR": master[0],
        "MASTER_PORT": str(master[1]),
    }


def engine_environment(
    place: Place, rank: int, master: tuple[str, int], environ: Mapping[str, str]
) -> dict[str, str]:
    """The environment of one rank of the engine: the rendezvous and its share of the cores."""
    ours = {
        "PYTHONUNBUFFERED": "1",
        # transformers must never look for a hub, not even for a missing file.
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    defaults = {"OMP_NUM_THREADS": str(threads_of_rank(place, environ))}
    if place.whole:
        # gloo looks up the host name otherwise, which fails in containers without a resolver.
        defaults["GLOO_SOCKET_IFNAME"] = "lo"
    return {**defaults, **environ, **ours, **rendezvous(place, rank, master)}


def program_environment(
    place: Place, rank: int, master: tuple[str, int], environ: Mapping[str, str]
) -> dict[str, str]:
    """A user's program keeps its environment; several ranks get a rendezvous they may use.

    One rank gets none: programs such as torchrun or a server take RANK for a promise.
    """
    return {**environ, **(rendezvous(place, rank, master) if place.num_ranks > 1 else {})}


def threads_of_rank(place: Place, environ: Mapping[str, str]) -> int:
    """A rank's share of the cores: what Slurm gave each task, else an equal part of the node.

    Not every site binds a task to its cores, so the affinity mask alone can be the whole node.
    """
    if place.whole:
        return max(1, usable_cores() // place.ranks_on_node)
    on_node = int(environ.get("SLURM_CPUS_ON_NODE", usable_cores()))
    share = int(environ.get("SLURM_CPUS_PER_TASK", max(1, on_node // place.ranks_on_node)))
    return min(share, usable_cores())


def choose_master(place: Place, environ: Mapping[str, str]) -> tuple[str, int]:
    """Address and free port for the rendezvous, chosen on rank 0's host.

    MASTER_ADDR wins where a site needs another name for its fast network (a suffix, say).
    """
    address = LOOPBACK if place.whole else environ.get("MASTER_ADDR", socket.gethostname())
    return address, int(environ.get("MASTER_PORT", "0")) or free_port()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
