"""What a point will need: predicted memory of its fullest rank, and the time of one pass.

From the system's GPU as models/gpus.toml knows it. A point without prompt_tokens has prompts of
unknown length, so its memory is a lower bound.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perfkit.errors import ConfigError
from perfkit.predict.gpus import Gpu
from perfkit.predict.memory import GIB, Workload, verdict
from perfkit.predict.memory_rows import memory_rows
from perfkit.predict.plan import Plan
from perfkit.predict.rates import rates_from_gpu
from perfkit.predict.spec import ModelSpec
from perfkit.predict.time import predict
from perfkit.submit.points import NEW_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Predicted, never measured."""

    memory_bytes: float
    """of the fullest rank"""
    at_least: bool
    """the prompts' length is not known"""
    fits: str | None
    """fits, tight, does not fit; None when the GPU's memory is not known well enough"""
    pass_s: float | None
    """one pass at the data sheet's rates, which are never reached: a lower bound"""
    unfit: str | None
    """why the point should not be run, with the figures"""


def forecast(settings: Mapping[str, Any], spec: ModelSpec, gpu: Gpu | None) -> Forecast:
    """The forecast of one point that may run."""
    on_gpu = settings["device"] == "cuda"
    dtype = settings.get("dtype") or ("bfloat16" if on_gpu else "float32")
    tp, pp, batch = settings["tp"], settings["pp"], settings["batch"]
    split = settings.get("split")
    layers = tuple(int(part) for part in split.split(",")) if split else None
    new_tokens = settings.get("new_tokens", NEW_TOKENS)
    prompt = settings.get("prompt_tokens")
    microbatches = settings.get("microbatches") or min(pp, batch)
    work = Workload(
        batch=batch,
        context=(prompt or 1) + new_tokens,
        prompt=prompt or 1,
        microbatches=microbatches,
        dtype=dtype,
        device=settings["device"],
        decode=settings.get("decode", "eager"),
    )
    rows = memory_rows(spec, work, tp=tp, pp=pp, split=layers)
    total = max(float(row["total_bytes"]) for row in rows)
    plan = Plan(
        tp=tp,
        pp=pp,
        batch=batch,
        microbatches=microbatches,
        prompt_tokens=prompt or 1,
        new_tokens=new_tokens,
        dtype=dtype,
        split=layers,
    )
    device = gpu if on_gpu else None
    return Forecast(
        memory_bytes=total,
        at_least=prompt is None,
        fits=fits(total, device) if device else None,
        pass_s=pass_s(spec, device, plan) if device and prompt else None,
        unfit=unfit(total, device) if device else None,
    )


def fits(total_bytes: float, gpu: Gpu) -> str | None:
    """memory.verdict; where NVML's figure is unknown, only what cannot fit is certain.

    A GPU sold with n GB never reports more than n GiB: an 80 GB H100 has 79.6, a 40 GB A100 40.0.
    """
    if gpu.memory_bytes is not None:
        return verdict(total_bytes, gpu.memory_bytes)
    return "does not fit" if total_bytes > gpu.nominal_memory_gb * GIB else None


def unfit(total_bytes: float, gpu: Gpu) -> str | None:
    """Why a rank does not fit; None when it may."""
    if fits(total_bytes, gpu) != "does not fit":
        return None
    size = gpu.memory_bytes / GIB if gpu.memory_bytes else gpu.nominal_memory_gb
    unit = "GiB" if gpu.memory_bytes else "GB"
    return f"a rank needs {total_bytes / GIB:.3g} GiB, {gpu.id} has {size:.3g} {unit}"


def pass_s(spec: ModelSpec, gpu: Gpu, plan: Plan) -> float | None:
    """Seconds of one pass; None when a rate of the GPU is unknown."""
    try:
        return float(predict(spec, rates_from_gpu(gpu, plan.dtype), plan)["end_to_end_s"])
    except ConfigError:
        return None
