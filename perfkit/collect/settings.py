"""What one run is asked to do: one frozen record, written to run.json and read by every rank."""

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from perfkit.errors import ConfigError, ToolMissing, one_of
from perfkit.predict.spec import spec_from_config

DTYPES = ("float32", "bfloat16", "float16")
LOADS = ("safetensors", "dummy")
DECODES = ("eager", "graph")
SHARDINGS = ("autotp", "hf-tp", "none")
QUANTIZES = ("none", "int8", "fp8")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """The resolved settings of an engine run; every field has one meaning on every rank."""

    model_id: str
    model_folder: str | None
    """Folder with config.json, tokenizer and safetensors; None when only a model card is known."""
    tp: int = 1
    pp: int = 1
    split: tuple[int, ...] | None = None
    """Layers of each stage; None splits as evenly as possible."""
    batch: int = 1
    microbatches: int = 1
    prompt_tokens: int | None = None
    """Exact tokens of every prompt; None keeps each prompt's own length and pads on the left."""
    new_tokens: int = 32
    stop_at_eos: bool = False
    dtype: str = "float32"
    quantize: str = "none"
    """Weights of the decoder blocks' linear layers in 8 bits; all else, embedding and head too, in
    dtype."""
    load: str = "safetensors"
    sharding: str = "autotp"
    """What cuts a stage between tensor-parallel ranks: DeepSpeed AutoTP, or a reference for it."""
    decode: str = "eager"
    """graph replays each decode step as one CUDA graph."""
    prompts: str | None = None
    """A user's prompt file; None takes the shipped prompts."""
    warmup_passes: int = 1
    timed_passes: int = 3
    device: str = "cpu"
    seed: int = 0
    logprobs: int = 0
    """Most likely tokens whose log probabilities are kept for each new token, by a pass after the
    timed ones; 0 for no such pass."""
    follow: str | None = None
    """A run folder or baseline file: its prompts are run, and its tokens are scored."""

    @property
    def num_ranks(self) -> int:
        return self.tp * self.pp

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def settings_from_dict(content: Mapping[str, Any]) -> RunSettings:
    """The settings that run.json carries; JSON lists become tuples again."""
    known = {field.name: content[field.name] for field in fields(RunSettings)}
    if known["split"] is not None:
        known["split"] = tuple(known["split"])
    return RunSettings(**known)


def check_quantize(quantize: str, model: Mapping[str, Any]) -> None:
    """ConfigError or ToolMissing when this model's weights cannot be quantised here.

    `model` is what run.json says of it: id and config.
    """
    one_of("--quantize", quantize, QUANTIZES)
    if quantize == "none":
        return
    spec = spec_from_config(model["config"], model_id=model["id"])
    if spec.num_experts:
        raise ConfigError(
            f"--quantize {quantize}: {spec.id} has {spec.num_experts} experts a layer, and only "
            "ordinary linear layers are quantised. Use --quantize none, or a model without "
            "experts.",
        )
    if importlib.util.find_spec("torchao") is None:
        raise ToolMissing(
            f"--quantize {quantize}: torchao cannot be imported by {sys.executable}. In the "
            "environment of your torch: pip install --no-deps 'torchao>=0.18,<0.19'",
        )
