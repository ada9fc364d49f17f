"""Which messages leave a node, and what they take there.

    t tensor-parallel ranks, p stages, g GPUs of a node, S bytes of a message

Ranks fill nodes in order, rank = stage * t + tp_rank, as Slurm's block distribution places them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from perfkit.predict.curves import Value

ASSUMED_LATENCY_S = 15e-6
"""an InfiniBand message of any size beyond its bytes, GPU to GPU, with NCCL: project notes; no run
over two nodes has been measured yet"""
REACHED = 0.9
"""of a network card's bandwidth, as NCCL reaches it with large messages: project notes"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What connects nodes."""

    gpus_per_node: int
    bytes_per_s: float
    """of one GPU and direction when all of a node send at once"""
    latency_s: float = ASSUMED_LATENCY_S

    def scaled(self, factor: float) -> "Network":
        """Bandwidth times `factor`, latency divided by it."""
        latency_s, bytes_per_s = self.latency_s / factor, self.bytes_per_s * factor
        return replace(self, latency_s=latency_s, bytes_per_s=bytes_per_s)

    def message_s(self, num_bytes: Value) -> Value:
        return self.latency_s + num_bytes / (REACHED * self.bytes_per_s)

    def hops_between_nodes(self, tp: int, pp: int) -> int:
        """Of the p - 1 hops from stage to stage: those whose first ranks are on two nodes.

        TP 2 x PP 3 on nodes of 2: 2; TP 4 x PP 4 on nodes of 8: 1.
        """
        nodes = [stage * tp // self.gpus_per_node for stage in range(pp)]
        return sum(before != after for before, after in pairwise(nodes))

    def num_nodes(self, ranks: Value) -> Value:
        return -(-ranks // self.gpus_per_node)

    def all_reduce_s(
        self, group: int, num_bytes: Value, inside: Callable[[int, Value], Value]
    ) -> Value:
        """Reduce-scatter in each node, all-reduce of the parts over N nodes, all-gather.

        `inside(g, S)` is an all-reduce of g GPUs of a node: its two halves are the first and the
        last step. Over the network each GPU moves 2 (N - 1) / N S / g in 2 (N - 1) messages.
        """
        members = min(group, self.gpus_per_node)
        nodes = -(-group // members)
        moved = 2 * (nodes - 1) / nodes * num_bytes / members
        over = 2 * (nodes - 1) * self.latency_s + moved / (REACHED * self.bytes_per_s)
        return (inside(members, num_bytes) if members > 1 else 0.0) + over
