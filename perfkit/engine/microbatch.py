"""Some sequences that go through the pipeline together, and what they have produced.

b sequences, q new positions (n in prefill, 1 in decode)
"""

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Stopping:
    """When a sequence ends. eos is empty when every sequence runs to its last token."""

    new_tokens: int
    eos: frozenset[int]
    pad: int


@dataclass(slots=True)
class MicroBatch:
    """One part of the batch: what is fed next, its cache, its tokens so far."""

    index: int
    ids: torch.Tensor
    """[b, q] what the first stage feeds next, on the device."""
    mask: torch.Tensor | None
    """[b, n + new] 1 where a position holds a token; None when nothing is padded."""
    lengths: torch.Tensor | None
    """[b, 1] tokens of each prompt; None when nothing is padded."""
    prompt_length: int
    cache: Any = None
    """The decoder's own: a cache that grows, or static buffers with their graph."""
    tokens: list[list[int]] = field(default_factory=list)
    """One list of b token ids for each step."""
    finished: list[bool] = field(default_factory=list)
    coming: list["Coming"] = field(default_factory=list)
    """Tokens that are chosen and not yet read, oldest first."""
    sending: list[Any] = field(default_factory=list)
    """(work, tensor) of sends under way; the tensors must live until they have left."""

    @property
    def size(self) -> int:
        return self.ids.shape[0]

    @property
    def done(self) -> bool:
        return bool(self.finished) and all(self.finished)

    def mask_and_positions(self, step: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Explicit only when something is padded; otherwise the model needs no mask at all."""
        if self.mask is None or self.lengths is None:
            return None, None
        mask = self.mask[:, : self.prompt_length + step]
        if step:
            return mask, self.lengths + (step - 1)
        return mask, (mask.cumsum(-1) - 1).clamp_(min=0)

    def keep(self, ids: list[int], stopping: Stopping) -> list[int]:
        """Pad sequences that have ended, note those that end now; returns what was kept."""
        self.finished = self.finished or [False] * len(ids)
        pairs = list(zip(self.finished, ids, strict=True))
        chosen = [stopping.pad if ended else token for ended, token in pairs]
        self.tokens.append(chosen)
        pairs = list(zip(self.finished, chosen, strict=True))
        self.finished = [ended or token in stopping.eos for ended, token in pairs]
        return chosen


@dataclass(frozen=True, slots=True)
class Coming:
    """Token ids [b] on their way from the device to the host."""

    step: int
    ids: torch.Tensor
    arrived: Any
    """CUDA event; None on a CPU"""

    @classmethod
    def of(cls, ids: torch.Tensor, step: int) -> "Coming":
        if not ids.is_cuda:
            return cls(step, ids, None)
        on_host = ids.to("cpu", non_blocking=True)
        arrived: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        return cls(step, on_host, arrived)

    def read(self) -> list[int]:
        """Wait for them: the one synchronisation of a step."""
        if self.arrived is not None:
            self.arrived.synchronize()
        found: list[int] = self.ids.tolist()
        return found
