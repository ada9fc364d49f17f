"""The functions of decode_kernels as Triton kernels: one launch each, attention two.

    b sequences, D hidden, N query heads, K kv heads, G = N / K, H head size, S slots,
    F intermediate

Same arguments and results as the plain functions, which say what each computes. Attention divides
each sequence's slots into parts, one program for each part and kv head (FlashDecoding, Dao et al.
2023), so that one sequence fills a GPU as well as many do; how many slots are in use stays on the
device.
"""

import torch
import triton
import triton.language as tl
from torch.nn import functional

from perfkit.engine.static_kv import StaticKV

BLOCK_SLOTS = 64
PROGRAMS_PER_MULTIPROCESSOR = 4
MOST_PARTS = 64
BLOCK_GATED = 1024
VECTOR_ROWS, VECTOR_BLOCK, VECTOR_WARPS = 1, 2048, 8
"""the fastest of 45 on nine shapes of Llama 8B and 70B, H200"""
FEWEST_ROWS = 16
"""rows of the smallest matrix product on tensor cores"""


@triton.jit
def _norm_kernel(
    hidden,
    delta,
    weight,
    summed,
    normed,
    eps,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
):
    at = tl.arange(0, BLOCK)
    inside = at < D
    row = tl.program_id(0) * D
    x = tl.load(hidden + row + at, mask=inside, other=0.0)
    if ADD:
        more = tl.load(delta + row + at, mask=inside, other=0.0)
        x = (x.to(tl.float32) + more.to(tl.float32)).to(x.dtype)
        tl.store(summed + row + at, x, mask=inside)
    wide = x.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide) / D + eps)
    scaled = (wide * scale).to(x.dtype).to(tl.float32)
    by = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row + at, (scaled * by).to(x.dtype), mask=inside)


