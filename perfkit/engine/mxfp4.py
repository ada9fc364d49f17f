"""MXFP4 as gpt-oss is published: 4-bit values, 32 of them share a scale.

Source: OCP Microscaling Formats (MX) 1.0, E2M1 elements with an E8M0 scale. Dequantised when the
weights are loaded: this engine computes in the run's own dtype.
"""

import torch

BLOCK = 32
"""values that share a scale; 16 bytes"""
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
SCALE_BIAS = 127


def dequantise(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Bytes [..., n, 16] and scales [..., n] -> fp32 [..., 32 n].

    A byte holds two values, the low half first; a value is its magnitude, negative from 8 on,
    times 2 ** (scale - 127).
    """
    table = torch.tensor((*MAGNITUDES, *(-m for m in MAGNITUDES)), device=blocks.device)
    codes = torch.stack((blocks & 0x0F, blocks >> 4), dim=-1).flatten(-2)
    exponents = scales.to(torch.int32)[..., None] - SCALE_BIAS
    return torch.ldexp(table[codes.int()], exponents).flatten(-2)
