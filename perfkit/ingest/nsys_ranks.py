"""Which process of an nsys export is which rank, and what its devices are called."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.ingest.frames import finding
from perfkit.ingest.nsys_gpu import NO_DEVICE, pid_of
from perfkit.ingest.nsys_nccl import Communicator

RANK_IN_NAME = re.compile(r"rank[-_]?(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """The rank of each process, and whether anything but their order says so."""

    ranks: Mapping[int, int]
    known: bool
    world_size: int | None = None

    def processes(self) -> dict[int, list[int]]:
        """The processes of each rank, in order."""
        found: dict[int, list[int]] = {}
        for process, rank in sorted(self.ranks.items(), key=lambda pair: (pair[1], pair[0])):
            found.setdefault(rank, []).append(process)
        return found


def rank_processes(
    path: Path,
    processes: Sequence[int],
    folder_rank: int | None,
    communicators: Mapping[int, Mapping[int, Communicator]],
    mpi: Mapping[int, int],
) -> Ranked:
    """By the run's folder, else NCCL's largest communicator, else MPI, the file's name, the order.

    All processes in the folder of a rank are of that rank: what it started belongs to it.
    """
    if folder_rank is not None:
        return Ranked(ranks=dict.fromkeys(processes, folder_rank), known=True)
    worlds = {p: max(c.values(), key=lambda c: c.num_ranks) for p, c in communicators.items() if c}
    by_nccl = {process: worlds[process].rank for process in processes if process in worlds}
    sizes = {worlds[process].num_ranks for process in by_nccl}
    if _names_all(processes, by_nccl) and len(sizes) == 1:
        return Ranked(ranks=by_nccl, known=True, world_size=sizes.pop())
    by_mpi = {process: mpi[process] for process in processes if process in mpi}
    if _names_all(processes, by_mpi):
        return Ranked(ranks=by_mpi, known=True)
    named = RANK_IN_NAME.search(path.name)
    if named and len(processes) == 1:
        return Ranked(ranks={processes[0]: int(named[1])}, known=True)
    return Ranked(ranks={p: i for i, p in enumerate(sorted(processes))}, known=False)


def _names_all(processes: Sequence[int], ranks: Mapping[int, int]) -> bool:
    return bool(processes) and len(set(ranks.values())) == len(processes)


def device_names(devices: Mapping[int, Collection[int]]) -> dict[int, dict[int, str]]:
    """cuda:N for each device of each process of one rank.

    Devices count within a process: where two processes of a rank use the same number, the later
    ones have their process in the name.
    """
    taken: set[str] = set()
    found: dict[int, dict[int, str]] = {}
    for process, numbers in sorted(devices.items()):
        names = {n: "cuda:?" if n == NO_DEVICE else f"cuda:{n}" for n in sorted(numbers)}
        if taken & set(names.values()):
            names = {number: f"{name} of {pid_of(process)}" for number, name in names.items()}
        taken |= set(names.values())
        found[process] = names
    return found


def about_ranks(path: Path, ranked: Ranked) -> list[dict[str, Any]]:
    """A warning where ranks are only counted."""
    if ranked.known or len(ranked.ranks) < 2:
        return []
    pids = ", ".join(str(pid_of(process)) for process in sorted(ranked.ranks))
    text = (
        f"{path.name} holds {len(ranked.ranks)} processes ({pids}), and nothing in it names their "
        "ranks: they are numbered in this order"
    )
    return [finding("ranks-counted", text, count=len(ranked.ranks))]