def add_norm(
    hidden: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    summed, normed = torch.empty_like(hidden), torch.empty_like(hidden)
    size = hidden.shape[-1]
    _norm_kernel[(hidden.shape[0],)](
        hidden,
        delta,
        weight,
        summed,
        normed,
        eps,
        size,
        triton.next_power_of_2(size),
        True,
        num_warps=8,
    )
    return summed, normed


def norm(hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    normed = torch.empty_like(hidden)
    size = hidden.shape[-1]
    _norm_kernel[(hidden.numel() // size,)](
        hidden,
        hidden,
        weight,
        hidden,
        normed,
        eps,
        size,
        triton.next_power_of_2(size),
        False,
        num_warps=8 if size > 1024 else 1,
    )
    return normed


@triton.jit
def _rotate_kernel(
    qkv,
    cos,
    sin,
    query,
    keys,
    values,
    slot,
    per_row,
    S,
    N: tl.constexpr,
    K: tl.constexpr,
    H: tl.constexpr,
    HALF: tl.constexpr,
):
    row, head = tl.program_id(0), tl.program_id(1)
    at = tl.arange(0, HALF)
    inside = at < H // 2
    source = qkv + (row * (N + 2 * K) + head) * H
    first = tl.load(source + at, mask=inside)
    second = tl.load(source + H // 2 + at, mask=inside)
    if head < N + K:
        c = tl.load(cos + row * per_row + at, mask=inside).to(tl.float32)
        s = tl.load(sin + row * per_row + at, mask=inside).to(tl.float32)
        x, y = first.to(tl.float32), second.to(tl.float32)
        first = (x * c - y * s).to(first.dtype)
        second = (y * c + x * s).to(second.dtype)
    if head < N:
        target = query + (row * N + head) * H
    else:
        place = (row * S + tl.load(slot)) * K
        if head < N + K:
            target = keys + (place + head - N) * H
        else:
            target = values + (place + head - N - K) * H
    tl.store(target + at, first, mask=inside)
    tl.store(target + H // 2 + at, second, mask=inside)


def rotate_and_store(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slot: torch.Tensor,
) -> torch.Tensor:
    batch, slots, kv_heads, size = keys.shape
    heads = qkv.shape[1] - 2 * kv_heads
    query = torch.empty(batch, heads, size, dtype=qkv.dtype, device=qkv.device)
    per_row = cos.stride(0) if cos.shape[0] > 1 else 0
    _rotate_kernel[(batch, heads + 2 * kv_heads)](
        qkv,
        cos,
        sin,
        query,
        keys,
        values,
        slot,
        per_row,
        slots,
        heads,
        kv_heads,
        size,
        triton.next_power_of_2(size // 2),
        num_warps=1,
    )
    return query


@triton.jit
def _gated_kernel(both, out, F: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < F
    gate = tl.load(both + row * 2 * F + at, mask=inside, other=0.0)
    up = tl.load(both + row * 2 * F + F + at, mask=inside, other=0.0)
    wide = gate.to(tl.float32)
    silu = (wide * tl.sigmoid(wide)).to(gate.dtype)
    product = silu.to(tl.float32) * up.to(tl.float32)
    tl.store(out + row * F + at, product.to(gate.dtype), mask=inside)


def gated(both: torch.Tensor) -> torch.Tensor:
    rows, size = both.shape[0], both.shape[1] // 2
    out = torch.empty(rows, size, dtype=both.dtype, device=both.device)
    _gated_kernel[(rows, triton.cdiv(size, BLOCK_GATED))](both, out, size, BLOCK_GATED)
    return out


@triton.jit
def _part_kernel(
    query,
    keys,
    values,
    starts,
    slot,
    sums,
    greatest,
    totals,
    scale,
    window,
    S,
    PARTS,
    K: tl.constexpr,
    G: tl.constexpr,
    H: tl.constexpr,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One part of one sequence's slots, for the G query heads of one kv head."""
    row, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    stop = tl.load(slot) + 1
    start = tl.load(starts + row)
    if window > 0:
        start = tl.maximum(start, stop - window)
    # Whole blocks a part, so that a part never reads what another one reads.
    length = tl.cdiv(tl.cdiv(stop - start, PARTS), BLOCK) * BLOCK
    start += part * length
    stop = tl.minimum(stop, start + length)
    of_group, of_head = tl.arange(0, ROWS), tl.arange(0, WIDE)
    in_group, in_head = of_group < G, of_head < H
    q_at = (row * K * G + head * G + of_group[:, None]) * H + of_head[None, :]
    q = tl.load(query + q_at, mask=in_group[:, None] & in_head[None, :], other=0.0)
    most = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, WIDE], tl.float32)
    for first in range(start, stop, BLOCK):
        at = first + tl.arange(0, BLOCK)
        inside = at < stop
        kv_at = ((row * S + at[:, None]) * K + head) * H + of_head[None, :]
        seen = inside[:, None] & in_head[None, :]
        k = tl.load(keys + kv_at, mask=seen, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(inside[None, :], scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        shrink = tl.exp(most - higher)
        p = tl.exp(scores - higher[:, None])
        v = tl.load(values + kv_at, mask=seen, other=0.0)
        acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        total = total * shrink + tl.sum(p, 1)
        most = higher
    place = ((row * K + head) * G + of_group) * PARTS + part
    tl.store(greatest + place, most, mask=in_group)
    tl.store(totals + place, total, mask=in_group)
    acc_at = place[:, None] * H + of_head[None, :]
    tl.store(sums + acc_at, acc, mask=in_group[:, None] & in_head[None, :])


@triton.jit
def _join_kernel(
    sums,
    greatest,
    totals,
    sinks,
    out,
    N,
    PARTS: tl.constexpr,
    H: tl.constexpr,
    WIDE: tl.constexpr,
    SINKS: tl.constexpr,
):
    """The parts of one query head together."""
    head = tl.program_id(0)
    parts, of_head = tl.arange(0, PARTS), tl.arange(0, WIDE)
    in_head = of_head < H
    each = tl.load(greatest + head * PARTS + parts)
    most = tl.max(each)
    if SINKS:
        sink = tl.load(sinks + head % N).to(tl.float32)
        most = tl.maximum(most, sink)
    weight = tl.exp(each - most)
    total = tl.sum(tl.load(totals + head * PARTS + parts) * weight)
    if SINKS:
        total += tl.exp(sink - most)
    at = (head * PARTS + parts[:, None]) * H + of_head[None, :]
    part = tl.load(sums + at, mask=in_head[None, :], other=0.0)
    whole = tl.sum(part * weight[:, None], 0) / total
    tl.store(out + head * H + of_head, whole.to(out.dtype.element_ty), mask=in_head)


def attention(
    query: torch.Tensor,
    kv: StaticKV,
    layer: int,
    scale: float,
    window: int | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    keys, values = kv.keys[layer], kv.values[layer]
    batch, slots, kv_heads, size = keys.shape
    heads = query.shape[1]
    parts = num_parts(batch * kv_heads, slots, query.device)
    wide = max(FEWEST_ROWS, triton.next_power_of_2(size))
    rows = batch * heads * parts
    sums = torch.empty(rows, size, dtype=torch.float32, device=query.device)
    greatest = torch.empty(rows, dtype=torch.float32, device=query.device)
    totals = torch.empty_like(greatest)
    group = heads // kv_heads
    _part_kernel[(batch, kv_heads, parts)](
        query,
        keys,
        values,
        kv.starts,
        kv.slot,
        sums,
        greatest,
        totals,
        scale,
        window or 0,
        slots,
        parts,
        kv_heads,
        group,
        size,
        max(FEWEST_ROWS, triton.next_power_of_2(group)),
        wide,
        BLOCK_SLOTS,
    )
    out = torch.empty_like(query)
    _join_kernel[(batch * heads,)](
        sums,
        greatest,
        totals,
        query if sinks is None else sinks,
        out,
        heads,
        parts,
        size,
        wide,
        sinks is not None,
    )
    return out


def num_parts(programs: int, slots: int, device: torch.device) -> int:
    """Parts of each sequence's slots: enough programs for every multiprocessor, a power of two."""
    wanted = (
        PROGRAMS_PER_MULTIPROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count
    )
    most = min(MOST_PARTS, triton.cdiv(slots, BLOCK_SLOTS))
    parts = max(1, min(triton.cdiv(wanted, programs), most))
    return int(triton.next_power_of_2(parts))


@triton.jit
def _vector_kernel(
    vector,
    weight,
    bias,
    out,
    N,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    BIAS: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < N
    acc = tl.zeros([ROWS, BLOCK], tl.float32)
    source = weight + rows[:, None].to(tl.int64) * D
    for first in range(0, D, BLOCK):
        at = first + tl.arange(0, BLOCK)
        seen = at < D
        x = tl.load(vector + at, mask=seen, other=0.0).to(tl.float32)
        w = tl.load(source + at[None, :], mask=inside[:, None] & seen[None, :], other=0.0)
        acc += w.to(tl.float32) * x[None, :]
    found = tl.sum(acc, 1)
    if BIAS:
        found += tl.load(bias + rows, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + rows, found.to(out.dtype.element_ty), mask=inside)


def linear(
    inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """[b, D] times [n, D] transposed. One row is no matrix product but the reading of a weight.

    Measured on an H200, bf16, at one row, against cuBLAS: 4096 x 4096 9.7 to 12.6 us,
    28672 x 8192 105 to 109 us; at the speed of a device copy 7.9 and 111 us.
    """
    if inputs.shape[0] > 1:
        return functional.linear(inputs, weight, bias)
    count, size = weight.shape
    out = torch.empty(1, count, dtype=inputs.dtype, device=inputs.device)
    _vector_kernel[(triton.cdiv(count, VECTOR_ROWS),)](
        inputs,
        weight,
        weight if bias is None else bias,
        out,
        count,
        size,
        VECTOR_ROWS,
        VECTOR_BLOCK,
        bias is not None,
        num_warps=VECTOR_WARPS,
    )
    return out
