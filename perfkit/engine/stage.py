"""One pipeline stage of one tensor-parallel rank: built on meta, sharded, then filled.

build (meta, no memory) -> shard (AutoTP) -> rebuild rotary -> load own slices -> forward
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PretrainedConfig

from perfkit.collect.settings import RunSettings
from perfkit.engine import quantize
from perfkit.engine.families import FAMILIES, Family, trim
from perfkit.engine.sharding import shard
from perfkit.engine.topology import Topology

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(slots=True)
class Stage:
    """A stage and how to run it. Hidden states are [b, q, D], logits [b, V]."""

    model: nn.Module
    decoder: nn.Module
    head: nn.Module
    family: Family
    config: PretrainedConfig
    layers: range
    first: bool
    last: bool

    @property
    def windows(self) -> list[int | None]:
        """Tokens that each layer looks back on; None where it sees all."""
        window = getattr(self.config, "sliding_window", None)
        kinds = getattr(self.config, "layer_types", None)
        if kinds is None:
            return [window] * len(self.layers)
        return [window if kind == "sliding_attention" else None for kind in kinds]

    def new_cache(self) -> DynamicCache:
        """A KV cache for one microbatch; from the stage's config, so sliding windows hold."""
        return DynamicCache(config=self.config)

    def forward(
        self,
        inputs: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        cache: DynamicCache,
    ) -> torch.Tensor:
        """Token ids [b, q] (first stage) or hidden [b, q, D] -> hidden, or logits when last.

        The head sees the last position only: all positions of a 2048-token prefill of a 70B
        model at batch 8 would be 4.2 GB of logits.
        """
        name = "input_ids" if self.first else "inputs_embeds"
        hidden: torch.Tensor = self.decoder(
            **{name: inputs},
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        if not self.last:
            return hidden
        logits: torch.Tensor = self.head(hidden[:, -1:])[:, -1]
        return logits


def build_stage(
    settings: RunSettings, model_config: Mapping[str, Any], layers: range, topology: Topology
) -> Stage:
    """An empty, sharded stage on the rank's device; its weights are still to be loaded."""
    config = stage_config(model_config, layers)
    family = FAMILIES[config.model_type]
    dtype = DTYPES[settings.dtype]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=family.attention
        )
    trim(model, family, first=topology.first, last=topology.last)
    if settings.quantize != "none":
        quantize.prepare(model, family)
    model = shard(model.eval(), topology, dtype, settings.sharding)
    if settings.quantize != "none":
        quantize.replace_linears(model, family, settings)
    if topology.tp == topology.pp == 1 and config.tie_word_embeddings:
        # to_empty() gives a shared parameter two storages.
        tie_head(model, family)
    rebuild_rotary(model, config, topology.device)
    return Stage(
        model=model,
        decoder=model.get_submodule(family.decoder),
        head=model.get_submodule("lm_head"),
        family=family,
        config=config,
        layers=layers,
        first=topology.first,
        last=topology.last,
    )


def tie_head(model: nn.Module, family: Family) -> None:
    """The head is the embedding again."""
    embedding = model.get_submodule(family.decoder).get_submodule("embed_tokens")
    model.get_submodule("lm_head").weight = embedding.weight


def stage_config(model_config: Mapping[str, Any], layers: range) -> PretrainedConfig:
    """The model's config with this stage's layers only, numbered from 0."""
    content = copy.deepcopy(dict(model_config))
    config = AutoConfig.for_model(content.pop("model_type"), **content)
    layer_types = getattr(config, "layer_types", None)
    config.num_hidden_layers = len(layers)
    if layer_types is not None:
        config.layer_types = [layer_types[index] for index in layers]
    return config


def rebuild_rotary(model: nn.Module, config: PretrainedConfig, device: torch.device) -> None:
    """New rotary modules: to_empty() leaves inv_freq uninitialised, which only shows as nonsense.

    RoPE frequencies are a buffer, so no checkpoint holds them.
    """
    for name, module in list(model.named_modules()):
        if name.endswith("rotary_emb"):
            parent = model.get_submodule(name.rpartition(".")[0])
            parent.rotary_emb = fresh_rotary(module, config, device)


def fresh_rotary(module: nn.Module, config: PretrainedConfig, device: torch.device) -> nn.Module:
    """A new rotary module of the same class; only some transformers take a device argument."""
    with device:
        return type(module)(config=config)
