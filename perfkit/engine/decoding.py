"""How a stage turns inputs into outputs: eagerly, or with each decode step as one CUDA graph.

Both run the prompt through the Hugging Face forward. EagerDecoder goes on with it and a cache that
grows; GraphDecoder writes into buffers that stay where they are, captures its decode step once for
each microbatch, and replays it: one launch where the eager step has a thousand.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist

from perfkit.engine.decode_kernels import kernels_for
from perfkit.engine.decode_step import DecodeStep
from perfkit.engine.microbatch import MicroBatch
from perfkit.engine.stage import Stage
from perfkit.engine.static_kv import StaticKV
from perfkit.engine.topology import Topology

WARM_UPS = 2
"""steps before a capture: libraries make their workspaces and compilers their kernels"""


class Decoder(Protocol):
    """One stage's part in a batch."""

    stage: Stage
    topology: Topology
    runs_ahead: bool
    """the next step may be queued before this one's tokens have been read"""

    def start(self, batch: MicroBatch, new_tokens: int) -> None:
        """Before a microbatch's prompt."""

    def forward(self, batch: MicroBatch, inputs: torch.Tensor, step: int) -> torch.Tensor:
        """Token ids [b, q] or hidden [b, q, D] -> hidden [b, q, D], or logits [b, V] when last."""

    def choose(self, batch: MicroBatch, logits: torch.Tensor, step: int) -> torch.Tensor:
        """The most likely token ids [b], the same on every tensor-parallel rank."""


def most_likely(logits: torch.Tensor, topology: Topology) -> torch.Tensor:
    """[b] ids of the greatest logits; the stage's first rank decides for all."""
    ids = logits.argmax(-1)
    if topology.tp_group is not None:
        source = topology.rank - topology.tp_rank
        dist.broadcast(ids, src=source, group=topology.tp_group)
    return ids


class EagerDecoder:
    """The Hugging Face forward at every step."""

    runs_ahead = False

    def __init__(self, stage: Stage, topology: Topology) -> None:
        self.stage, self.topology = stage, topology

    def start(self, batch: MicroBatch, new_tokens: int) -> None:
        batch.cache = self.stage.new_cache()

    def forward(self, batch: MicroBatch, inputs: torch.Tensor, step: int) -> torch.Tensor:
        mask, positions = batch.mask_and_positions(step)
        return self.stage.forward(inputs, mask, positions, batch.cache)

    def choose(self, batch: MicroBatch, logits: torch.Tensor, step: int) -> torch.Tensor:
        return most_likely(logits, self.topology)

    @property
    def facts(self) -> dict[str, Any]:
        return {"mode": "eager"}

    @contextmanager
    def uncaptured(self) -> Iterator[None]:
        """As always."""
        yield

    def close(self) -> None:
        """Nothing outlives a pass."""


@dataclass(slots=True)
class Captured:
    """One microbatch's buffers, and its decode step once it is captured."""

    kv: StaticKV
    inputs: torch.Tensor | None = None
    outputs: torch.Tensor | None = None
    ids: torch.Tensor | None = None
    graph: Any = None


class GraphDecoder:
    """Decode steps on static buffers, replayed as CUDA graphs; on a CPU the same steps uncaptured.

    Make it before the weights are loaded: it lays some of them side by side. Buffers and graphs
    outlive a pass, so that only the first pass pays for them.
    """

    def __init__(self, stage: Stage, topology: Topology) -> None:
        self.stage, self.topology = stage, topology
        self.captures = topology.device.type == "cuda"
        self.runs_ahead = self.captures
        kernels = kernels_for(topology.device)
        self.problem = kernels.problem
        self.step = DecodeStep(stage, kernels)
        self._held: dict[tuple[int, int, int], Captured] = {}

    def start(self, batch: MicroBatch, new_tokens: int) -> None:
        slots = batch.prompt_length + new_tokens
        key = (batch.index, batch.size, slots)
        if key not in self._held:
            kv = self.step.new_kv(batch.size, slots, self.topology.device)
            self._held[key] = Captured(kv)
        batch.cache = self._held[key]

    def forward(self, batch: MicroBatch, inputs: torch.Tensor, step: int) -> torch.Tensor:
        held: Captured = batch.cache
        if step == 0:
            mask, positions = batch.mask_and_positions(0)
            cache = held.kv.prefill_cache(self.stage.windows)
            outputs = self.stage.forward(inputs, mask, positions, cache)
            held.kv.begin(batch.prompt_length, batch.lengths)
            return outputs
        if not self.captures:
            outputs = self.step(inputs, held.kv)
            held.kv.advance()
            return outputs
        if held.graph is None:
            self._capture(held, inputs)
        assert held.inputs is not None
        assert held.outputs is not None
        held.inputs.copy_(inputs)
        held.graph.replay()
        return held.outputs

    def choose(self, batch: MicroBatch, logits: torch.Tensor, step: int) -> torch.Tensor:
        held: Captured = batch.cache
        return most_likely(logits, self.topology) if held.ids is None or step == 0 else held.ids

    def _capture(self, held: Captured, inputs: torch.Tensor) -> None:
        """Record one step: the buffers it reads and writes are the ones that replays use."""
        held.inputs = inputs.clone()
        self._warm_up(held)
        held.graph = torch.cuda.CUDAGraph()
        # Each graph has a memory pool of its own: in a shared one, another microbatch's replay
        # would write over ids that this one has yet to feed.
        # NCCL's watchdog asks for events from its own thread meanwhile: only this thread is bound.
        with torch.cuda.graph(held.graph, capture_error_mode="thread_local"):
            held.outputs = self.step(held.inputs, held.kv)
            held.ids = most_likely(held.outputs, self.topology) if self.stage.last else None
            held.kv.advance()

    def _warm_up(self, held: Captured) -> None:
        assert held.inputs is not None
        aside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                # The slot does not advance: the replay writes it again.
                outputs = self.step(held.inputs, held.kv)
                if self.stage.last:
                    most_likely(outputs, self.topology)
        torch.cuda.current_stream().wait_stream(aside)

    @property
    def facts(self) -> dict[str, Any]:
        """For run.json: whether steps are captured, and why their kernels are plain."""
        return {"mode": "graph", "captured": self.captures, "plain_kernels_because": self.problem}

    @contextmanager
    def uncaptured(self) -> Iterator[None]:
        """Steps meanwhile are run, not replayed; graphs stay."""
        captures, self.captures = self.captures, False
        try:
            yield
        finally:
            self.captures = captures

    def close(self) -> None:
        """Drop the graphs: with one alive that holds NCCL kernels, a process group never ends."""
        self._held.clear()
        if self.captures:
            torch.cuda.synchronize()


def make_decoder(mode: str, stage: Stage, topology: Topology) -> EagerDecoder | GraphDecoder:
    """The decoder of --decode eager or graph."""
    return (GraphDecoder if mode == "graph" else EagerDecoder)(stage, topology)
