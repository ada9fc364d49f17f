"""A KV cache that never moves: buffers made once, written in place, so that a CUDA graph can hold
their addresses.

    b sequences of a microbatch, S slots (prompt and new tokens), K kv heads of this rank,
    H head size

Prompts are padded on the left: sequence i uses slots starts[i] .. slot, and all of them write the
same next slot. Both are tensors on the device, advanced there: a graph replays no Python.
"""

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class StaticKV:
    """Keys and values of one microbatch, [b, S, K, H] a layer, and which slots are in use."""

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        num_layers: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.slot = torch.zeros(1, dtype=torch.int64, device=device)
        """[1] the slot that the next token is written to"""
        self.starts = torch.zeros(shape[0], dtype=torch.int64, device=device)
        """[b] the first slot of each sequence that is no padding"""

    def begin(self, prompt_length: int, lengths: torch.Tensor | None) -> None:
        """After a prefill of `prompt_length` slots, of which each sequence's last `lengths` count.

        `lengths` is [b, 1], or None when nothing is padded.
        """
        self.slot.fill_(prompt_length)
        if lengths is None:
            self.starts.zero_()
        else:
            self.starts.copy_(prompt_length - lengths[:, 0])

    def advance(self) -> None:
        """The slot is written; the next token goes to the one after it."""
        self.slot.add_(1)

    def prefill_cache(self, windows: list[int | None]) -> Cache:
        """What a Hugging Face forward of the whole prompt takes as its cache."""
        pairs = zip(self.keys, self.values, windows, strict=True)
        return Cache(layers=[PrefillLayer(*pair) for pair in pairs])


class PrefillLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keeps what the prefill computes, and hands it back as it came: nothing is before a prompt."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, window: int | None) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_sliding = window is not None
        self.sliding_window = window
        self.is_initialized = True

    def lazy_initialization(self, *_states: Any) -> None:
        """The buffers are there from the start."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[b, K, n, H] of the n slots of the prompt."""
        length = key_states.shape[2]
        self.keys[:, :length] = key_states.transpose(1, 2)
        self.values[:, :length] = value_states.transpose(1, 2)
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self.keys.shape[1]

    get_max_cache_shape = get_max_length
