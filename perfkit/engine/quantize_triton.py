"""A few rows times 8-bit weights in one kernel: each value is read once, as it is stored.

    b rows, n outputs, D inputs

A decode step is the reading of its weights, so their 8 bits must be what memory is asked for; the
plain product writes them out in 16 bits first. Values become numbers of the inputs' dtype, exactly,
on the way to the tensor cores, and the scale is applied to the fp32 sum.
"""

import torch
import triton
import triton.language as tl

MOST_ROWS = 64
FEWEST_ROWS = 16
"""rows of the smallest matrix product on tensor cores"""
COLUMNS, MOST_INPUTS, FEWEST_INPUTS = 16, 256, 32
"""outputs of a program, and inputs of one of its steps: a power of two that divides D"""


@triton.jit
def _product_kernel(
    inputs,
    values,
    scale,
    bias,
    out,
    B,
    N,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    BIAS: tl.constexpr,
):
    rows = tl.arange(0, ROWS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    present = (rows < B)[:, None]
    # Columns beyond the last repeat it, and are not stored: an 8-bit load needs no mask.
    near = tl.minimum(columns, N - 1)
    acc = tl.zeros([ROWS, COLUMNS], tl.float32)
    source = values + near[None, :].to(tl.int64) * D
    for first in range(0, D, BLOCK):
        at = first + tl.arange(0, BLOCK)
        x = tl.load(inputs + rows[:, None] * D + at[None, :], mask=present, other=0.0)
        acc = tl.dot(x, tl.load(source + at[:, None]).to(x.dtype), acc)
    found = acc * tl.load(scale + near)[None, :]
    if BIAS:
        found += tl.load(bias + near).to(tl.float32)[None, :]
    place = out + rows[:, None] * N + columns[None, :]
    tl.store(place, found.to(out.dtype.element_ty), mask=present & (columns < N)[None, :])


def takes(inputs: torch.Tensor) -> bool:
    """Whether the kernel is for inputs [.., D]: few rows, of 16 bits, D a multiple of 32."""
    columns = inputs.shape[-1]
    few = inputs.numel() <= MOST_ROWS * columns
    return few and inputs.element_size() == 2 and columns % FEWEST_INPUTS == 0


def linear(
    inputs: torch.Tensor,
    values: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """[.., D] times the dequantised [n, D] transposed; scale is [n, 1]."""
    count, size = values.shape
    rows = inputs.reshape(-1, size).contiguous()
    padded = max(FEWEST_ROWS, triton.next_power_of_2(len(rows)))
    out = torch.empty(len(rows), count, dtype=inputs.dtype, device=inputs.device)
    _product_kernel[(triton.cdiv(count, COLUMNS),)](
        rows,
        values,
        scale,
        scale if bias is None else bias,
        out,
        len(rows),
        count,
        size,
        padded,
        COLUMNS,
        min(MOST_INPUTS, size & -size),
        bias is not None,
        num_warps=4,
        num_stages=4 if padded <= 32 else 2,  # at most 80 KiB of shared memory
    )
    return out.view(*inputs.shape[:-1], count)
