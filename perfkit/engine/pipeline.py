"""The schedule: M microbatches in flight through PP stages, one token of each a step.

    b sequences of a microbatch, q new positions (n in prefill, 1 in decode), D hidden

Every stage runs the same loop. The last one picks the tokens and sends them back to the others, so
that all of them know when a microbatch has ended and stop together without another collective.
"""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from perfkit.engine.decoding import Decoder
from perfkit.engine.microbatch import Coming, MicroBatch, Stopping
from perfkit.engine.recorder import Recorder
from perfkit.engine.stage import Stage
from perfkit.engine.topology import Topology

Inspect = Callable[[torch.Tensor], None]


@torch.inference_mode()
def generate(
    decoder: Decoder,
    microbatches: Sequence[MicroBatch],
    stopping: Stopping,
    recorder: Recorder,
    inspect: Inspect | None = None,
) -> None:
    """Greedy decoding; fills `tokens` of each microbatch on every rank.

    `inspect` sees the logits [b, V] of the first microbatch's first token, on the last stage.
    """
    topology = decoder.topology
    for batch in microbatches:
        decoder.start(batch, stopping.new_tokens)
    for step in range(stopping.new_tokens):
        for batch in microbatches:
            _advance(decoder, batch, step, stopping, recorder, inspect)
            inspect = None
    for batch in microbatches:
        if not topology.last:
            _receive_tokens(topology, batch, stopping, stopping.new_tokens, recorder)
        _read_tokens(batch, stopping, recorder, ahead=0)
        _finish_sending(batch)


def _advance(
    decoder: Decoder,
    batch: MicroBatch,
    step: int,
    stopping: Stopping,
    recorder: Recorder,
    inspect: Inspect | None,
) -> None:
    """One step of one microbatch through this stage."""
    stage, topology = decoder.stage, decoder.topology
    if not topology.last:
        _receive_tokens(topology, batch, stopping, step, recorder)
    if batch.done:
        return
    inputs = (
        batch.ids if topology.first else _receive_hidden(stage, topology, batch, step, recorder)
    )
    name = "decode" if step else "prefill"
    tokens = batch.size * (1 if step else batch.prompt_length)
    with recorder.phase(name, step, batch.index, tokens):
        outputs = decoder.forward(batch, inputs, step)
    if topology.last and inspect is not None:
        inspect(outputs)
    if topology.last:
        _sample(decoder, batch, outputs, step, stopping, recorder)
    else:
        _send_hidden(topology, batch, outputs, step, recorder)


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
    decoder: Decoder,
    batch: MicroBatch,
    logits: torch.Tensor,
    step: int,
    stopping: Stopping,
    recorder: Recorder,
) -> None:
    """The most likely token of each sequence; read at once, or while the next step runs."""
    topology = decoder.topology
    if decoder.runs_ahead:
        _choose(decoder, batch, logits, step)
        _read_tokens(batch, stopping, recorder, ahead=1)
        return
    unfinished = batch.size - sum(batch.finished)
    with recorder.phase("sample", step, batch.index, unfinished):
        _choose(decoder, batch, logits, step)
        raw = batch.coming.pop().read()
        chosen = batch.keep(raw, stopping)
    if topology.first and chosen != raw:
        batch.ids = torch.tensor(chosen, device=topology.device)[:, None]
    if topology.pp > 1:
        _send_tokens(topology, batch, chosen, step, recorder)


def _choose(decoder: Decoder, batch: MicroBatch, logits: torch.Tensor, step: int) -> None:
    ids = decoder.choose(batch, logits, step)
    batch.ids = ids[:, None]
    batch.coming.append(Coming.of(ids, step))


def _read_tokens(batch: MicroBatch, stopping: Stopping, recorder: Recorder, ahead: int) -> None:
    """Read all but the newest `ahead` steps' tokens; those after the end of all are dropped."""
    while len(batch.coming) > ahead:
        coming = batch.coming.pop(0)
        if batch.done:
            continue
        unfinished = batch.size - sum(batch.finished)
        with recorder.phase("sample", coming.step, batch.index, unfinished):
            batch.keep(coming.read(), stopping)


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
    batch.keep(ids.tolist(), stopping)
    if topology.first:
        batch.ids = ids.to(topology.device)[:, None]
