"""What must be true before a run may go on. Each check has caught a real, silent failure."""

import torch
import torch.distributed as dist
from torch import nn

from perfkit.collect.settings import RunSettings
from perfkit.engine.quantize import parameter_bytes, quantised_bytes
from perfkit.engine.stage import Stage, fresh_rotary
from perfkit.engine.topology import Topology
from perfkit.errors import CheckFailed, ConfigError
from perfkit.predict.memory import GIB, Workload, rank_parts
from perfkit.predict.spec import ModelSpec
from perfkit.predict.tensors import local_tensors

# Logits of tensor-parallel ranks come out of the same all-reduce.
LOGITS_TOLERANCE = 1e-3


def local_bytes(stage: Stage) -> int:
    """Bytes of the parameters this rank holds, each storage once."""
    own = sum(p.numel() * p.element_size() for p in stage.model.parameters())
    return own + quantised_bytes(stage.model)


def predicted_bytes(spec: ModelSpec, topology: Topology, settings: RunSettings) -> int:
    """Bytes of the parameters this rank will hold; quantised weights are never held in 16 bits."""
    held = local_tensors(
        spec,
        tp=topology.tp,
        pp=topology.pp,
        tp_rank=topology.tp_rank,
        pp_rank=topology.pp_rank,
        split=settings.split,
    )
    return parameter_bytes(held, settings)


def check_bytes(stage: Stage, spec: ModelSpec, topology: Topology, settings: RunSettings) -> None:
    """AutoTP can leave a model whole without a word: right tokens, tp times the memory."""
    predicted = predicted_bytes(spec, topology, settings)
    held = local_bytes(stage)
    if held != predicted:
        raise CheckFailed(
            f"rank {topology.rank} holds {held:,} bytes of parameters, {predicted:,} were "
            f"predicted for tp={topology.tp}, pp={topology.pp} of {spec.id}. The model was not "
            "sharded as expected; report this with the versions in run.json.",
        )


def check_fits(
    spec: ModelSpec, settings: RunSettings, topology: Topology, free_bytes: int
) -> str | None:
    """Before loading: ConfigError when weights and KV cache alone need more than is free.

    Returns a warning when only the estimate of activations and workspaces goes beyond it.
    """
    work = Workload(
        batch=settings.batch,
        context=(settings.prompt_tokens or 0) + settings.new_tokens,
        prompt=settings.prompt_tokens,
        microbatches=settings.microbatches,
        dtype=settings.dtype,
        device=settings.device,
        decode=settings.decode,
    )
    parts = rank_parts(
        spec,
        work,
        tp=settings.tp,
        pp=settings.pp,
        tp_rank=topology.tp_rank,
        pp_rank=topology.pp_rank,
        split=settings.split,
    )
    parts["weights_bytes"] = predicted_bytes(spec, topology, settings)
    weights, kv = parts["weights_bytes"], parts["kv_bytes"]
    needed = (
        f"rank {topology.rank} needs {weights / GIB:.1f} GiB for weights and {kv / GIB:.1f} GiB "
        f"for the KV cache of {work.batch} x {work.context} tokens"
    )
    free = f"its GPU has {free_bytes / GIB:.1f} GiB free"
    if weights + kv > free_bytes:
        raise ConfigError(
            f"{needed}; {free}. Nothing was loaded. Use more --tp or --pp, a smaller --batch or "
            "shorter prompts; `perfkit memory` shows what fits.",
        )
    if sum(parts.values()) > free_bytes:
        others = (sum(parts.values()) - weights - kv) / GIB
        return f"{needed}, and about {others:.1f} GiB for activations; {free}: it may not fit"
    return None


def check_no_meta(model: nn.Module) -> None:
    """A tensor left on the meta device has no data."""
    left = [n for n, t in (*model.named_parameters(), *model.named_buffers()) if t.is_meta]
    if left:
        raise CheckFailed(f"{len(left)} tensors were never given data, first {left[0]}.")


def check_rotary(stage: Stage, device: torch.device) -> None:
    """inv_freq is a buffer, so no checkpoint restores it; compare with a fresh module's."""
    for name, module in stage.model.named_modules():
        if not name.endswith("rotary_emb"):
            continue
        fresh = fresh_rotary(module, stage.config, device)
        if not torch.equal(module.get_buffer("inv_freq"), fresh.get_buffer("inv_freq")):
            raise CheckFailed(f"{name}.inv_freq differs from a fresh module's: RoPE is garbage.")


def check_same_logits(logits: torch.Tensor, topology: Topology) -> None:
    """Tensor-parallel ranks must see the same logits, or they pick different tokens."""
    if topology.tp_group is None:
        return
    everyone = [torch.empty_like(logits) for _ in range(topology.tp)]
    dist.all_gather(everyone, logits.contiguous(), group=topology.tp_group)
    scale = float(logits.float().abs().max()) or 1.0
    worst = max(float((other.float() - logits.float()).abs().max()) for other in everyone)
    if not worst <= LOGITS_TOLERANCE * scale:
        raise CheckFailed(
            f"the first logits of the {topology.tp} tensor-parallel ranks of stage "
            f"{topology.pp_rank} differ by {worst:.3g} (largest logit {scale:.3g}).",
        )
