"""How long does a kernel take? Curves of a few parameters each, fitted to measured points.

Symbols: F floating-point operations, Q bytes moved, b sequences, N query heads, H head size,
S context. Arguments may be numbers or arrays that broadcast; results are seconds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Value = Any
"""a float, or an array of them"""

MOVED: Mapping[str, Callable[[int], float]] = {
    "all_reduce": lambda group: 2 * (group - 1) / group,
    "all_gather": lambda group: (group - 1) / group,
    "reduce_scatter": lambda group: (group - 1) / group,
    "send_recv": lambda group: 1.0,
    "broadcast": lambda group: 1.0,
}
"""bytes over a rank's link for each byte of the message (nccl-tests, PERFORMANCE.md)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """t = ((F / flops_per_s)^q + (Q / bytes_per_s + ramp_s)^q)^(1/q) + start_s

    F = 2 m n k, Q = e (m k + n k + m n) for [m, k] x [k, n] of e bytes a value. Arithmetic and
    memory overlap more the larger q is (infinite: a roofline); ramp_s is what filling the memory
    pipeline costs, start_s launching and draining. Held out: 8.1 % for single shapes, 4.4 % for
    sums of five (H200, bf16: 297 shapes fitted, 23,605 others of aiconfigurator-core 0.12.0).
    """

    flops_per_s: float
    bytes_per_s: float
    start_s: float
    ramp_s: float = 0.0
    sharpness: float = 4.0

    def seconds(self, flops: Value, num_bytes: Value) -> Value:
        q = self.sharpness
        by_flops, by_bytes = flops / self.flops_per_s, num_bytes / self.bytes_per_s + self.ramp_s
        most = np.maximum(by_flops, by_bytes)
        # Scaled by the larger one: powers of microseconds would underflow at a large q.
        together = (by_flops / most) ** q + (by_bytes / most) ** q
        return most * together ** (1 / q) + self.start_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """t = (start_s^q + (Q / bytes_per_s)^q)^(1/q): a kernel that reads, writes and little else.

    q = 1 adds both, a large q takes the larger. H200: a + b of 4 KiB 1.5 us, of 1 GiB 245 us.
    """

    bytes_per_s: float
    start_s: float
    sharpness: float = 1.0

    def seconds(self, num_bytes: Value) -> Value:
        q, moving_s = self.sharpness, num_bytes / self.bytes_per_s
        if q == 1:
            return self.start_s + moving_s
        return (self.start_s**q + moving_s**q) ** (1 / q)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeAttention:
    """t = (start_s^q + (b N head_s + Q / bytes_per_s)^q)^(1/q), Q = 2 b S K H e of cache.

    One query a sequence. H200, bf16, N 32, K 8, H 128: b 1, S 2048 9 us; b 32, S 2048 74 us.
    """

    bytes_per_s: float
    start_s: float
    head_s: float
    sharpness: float = 1.0

    def seconds(self, num_bytes: Value, heads: Value) -> Value:
        """`heads` is b N."""
        q = self.sharpness
        work = heads * self.head_s + num_bytes / self.bytes_per_s
        return (self.start_s**q + work**q) ** (1 / q)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillAttention:
    """t = start_s + 4 b N H S (S + ramp_tokens) / 2 / flops_per_s: causal, all S queries.

    ramp_tokens are masked pairs that tiles on the diagonal compute, and tiles too few to fill the
    GPU. H200, bf16, N 32, H 128: S 2048 83 us, S 8192 893 us.
    """

    flops_per_s: float
    start_s: float
    ramp_tokens: float

    def seconds(self, flops: Value, tokens: Value) -> Value:
        """`flops` are 4 b N H S^2 / 2."""
        return self.start_s + flops * (1 + self.ramp_tokens / tokens) / self.flops_per_s


@dataclass(frozen=True, slots=True)
class Regime:
    """start_s + moved bytes / bytes_per_s."""

    start_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Collective:
    """t = min over regimes of start_s + moved / bytes_per_s: NCCL changes protocol with size.

    moved = MOVED[kind](n) S of a message of S bytes in a group of n. Held out, every other size:
    4.6 % with three regimes, 5.5 with two (H200, NCCL 2.29, 0.5 KB to 512 MB, n 2, 4, 8, from
    aiconfigurator-core 0.12.0).
    """

    kind: str
    group: int
    regimes: tuple[Regime, ...]

    def seconds(self, num_bytes: Value) -> Value:
        moved = MOVED[self.kind](self.group) * num_bytes
        times = [regime.start_s + moved / regime.bytes_per_s for regime in self.regimes]
        return np.minimum.reduce(times) if len(times) > 1 else times[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """What is known of one GPU's kernels in one dtype."""

    gemm: Gemm
    vector: Stream
    """the decode step's product of a weight with one row"""
    decode_attention: DecodeAttention
    prefill_attention: PrefillAttention
    elementwise: Stream
    strided: Stream
    """elementwise kernels on transposed or expanded tensors, and conversions between dtypes"""
    norm: Stream | None = None
    """a captured step's addition and norm"""
    choice: Stream | None = None
    """the likeliest token of one row of logits, one block of the GPU a row"""
    grouped: Gemm | None = None
    """rows sorted by expert times their experts' weights"""
    collectives: Mapping[tuple[str, int], Collective] = field(default_factory=dict)
    replay_s: float = 15e-6
    """between the last kernel of a replayed step and the first of the next"""
    hop_s: float | None = None
    """a pipeline hop beyond the message: host, launch, arrival"""
    return_s: float | None = None
    """the chosen token from the last stage's GPU to the first stage's"""
    pass_host_s: float | None = None
    """the host's part of an eager pass outside its layers"""
    spread: Mapping[str, float] = field(default_factory=dict)
    """standard deviation of log(predicted / measured) of each kernel class"""
    provenance: Mapping[str, str] = field(default_factory=dict)


