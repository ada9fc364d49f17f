"""What one pass of one rank is: where the rank stands, what goes in, and the kernels it takes."""

from dataclasses import dataclass

import numpy as np

from perfkit.predict.curves import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Where one rank stands in the layout."""

    tp: int
    pp: int
    tp_rank: int
    pp_rank: int
    split: tuple[int, ...] | None = None
    sharding: str = "deepspeed"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pass:
    """One forward of one microbatch; numbers, or arrays of them for many plans of one layout."""

    sequences: Value
    tokens: Value
    """1 in a decode step"""
    context: Value
    """mean number of tokens that the last new token attends to"""
    bytes_per_value: int
    eager: bool = True
    reached: Value | None = None
    """experts of a layer that the rows go to; None where only even routing can be assumed"""

    @property
    def rows(self) -> Value:
        return self.sequences * self.tokens

    @property
    def prefill(self) -> bool:
        return bool(np.max(self.tokens) > 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kernels:
    """`count` kernels of one kind; all other numbers are of one of them."""

    kind: str
    """a curve of predict/curves.py: gemm, decode_attention, prefill_attention, elementwise,
    strided, norm, choice, grouped; or product: a captured step's, a vector's curve at one row and
    a gemm's above"""
    count: int
    flops: Value
    num_bytes: Value
    rows: Value = 0
    """m of a GEMM"""
    weight_values: int = 0
    """n * k of a GEMM"""
    heads: Value = 0
    """b N of a decode attention"""
    tokens: Value = 0
    """S of a prefill attention"""


def several(kind: str, layers: int, per_layer: int, num_bytes: Value) -> Kernels:
    """`per_layer` kernels of each layer that share its bytes evenly."""
    return Kernels(kind=kind, count=layers * per_layer, flops=0.0, num_bytes=num_bytes / per_layer)
