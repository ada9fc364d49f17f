"""What a point will need: predicted memory of its fullest rank, and the time of its passes.

    t tensor-parallel ranks, p stages, b bytes per value

What cannot be predicted is None, and `no_time` says why. A point without prompt_tokens has prompts
of unknown length, so its memory is a lower bound.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perfkit.calibrate.store import find_calibration
from perfkit.collect.plan import parse_split, resolve_microbatches
from perfkit.collect.settings import RunSettings
from perfkit.errors import ConfigError
from perfkit.predict.gpus import Gpu
from perfkit.predict.memory import GIB, Workload, rank_parts, verdict
from perfkit.predict.network import Network
from perfkit.predict.plan import Plan, workload
from perfkit.predict.rates import Rates, rates_from_calibration, rates_from_gpu
from perfkit.predict.spec import ModelSpec, dtype_bytes
from perfkit.predict.tensors import local_tensors
from perfkit.predict.time import predict
from perfkit.schema import read_json
from perfkit.study.points import Placement
from perfkit.study.systems import System
from perfkit.study.tables import DEFAULTS

QUANTISED_ROLES, SCALE_BYTES = ("qkv", "o", "gate_up", "down"), 4
"""matrices whose values are held in one byte each, with an fp32 scale for each row"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the points of a plan will run on, as far as predictions need it."""

    name: str
    gpu: Gpu | None = None
    """as models/gpus.toml knows it"""
    network_bytes_per_s: float | None = None
    """of each GPU, one direction"""
    device_name: str | None = None
    """this machine's own GPU or processor, where points run here: it may have been calibrated"""
    host_memory_bytes: int | None = None
    """of the one machine that all ranks of a point share"""
    models_dir: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Predicted, never measured."""

    memory_bytes: float
    """of the fullest rank"""
    at_least: bool
    """the prompts' length is not known"""
    fits: str | None
    """fits, tight, does not fit; None when the memory is not known well enough"""
    pass_s: float | None
    """one pass, from the request to the last token"""
    passes_s: float | None
    """all passes of a run: warm-up, timed and captured; without starting and loading"""
    unfit: str | None
    """why the point should not be run, with the figures"""
    no_time: str | None
    """why pass_s is None"""


def target_of(system: System, gpu: Gpu | None, models_dir: Path | None = None) -> Target:
    """A cluster of models/systems."""
    network = system.bytes_per_s_per_gpu
    return Target(name=system.name, gpu=gpu, network_bytes_per_s=network, models_dir=models_dir)


def forecast(
    settings: Mapping[str, Any],
    spec: ModelSpec,
    target: Target,
    placement: Placement | None = None,
) -> Forecast:
    """The forecast of one point that may run."""
    plan = plan_of(settings, spec)
    device, quantize = settings["device"], settings.get("quantize", "none")
    held = [
        rank_bytes(spec, plan, device, quantize, tp_rank=tp_rank, pp_rank=pp_rank)
        for pp_rank in range(plan.pp)
        for tp_rank in range(plan.tp)
    ]
    gpu = target.gpu if device == "cuda" else None
    pass_s, no_time = predicted_pass(settings, spec, plan, target, placement)
    return Forecast(
        memory_bytes=max(held),
        at_least="prompt_tokens" not in settings,
        fits=fits(max(held), gpu) if gpu else None,
        pass_s=pass_s,
        passes_s=None if pass_s is None else pass_s * num_passes(settings),
        unfit=unfit(max(held), gpu) if gpu else unfit_here(sum(held), device, target),
        no_time=no_time,
    )


def plan_of(settings: Mapping[str, Any], spec: ModelSpec) -> Plan:
    """A point as the predictor wants it; prompts of unknown length have one token."""
    on_gpu = settings["device"] == "cuda"
    batch, pp = settings["batch"], settings["pp"]
    return Plan(
        tp=settings["tp"],
        pp=pp,
        batch=batch,
        microbatches=resolve_microbatches(settings.get("microbatches"), batch, pp),
        prompt_tokens=settings.get("prompt_tokens", 1),
        new_tokens=settings.get("new_tokens", DEFAULTS["new_tokens"]),
        dtype=settings.get("dtype") or ("bfloat16" if on_gpu else "float32"),
        decode=settings.get("decode", "eager"),
        sharding="hf-tp" if settings.get("sharding") == "hf-tp" else "deepspeed",
        split=parse_split(settings.get("split"), spec, pp),
    )


