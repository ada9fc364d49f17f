"""Which rank does what, and the process groups between them.

rank = pp_rank * tp + tp_rank: tensor parallelism stays inside a node, stages stride over nodes.
Activations go one way only, from a stage to the next, each pair of ranks on a group of its own: on
one NCCL communicator, sends in both directions can deadlock (NVIDIA/nccl#479, pytorch#109401).
Token ids are needed on the host anyway and travel over gloo.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist

# A rank that dies is noticed by its supervisor; this only bounds what nobody notices.
TIMEOUT = timedelta(minutes=int(os.environ.get("PERFKIT_DISTRIBUTED_TIMEOUT_MIN", "30")))


@dataclass(frozen=True, slots=True)
class Topology:
    """This rank's place and its groups."""

    rank: int
    tp: int
    pp: int
    device: torch.device
    tp_group: dist.ProcessGroup | None
    to_next: dist.ProcessGroup | None
    from_previous: dist.ProcessGroup | None
    tokens: dist.ProcessGroup | None
    """gloo group of this pipeline column: (every stage, this tp_rank)."""

    @property
    def pp_rank(self) -> int:
        return self.rank // self.tp

    @property
    def tp_rank(self) -> int:
        return self.rank % self.tp

    @property
    def first(self) -> bool:
        return self.pp_rank == 0

    @property
    def last(self) -> bool:
        return self.pp_rank == self.pp - 1

    @property
    def last_of_column(self) -> int:
        """The rank in this column that holds the head and so the tokens."""
        return (self.pp - 1) * self.tp + self.tp_rank


class ModelParallelUnit:
    """What DeepSpeed calls an mpu; AutoTP needs it beside tp_group, else it shards nothing."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology

    def get_model_parallel_group(self) -> Any:
        return self.topology.tp_group

    def get_model_parallel_rank(self) -> int:
        return self.topology.tp_rank

    def get_model_parallel_world_size(self) -> int:
        return self.topology.tp


def connect(tp: int, pp: int, device_type: str) -> Topology:
    """Join the other ranks and create every group, in the same order on every rank."""
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    device = torch.device(device_type)
    if device_type == "cuda":
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    gpu = device_type == "cuda"
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=TIMEOUT)
    backend = "nccl" if gpu else "gloo"
    columns = [[stage * tp + column for stage in range(pp)] for column in range(tp)]
    stages = [[stage * tp + column for column in range(tp)] for stage in range(pp)]
    pairs = [pair for column in columns for pair in pairwise(column)]
    tp_groups = [_group(ranks, backend) if tp > 1 else None for ranks in stages]
    token_groups = [_group(ranks, "gloo") if pp > 1 else None for ranks in columns]
    pair_groups = {pair: _group(list(pair), backend) for pair in pairs}
    return Topology(
        rank=rank,
        tp=tp,
        pp=pp,
        device=device,
        tp_group=tp_groups[rank // tp],
        to_next=pair_groups.get((rank, rank + tp)),
        from_previous=pair_groups.get((rank - tp, rank)),
        tokens=token_groups[rank % tp],
    )


def _group(ranks: list[int], backend: str) -> dist.ProcessGroup:
    group: dist.ProcessGroup = dist.new_group(ranks, backend=backend, timeout=TIMEOUT)
    return group


def disconnect() -> None:
    """Wait for everyone, then leave; NCCL wants its kernels finished first."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    dist.barrier()
    dist.destroy_process_group()
