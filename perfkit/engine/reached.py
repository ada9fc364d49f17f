"""How many experts the tokens of a pass reach: what reading their weights costs depends on it.

    t tokens of a forward, k experts of each, E experts

A pass of its own, after the timed ones and never captured, so that nothing of the count is in any
other. Random weights send most tokens to the same experts, a text prefers some, too: even routing
is the most that can be reached.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch

from perfkit.collect.settings import RunSettings
from perfkit.engine import batch as batching
from perfkit.engine.decoding import EagerDecoder, GraphDecoder, most_likely
from perfkit.engine.microbatch import MicroBatch, Stopping
from perfkit.engine.moe import expert_modules
from perfkit.engine.pipeline import generate
from perfkit.engine.recorder import Recorder

COUNTED_TOKENS = 33
"""new tokens at most: the steps after them would say the same"""
DIGITS = 2


class Census:
    """Distinct experts of each layer's forwards, by phase; the numbers stay on the device."""

    def __init__(self) -> None:
        self.phase = "prefill"
        self.seen: dict[str, list[torch.Tensor]] = {"prefill": [], "decode": []}

    def note(self, chosen: torch.Tensor, experts: int) -> None:
        """`chosen` [t, k] of E `experts`."""
        marks = torch.zeros(experts, dtype=torch.int32, device=chosen.device)
        self.seen[self.phase].append(marks.index_fill_(0, chosen.flatten(), 1).sum())

    def means(self) -> dict[str, float | None]:
        """Of all layers, microbatches and steps of this stage; None without such a step."""
        return {phase: _mean(counts) for phase, counts in self.seen.items()}


def _mean(counts: Sequence[torch.Tensor]) -> float | None:
    return round(fmean(torch.stack(list(counts)).tolist()), DIGITS) if counts else None


class Counting:
    """A decoder whose steps are counted: uncaptured, in the buffers of the timed passes."""

    runs_ahead = False

    def __init__(self, decoder: EagerDecoder | GraphDecoder, census: Census, room: int) -> None:
        """`room` is the new tokens of the timed passes."""
        self.decoder, self.census, self.room = decoder, census, room
        self.stage, self.topology = decoder.stage, decoder.topology

    def start(self, batch: MicroBatch, new_tokens: int) -> None:
        self.decoder.start(batch, self.room)

    def forward(self, batch: MicroBatch, inputs: torch.Tensor, step: int) -> torch.Tensor:
        self.census.phase = "decode" if step else "prefill"
        with self.decoder.uncaptured():
            return self.decoder.forward(batch, inputs, step)

    def choose(self, batch: MicroBatch, logits: torch.Tensor, step: int) -> torch.Tensor:
        return most_likely(logits, self.topology)


def experts_reached(
    decoder: EagerDecoder | GraphDecoder,
    requests: Sequence[batching.Request],
    settings: RunSettings,
    stopping: Stopping,
) -> dict[str, float | None]:
    """Mean number of experts of a layer that one microbatch's prompt and decode step reach.

    Every rank takes part, also one whose stage has no experts.
    """
    modules = [module for _name, module in expert_modules(decoder.stage.model)]
    census = Census()
    for module in modules:
        module.census = census
    batches = batching.make_microbatches(
        requests,
        settings.microbatches,
        settings.new_tokens,
        stopping.pad,
        decoder.topology.device,
    )
    tokens = min(stopping.new_tokens, COUNTED_TOKENS)
    nothing = Recorder(Path("/dev/null"), rank=0, tp_rank=0, pp_rank=0, gpu=False)
    counting = Counting(decoder, census, settings.new_tokens)
    generate(counting, batches, Stopping(tokens, stopping.eos, stopping.pad), nothing)
    nothing.close()
    for module in modules:
        module.census = None
    return census.means()
