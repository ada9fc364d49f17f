"""The schedule: M microbatches in flight through PP stages, one token of each a step.

    b sequences of a microbatch, q new positions (n in prefill, 1 in decode), D hidden

Every stage runs the same loop. The last one picks the tokens and sends them back to the others, so
that all of them know when a microbatch has ended and stop together without another collective.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from perfkit.engine.recorder import Recorder
from perfkit.engine.stage import Stage
from perfkit.engine.topology import Topology


@dataclass(slots=True)
class MicroBatch:
    """Some sequences that go through the pipeline together, and what they have produced."""

    index: int
    ids: torch.Tensor
    """[b, q] what the first stage feeds next, on the device."""
    mask: torch.Tensor | None
    """[b, n + new] 1 where a position holds a token; None when nothing is padded."""
    lengths: torch.Tensor | None
    """[b, 1] tokens of each prompt; None when nothing is padded."""
    prompt_length: int
    cache: Any = None
    tokens: list[list[int]] = field(default_factory=list)
    """One list of b token ids for each step."""
    finished: list[bool] = field(default_factory=list)
    sending: list[Any] = field(default_factory=list)
    """(work, tensor) of sends under way; the tensors must live until they have left."""

    @property
    def size(self) -> int:
        return self.ids.shape[0]

    @property
    def done(self) -> bool:
        return bool(self.finished) and all(self.finished)


@dataclass(frozen=True, slots=True)
class Stopping:
    """When a sequence ends. eos is empty when every sequence runs to its last token."""

    new_tokens: int
    eos: frozenset[int]
    pad: int


@torch.inference_mode()
def generate(
    stage: Stage,
    topology: Topology,
    microbatches: list[MicroBatch],
    stopping: Stopping,
    recorder: Recorder,
    inspect: Callable[[torch.Tensor], None] | None = None,
) -> None:
    """Greedy decoding; fills `tokens` of each microbatch on every rank.

    `inspect` sees the logits [b, V] of the first microbatch's first token, on the last stage.
    """
    for batch in microbatches:
        batch.cache = stage.new_cache()
    for step in range(stopping.new_tokens):
        for batch in microbatches:
            _advance(stage, topology, batch, step, stopping, recorder, inspect)
            inspect = None
    if not topology.last:
        for batch in microbatches:
            _receive_tokens(topology, batch, stopping, stopping.new_tokens, recorder)
    for batch in microbatches:
        _finish_sending(batch)


def _advance(
    stage: Stage,
    topology: Topology,
    batch: MicroBatch,
    step: int,
    stopping: Stopping,
    recorder: Recorder,
    inspect: Callable[[torch.Tensor], None] | None,
) -> None:
    """One step of one microbatch through this stage."""
    if not topology.last:
        _receive_tokens(topology, batch, stopping, step, recorder)
    if batch.done:
        return
    inputs = (
        batch.ids if topology.first else _receive_hidden(stage, topology, batch, step, recorder)
    )
    mask, positions = _mask_and_positions(batch, step)
    name = "decode" if step else "prefill"
    tokens = batch.size * (1 if step else batch.prompt_length)
    with recorder.phase(name, step, batch.index, tokens):
        outputs = stage.forward(inputs, mask, positions, batch.cache)
    if topology.last and inspect is not None:
        inspect(outputs)
    if topology.last:
        _sample(topology, batch, outputs, step, stopping, recorder)
    else:
        _send_hidden(topology, batch, outputs, step, recorder)


def _mask_and_positions(
    batch: MicroBatch, step: int
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Explicit only when something is padded; otherwise the model needs no mask at all."""
    if batch.mask is None or batch.lengths is None:
        return None, None
    mask = batch.mask[:, : batch.prompt_length + step]
    if step:
        return mask, batch.lengths + (step - 1)
    return mask, (mask.cumsum(-1) - 1).clamp_(min=0)


def _receive_hidden(
    stage: Stage, topology: Topology, batch: MicroBatch, step: int, recorder: Recorder
) -> torch.Tensor:
    """[b, q, D] from the stage before; the shape is known, so it is never sent."""
    positions = 1 if step else batch.prompt_length
    shape = (batch.size, positions, stage.config.hidden_size)
    dtype = next(stage.model.parameters()).dtype
    with recorder.phase("pp_recv", step, batch.index):
        hidden = torch.empty(shape, dtype=dtype, device=topology.device)
        dist.recv(hidden, src=topology.rank - topology.tp, group=topology.from_previous)
    return hidden


def _send_hidden(
    topology: Topology, batch: MicroBatch, hidden: torch.Tensor, step: int, recorder: Recorder
) -> None:
    """Hand the hidden states to the next stage and go on; the tensor is kept until it has left."""
    with recorder.phase("pp_send", step, batch.index):
        _finish_sending(batch)
        hidden = hidden.contiguous()
        work = dist.isend(hidden, dst=topology.rank + topology.tp, group=topology.to_next)
        batch.sending.append((work, hidden))


def _finish_sending(batch: MicroBatch) -> None:
    for work, _tensor in batch.sending:
        work.wait()
    batch.sending.clear()


def _sample(
    topology: Topology,
    batch: MicroBatch,
    logits: torch.Tensor,
    step: int,
    stopping: Stopping,
    recorder: Recorder,
) -> None:
    """The most likely token of each sequence, the same on every tensor-parallel rank."""
    unfinished = batch.size - sum(batch.finished)
    with recorder.phase("sample", step, batch.index, unfinished):
        ids = logits.float().argmax(-1)
        if topology.tp_group is not None:
            source = topology.rank - topology.tp_rank
            dist.broadcast(ids, src=source, group=topology.tp_group)
        batch.ids = ids[:, None]
        raw = ids.tolist()
        chosen = _keep_tokens(batch, raw, stopping)
    if topology.first and chosen != raw:
        batch.ids = torch.tensor(chosen, device=topology.device)[:, None]
    if topology.pp > 1:
        _send_tokens(topology, batch, chosen, step, recorder)


def _keep_tokens(batch: MicroBatch, ids: list[int], stopping: Stopping) -> list[int]:
    """Pad sequences that have ended, note those that end now; returns what was kept."""
    batch.finished = batch.finished or [False] * len(ids)
    chosen = [
        stopping.pad if ended else token for ended, token in zip(batch.finished, ids, strict=True)
    ]
    batch.tokens.append(chosen)
    batch.finished = [
        ended or token in stopping.eos for ended, token in zip(batch.finished, chosen, strict=True)
    ]
    return chosen


def _send_tokens(
    topology: Topology, batch: MicroBatch, chosen: list[int], step: int, recorder: Recorder
) -> None:
    """The chosen ids, from the last stage to every other stage of this column."""
    with recorder.phase("tok_send", step, batch.index):
        _finish_sending(batch)
        ids = torch.tensor(chosen)
        for stage in range(topology.pp - 1):
            destination = stage * topology.tp + topology.tp_rank
            work = dist.isend(ids, dst=destination, group=topology.tokens)
            batch.sending.append((work, ids))


def _receive_tokens(
    topology: Topology, batch: MicroBatch, stopping: Stopping, step: int, recorder: Recorder
) -> None:
    """The ids of the step before, which the first stage feeds next."""
    if step == 0 or batch.done:
        return
    ids = torch.empty(batch.size, dtype=torch.int64)
    with recorder.phase("tok_recv", step - 1, batch.index):
        dist.recv(ids, src=topology.last_of_column, group=topology.tokens)
    _keep_tokens(batch, ids.tolist(), stopping)
    if topology.first:
        batch.ids = ids.to(topology.device)[:, None]
