"""How each supported model family is cut into stages. A new family is one more row.

A stage is the ordinary Hugging Face class with fewer layers, numbered from 0, so that its cache
and mask code sees a short ordinary model. The parts that belong to other stages are taken out.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Family:
    """Names of the parts of a decoder, as in the Hugging Face class and its checkpoints."""

    decoder: str
    """Module that holds embedding, layers and final norm."""
    norm: str
    learned_positions: bool = False
    attention: str = "sdpa"
    """Hugging Face's name of the attention function."""

    @property
    def layers_prefix(self) -> str:
        return f"{self.decoder}.layers."

    @property
    def embedding(self) -> str:
        return f"{self.decoder}.embed_tokens.weight"


LLAMA_LIKE = Family(decoder="model", norm="norm")
FAMILIES = {
    "llama": LLAMA_LIKE,
    "mistral": LLAMA_LIKE,
    "qwen2": LLAMA_LIKE,
    "qwen3": LLAMA_LIKE,
    "opt": Family(decoder="model.decoder", norm="final_layer_norm", learned_positions=True),
    "mixtral": LLAMA_LIKE,
    "qwen3_moe": LLAMA_LIKE,
    # Attention sinks are in no fused kernel that torch has.
    "gpt_oss": Family(decoder="model", norm="norm", attention="eager"),
}


class NoPositions(nn.Module):
    """Stands where OPT adds learned positions: only the first stage may add them."""

    def forward(self, *_args: Any, **_kwargs: Any) -> torch.Tensor:
        return torch.zeros(())


def trim(model: nn.Module, family: Family, *, first: bool, last: bool) -> None:
    """Take out the embedding unless first, the final norm and the head unless last."""
    decoder: Any = model.get_submodule(family.decoder)
    if not first:
        decoder.embed_tokens = nn.Identity()
        if family.learned_positions:
            decoder.embed_positions = NoPositions()
            decoder.project_in = None
    if not last:
        model.lm_head = nn.Identity()
        if family.learned_positions:
            decoder.final_layer_norm = None
            decoder.project_out = None
        else:
            setattr(decoder, family.norm, nn.Identity())
