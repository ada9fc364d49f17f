"""What the model gives to tokens that it is fed, through the prefill and decode steps of a run.

    b sequences of a microbatch, V vocabulary

A pass of its own, after the timed ones: each step is fed the next token of a given sequence, the
run's own or that of a run it follows, instead of the most likely one. So two runs can be compared
in the same places, also after their own tokens have parted.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from perfkit.baseline.answers import followable, open_answers
from perfkit.collect.settings import RunSettings
from perfkit.engine import batch as batching
from perfkit.engine.decoding import Decoder
from perfkit.engine.microbatch import MicroBatch, Stopping
from perfkit.engine.pipeline import generate
from perfkit.engine.recorder import Recorder

DIGITS = 6
"""of a log probability: 1e-6 nats, about what float32 computes it to"""


class Scorer:
    """A decoder that feeds given tokens, and keeps what the last stage gives to them."""

    def __init__(
        self, decoder: Decoder, fed: Sequence[torch.Tensor], *, top: int, room: int
    ) -> None:
        """`fed` has the tokens [b, steps] of each microbatch, at most `room` of them.

        `room` is that of the timed passes, so that their captured steps are replayed.
        """
        self.decoder, self.fed, self.top, self.room = decoder, fed, top, room
        # Logits are read before the next replay writes over them.
        self.runs_ahead = False
        self.stage, self.topology = decoder.stage, decoder.topology
        self.steps: list[list[tuple[list[Any], ...]]] = [[] for _ in fed]
        """of each microbatch and step: log probabilities [b], top ids [b][top], theirs [b][top]"""

    def start(self, batch: MicroBatch, new_tokens: int) -> None:
        self.decoder.start(batch, self.room)

    def forward(self, batch: MicroBatch, inputs: torch.Tensor, step: int) -> torch.Tensor:
        return self.decoder.forward(batch, inputs, step)

    def choose(self, batch: MicroBatch, logits: torch.Tensor, step: int) -> torch.Tensor:
        """The next token of each given sequence, whatever the logits say."""
        fed = self.fed[batch.index][:, step]
        if self.topology.tp_rank == 0:
            self.steps[batch.index].append(most_likely_and_own(logits, fed, self.top))
        return fed


def most_likely_and_own(
    logits: torch.Tensor, ids: torch.Tensor, top: int
) -> tuple[list[Any], list[Any], list[Any]]:
    """Of logits [b, V]: log probabilities of `ids` [b], ids of the `top` greatest, and theirs."""
    logprobs = logits.float().log_softmax(-1)
    own = logprobs.gather(-1, ids[:, None])[:, 0]
    values, best = logprobs.topk(top)
    # Equal logits are frequent in 16 bits; the first is then the one that argmax takes.
    best, order = best.sort(-1)
    values, order = values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    best = best.gather(-1, order)
    return own.tolist(), best.tolist(), values.tolist()


def score(
    decoder: Decoder,
    requests: Sequence[batching.Request],
    paths: Sequence[tuple[int, ...]],
    settings: RunSettings,
    stopping: Stopping,
) -> list[dict[str, Any]]:
    """The `scored` part of each request's record, on the last stage's first rank; else []."""
    device = decoder.topology.device
    batches = batching.make_microbatches(
        requests, settings.microbatches, settings.new_tokens, stopping.pad, device
    )
    longest = max(len(path) for path in paths)
    rows = [[*path, *[stopping.pad] * (longest - len(path))] for path in paths]
    tokens = torch.split(torch.tensor(rows, device=device), [batch.size for batch in batches])
    scorer = Scorer(decoder, tokens, top=settings.logprobs, room=settings.new_tokens)
    nothing = Recorder(Path("/dev/null"), rank=0, tp_rank=0, pp_rank=0, gpu=False)
    # No end of a sequence: a path may go on after one.
    generate(scorer, batches, Stopping(longest, frozenset(), stopping.pad), nothing)
    nothing.close()
    by_request = [row for steps in scorer.steps for row in _by_request(steps)]
    return [_record(path, steps) for path, steps in zip(paths, by_request, strict=False)]


def _by_request(steps: list[tuple[list[Any], ...]]) -> list[list[tuple[Any, ...]]]:
    """[step][kind][request] -> [request][step](kinds)"""
    by_step = [list(zip(*step, strict=True)) for step in steps]
    return [list(request) for request in zip(*by_step, strict=True)]


def _record(path: Sequence[int], steps: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    kept = steps[: len(path)]
    return {
        "token_ids": list(path),
        "logprobs": [_rounded(own) for own, _ids, _values in kept],
        "top_ids": [ids for _own, ids, _values in kept],
        "top_logprobs": [[_rounded(value) for value in values] for _o, _i, values in kept],
    }


def _rounded(value: float) -> float | None:
    """None for what JSON has no word for: a model that computes no numbers."""
    return round(value, DIGITS) if math.isfinite(value) else None


def paths_to_score(
    settings: RunSettings, batches: Sequence[MicroBatch], stopping: Stopping
) -> list[tuple[int, ...]]:
    """The tokens to feed for each request: those of the run that is followed, or its own."""
    if settings.follow is not None:
        return [fed for _answer, fed in followable(open_answers(Path(settings.follow)))]
    columns = [column for batch in batches for column in zip(*batch.tokens, strict=True)]
    return [_until_end(column, stopping) for column in columns]


def _until_end(column: Sequence[int], stopping: Stopping) -> tuple[int, ...]:
    """A sequence's tokens with the one that ended it, without the padding after that."""
    ends = (place + 1 for place, token in enumerate(column) if token in stopping.eos)
    return tuple(column[: next(ends, len(column))])
