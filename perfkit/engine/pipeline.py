"""The schedule: M microbatches in flight through PP stages, one token of each a step.

    b sequences of a microbatch, q new positions (n in prefill, 1 in decode), D hidden

Every stage runs the same loop. The last one picks the tokens and sends them back to the others, so
that all of them know when a microbatch has ended and stop together without another collective.

Where steps are queued on a GPU, the last stage queues the next one before it reads the tokens of
the one before: its GPU has work while its host waits, reads and sends.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from perfkit.engine.decoding import Decoder
from perfkit.engine.microbatch import Coming, MicroBatch, Stopping
from perfkit.engine.recorder import Phase, Recorder
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
    pipe = Pipe(decoder, stopping, recorder, inspect, ahead=steps_ahead(decoder, len(microbatches)))
    for batch in microbatches:
        decoder.start(batch, stopping.new_tokens)
    for step in range(stopping.new_tokens):
        for batch in microbatches:
            pipe.advance(batch, step)
    pipe.finish(microbatches)


def steps_ahead(decoder: Decoder, num_microbatches: int) -> int:
    """How many steps the last stage may queue before it reads the tokens of an earlier one.

    With several stages a microbatch's next step needs its tokens back at the first stage, so only
    another microbatch's step can be queued meanwhile.
    """
    return int(decoder.runs_ahead and (decoder.topology.pp == 1 or num_microbatches > 1))


@dataclass(slots=True)
class Pipe:
    """One stage's part in a pass."""

    decoder: Decoder
    stopping: Stopping
    recorder: Recorder
    inspect: Inspect | None
    ahead: int
    unread: deque[MicroBatch] = field(default_factory=deque)
    """Last stage: microbatches whose chosen tokens the host has not read, oldest first."""

    @property
    def topology(self) -> Topology:
        return self.decoder.topology

    def advance(self, batch: MicroBatch, step: int) -> None:
        """One step of one microbatch through this stage."""
        if not self.topology.last:
            self._receive_tokens(batch, step)
        elif self.topology.pp > 1:
            self._read_own(batch)
        if batch.done:
            return
        inputs = batch.ids if self.topology.first else self._receive_hidden(batch, step)
        name = "decode" if step else "prefill"
        tokens = batch.size * (1 if step else batch.prompt_length)
        with self.recorder.phase(name, step, batch.index, tokens):
            outputs = self.decoder.forward(batch, inputs, step)
        if self.topology.last:
            self._sample(batch, outputs, step)
        else:
            self._send_hidden(batch, outputs, step)

    def finish(self, microbatches: Sequence[MicroBatch]) -> None:
        """Read, hand over and receive what is still on its way.

        The tokens outlive the pass. A cache that did would be there beside the next pass's.
        """
        self._read(0)
        for batch in microbatches:
            if not self.topology.last:
                self._receive_tokens(batch, self.stopping.new_tokens)
            _finish_sending(batch)
            batch.cache = None

    def _receive_hidden(self, batch: MicroBatch, step: int) -> torch.Tensor:
        """[b, q, D] from the stage before; the shape is known, so it is never sent."""
        stage, topology = self.decoder.stage, self.topology
        positions = 1 if step else batch.prompt_length
        shape = (batch.size, positions, stage.config.hidden_size)
        dtype = next(stage.model.parameters()).dtype
        with self.recorder.phase("pp_recv", step, batch.index):
            hidden = torch.empty(shape, dtype=dtype, device=topology.device)
            dist.recv(hidden, src=topology.rank - topology.tp, group=topology.from_previous)
        return hidden

    def _send_hidden(self, batch: MicroBatch, hidden: torch.Tensor, step: int) -> None:
        """Hand the hidden states to the next stage and go on; the tensor is kept until it has
        left."""
        topology = self.topology
        with self.recorder.phase("pp_send", step, batch.index):
            _finish_sending(batch)
            hidden = hidden.contiguous()
            work = dist.isend(hidden, dst=topology.rank + topology.tp, group=topology.to_next)
            batch.sending.append((work, hidden))

    def _sample(self, batch: MicroBatch, logits: torch.Tensor, step: int) -> None:
        """The most likely tokens; read at once, or after the next step is queued."""
        if self.inspect is not None:
            self.inspect(logits)
            self.inspect = None
        if self.ahead:
            self._choose(batch, logits, step)
            self._read(self.ahead)
            return
        with self._sampling(batch, step):
            self._choose(batch, logits, step)
            raw = self.unread.popleft().coming.pop().read()
            chosen = batch.keep(raw, self.stopping)
        if self.topology.first and chosen != raw:
            batch.ids = torch.tensor(chosen, device=self.topology.device)[:, None]
        self._send_tokens(batch, chosen, step)

    def _choose(self, batch: MicroBatch, logits: torch.Tensor, step: int) -> None:
        ids = self.decoder.choose(batch, logits, step)
        batch.ids = ids[:, None]
        batch.coming.append(Coming.of(ids, step))
        self.unread.append(batch)

    def _read(self, ahead: int) -> None:
        """All tokens but those of the newest `ahead` steps."""
        while len(self.unread) > ahead:
            self._read_tokens(self.unread.popleft())

    def _read_own(self, batch: MicroBatch) -> None:
        """Before the next step: whether the microbatch has ended must be known."""
        while batch.coming:
            self._read_tokens(self.unread.popleft())

    def _read_tokens(self, batch: MicroBatch) -> None:
        """Wait for the oldest step's tokens and send them back; those after the end are dropped."""
        coming = batch.coming.pop(0)
        if batch.done:
            return
        with self._sampling(batch, coming.step):
            chosen = batch.keep(coming.read(), self.stopping)
        self._send_tokens(batch, chosen, coming.step)

    def _sampling(self, batch: MicroBatch, step: int) -> Phase:
        unfinished = batch.size - sum(batch.finished)
        return self.recorder.phase("sample", step, batch.index, unfinished)

    def _send_tokens(self, batch: MicroBatch, chosen: list[int], step: int) -> None:
        """The chosen ids, from the last stage to every other stage of this column."""
        topology = self.topology
        if topology.pp == 1:
            return
        with self.recorder.phase("tok_send", step, batch.index):
            _finish_sending(batch)
            ids = torch.tensor(chosen)
            for stage in range(topology.pp - 1):
                destination = stage * topology.tp + topology.tp_rank
                work = dist.isend(ids, dst=destination, group=topology.tokens)
                batch.sending.append((work, ids))

    def _receive_tokens(self, batch: MicroBatch, step: int) -> None:
        """The ids of the step before, which the first stage feeds next.

        Into pinned memory: a copy to the GPU from other memory would wait for all queued work.
        """
        if step == 0 or batch.done:
            return
        topology = self.topology
        on_gpu = topology.device.type == "cuda"
        ids = torch.empty(batch.size, dtype=torch.int64, pin_memory=on_gpu)
        with self.recorder.phase("tok_recv", step - 1, batch.index):
            dist.recv(ids, src=topology.last_of_column, group=topology.tokens)
        batch.keep(ids.tolist(), self.stopping)
        if topology.first:
            batch.ids = ids.to(topology.device, non_blocking=True)[:, None]


def _finish_sending(batch: MicroBatch) -> None:
    for work, _tensor in batch.sending:
        work.wait()
    batch.sending.clear()
