"""What one run is asked to do: one frozen record, written to run.json and read by every rank."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

DTYPES = ("float32", "bfloat16", "float16")
LOADS = ("safetensors", "dummy")
DECODES = ("eager", "graph")
SHARDINGS = ("autotp", "hf-tp", "none")


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
