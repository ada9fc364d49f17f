"""The arithmetic of one decode step, plain: what each function computes, on any device.

    b sequences, D hidden, N query heads, K kv heads, H head size, S slots, F intermediate

At one new token a sequence these are a few KiB each: their time is the number of kernels. On a GPU
decode_triton does each with one kernel; these are what it is compared with, and what runs
elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from perfkit.engine.static_kv import StaticKV


def add_norm(
    hidden: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(hidden + delta, its RMS norm), both [b, D]; rounded where Hugging Face rounds."""
    hidden = hidden + delta
    return hidden, norm(hidden, weight, eps)


def norm(hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS norm over the last dimension, in fp32."""
    wide = hidden.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * (wide * scale).to(hidden.dtype)


def rotate_and_store(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slot: torch.Tensor,
) -> torch.Tensor:
    """Rotary positions for the q and k of [b, N + 2 K, H]; k and v go to slot [1] of [b, S, K, H].

    cos and sin are [b, 1, H] or [1, 1, H], their halves equal (the half-rotated layout). Returns
    the rotated q, [b, N, H].
    """
    kv_heads = keys.shape[2]
    sizes = [qkv.shape[1] - 2 * kv_heads, kv_heads, kv_heads]
    query, key, value = torch.split(qkv, sizes, dim=1)
    keys.index_copy_(1, slot, rotated(key, cos, sin)[:, None])
    values.index_copy_(1, slot, value[:, None])
    return rotated(query, cos, sin)


def rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin


def gated(both: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up of [b, 2 F], gate first."""
    gate, up = both.chunk(2, dim=-1)
    return functional.silu(gate) * up


def attention(
    query: torch.Tensor,
    kv: StaticKV,
    layer: int,
    scale: float,
    window: int | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """[b, N, H] of one query a sequence over its slots in use: those after starts, up to slot.

    `window` is how many of the last ones count; `sinks` [N] are logits that take part in the
    softmax and have no value.
    """
    keys, values = kv.keys[layer], kv.values[layer]
    batch, slots, kv_heads, size = keys.shape
    grouped = query.view(batch, kv_heads, -1, size)
    scores = torch.einsum("bkgh,bskh->bkgs", grouped, keys).float() * scale
    place = torch.arange(slots, device=query.device)
    seen = (place >= kv.starts[:, None]) & (place <= kv.slot)
    if window is not None:
        seen &= place > kv.slot - window
    scores = scores.masked_fill(~seen[:, None, None], float("-inf"))
    if sinks is not None:
        column = sinks.float().view(1, kv_heads, -1, 1).expand(batch, -1, -1, -1)
        scores = torch.cat((scores, column), dim=-1)
    shares = scores.softmax(-1)[..., :slots].to(values.dtype)
    return torch.einsum("bkgs,bskh->bkgh", shares, values).reshape(query.shape)


@dataclass(frozen=True, slots=True)
class Kernels:
    """The functions above, or what stands for them."""

    linear: Callable[..., torch.Tensor] = functional.linear
    add_norm: Callable[..., tuple[torch.Tensor, torch.Tensor]] = add_norm
    norm: Callable[..., torch.Tensor] = norm
    rotate_and_store: Callable[..., torch.Tensor] = rotate_and_store
    attention: Callable[..., torch.Tensor] = attention
    gated: Callable[..., torch.Tensor] = gated
    problem: str | None = None
    """why they are plain although the device could do better"""


def kernels_for(device: torch.device) -> Kernels:
    """Triton kernels on a GPU; plain torch where Triton is missing or cannot compile."""
    if device.type != "cuda":
        return Kernels()
    try:
        from perfkit.engine import decode_triton as fused

        fused.gated(torch.ones(1, 16, device=device))
    except Exception as error:  # Whatever a compiler says, the plain functions do the same.
        first_line = str(error).strip().partition("\n")[0]
        return Kernels(problem=f"{type(error).__name__}: {first_line}")
    return Kernels(
        linear=fused.linear,
        add_norm=fused.add_norm,
        norm=fused.norm,
        rotate_and_store=fused.rotate_and_store,
        attention=fused.attention,
        gated=fused.gated,
    )