def scaled_curves(curves: Curves, factor: float) -> Curves:
    """Every rate times `factor`, every latency divided by it."""
    regimes = {
        key: replace(
            one,
            regimes=tuple(Regime(r.start_s / factor, r.bytes_per_s * factor) for r in one.regimes),
        )
        for key, one in curves.collectives.items()
    }
    return replace(
        curves,
        **{name: scaled_kernel(curve, factor) for name, curve in kernel_curves(curves).items()},
        collectives=regimes,
        replay_s=curves.replay_s / factor,
        hop_s=None if curves.hop_s is None else curves.hop_s / factor,
        return_s=None if curves.return_s is None else curves.return_s / factor,
        pass_host_s=None if curves.pass_host_s is None else curves.pass_host_s / factor,
    )


KERNELS: Mapping[str, type] = {
    "gemm": Gemm,
    "vector": Stream,
    "decode_attention": DecodeAttention,
    "prefill_attention": PrefillAttention,
    "elementwise": Stream,
    "strided": Stream,
}
"""the curves of single kernels, and their forms"""
LATER_KERNELS: Mapping[str, type] = {"norm": Stream, "choice": Stream, "grouped": Gemm}
"""those that older calibrations lack"""
RATES = ("flops_per_s", "bytes_per_s")
LATENCIES = ("start_s", "ramp_s", "head_s")


def kernel_curves(curves: Curves) -> dict[str, Any]:
    """{kind: curve} of all that are known."""
    found = {name: getattr(curves, name) for name in (*KERNELS, *LATER_KERNELS)}
    return {name: curve for name, curve in found.items() if curve is not None}


def scaled_kernel(curve: Any, factor: float) -> Any:
    """One kernel's curve with its rates times `factor`, its latencies divided by it."""
    rates = {name: getattr(curve, name) * factor for name in RATES if hasattr(curve, name)}
    times = {name: getattr(curve, name) / factor for name in LATENCIES if hasattr(curve, name)}
    return replace(curve, **rates, **times)