def num_passes(settings: Mapping[str, Any]) -> int:
    """Warm-up and timed passes, and the captured one where a collector may ask for it."""
    given = {**DEFAULTS, **settings}
    captured = given["collect"] != "none"
    return int(given["warmup"]) + int(given["repeats"]) + int(captured)


def rank_bytes(
    spec: ModelSpec, plan: Plan, device: str, quantize: str, *, tp_rank: int, pp_rank: int
) -> float:
    """Bytes of one rank; 8-bit weights hold 1 byte a value and 4 a row instead of b a value.

    Leaves out the one matrix at a time that a prefill turns back into b bytes a value.
    """
    shape = {"tp": plan.tp, "pp": plan.pp, "tp_rank": tp_rank, "pp_rank": pp_rank}
    work: Workload = workload(plan, device)
    parts = rank_parts(spec, work, split=plan.split, **shape)
    total = float(sum(parts.values()))
    if quantize == "none":
        return total
    held = local_tensors(spec, split=plan.split, sharding=plan.sharding, **shape)
    cut = [t for t in held if t.role in QUANTISED_ROLES and len(t.shape) == 2]
    width = dtype_bytes(plan.dtype)
    return total - sum(t.num_values * (width - 1) - SCALE_BYTES * t.shape[0] for t in cut)


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


def unfit_here(all_bytes: float, device: str, target: Target) -> str | None:
    """Why ranks on one machine's processors do not fit; its own processes are not counted."""
    memory = target.host_memory_bytes
    if device != "cpu" or memory is None or all_bytes <= memory:
        return None
    return f"its ranks need {all_bytes / GIB:.3g} GiB, {target.name} has {memory / GIB:.3g} GiB"


def predicted_pass(
    settings: Mapping[str, Any],
    spec: ModelSpec,
    plan: Plan,
    target: Target,
    placement: Placement | None,
) -> tuple[float | None, str | None]:
    """(seconds of one pass, None), or (None, why it is not predicted)."""
    if "prompt_tokens" not in settings:
        return None, "the prompts' length is not known: the study gives no prompt_tokens"
    if (quantize := settings.get("quantize", "none")) != "none":
        return None, f"the time of {quantize} kernels is not predicted"
    try:
        rates = rates_of(settings, plan, target)
        if placement is not None and placement.nodes > 1 and settings["device"] == "cuda":
            rates = replace(rates, network=network_of(target, placement))
        return float(predict(spec, rates, plan)["end_to_end_s"]), None
    except ConfigError as error:
        return None, str(error).partition("\n")[0]


def rates_of(settings: Mapping[str, Any], plan: Plan, target: Target) -> Rates:
    """This machine's own calibration, or the GPU's; ConfigError where there is neither."""
    device = settings["device"]
    if target.device_name is not None:
        measured = find_calibration(
            RunSettings(model_id="", model_folder=None, tp=plan.tp, pp=plan.pp, dtype=plan.dtype),
            target.device_name,
        )
        document = read_json(measured) if measured else {}
        # A GPU's calibration without curves knows less than the curves shipped for that GPU.
        if document.get("device") == device and (device == "cpu" or "curves" in document):
            return rates_from_calibration(document, plan.dtype)
    if device == "cpu":
        raise ConfigError(
            f"no rates of {plan.dtype} are known for the processors of {target.name} with the tp "
            "and pp of these points: perfkit calibrate --tp T --pp P, run there, measures them"
        )
    if target.gpu is None:
        raise ConfigError(f"models/gpus.toml does not know the GPU of {target.name}")
    return rates_from_gpu(target.gpu, plan.dtype, target.models_dir)


def network_of(target: Target, placement: Placement) -> Network:
    """Between the nodes of a job."""
    if target.network_bytes_per_s is None:
        raise ConfigError(f"no network bandwidth is known of {target.name}")
    return Network(gpus_per_node=placement.tasks_per_node, bytes_per_s=target.network_bytes_per_s)
