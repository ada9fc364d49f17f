"""How long is one pass of one rank? Its kernels by their curves, its host, its all-reduces."""

from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from perfkit.predict.curves import Curves, Stream, Value
from perfkit.predict.experts import EXPERT_SPREAD, GROUPED_PRODUCT
from perfkit.predict.kernels import Kernels
from perfkit.predict.plan import Plan, decode_pass, prefill_pass
from perfkit.predict.rates import Compute, Rates
from perfkit.predict.schedule import PassTime
from perfkit.predict.spec import ModelSpec
from perfkit.predict.work import DISPATCHES_PER_PASS, PassWork, pass_work

COMM_SPREAD = 0.15
"""of an all-reduce in its place: its ranks never come at the same time"""
STRIDED_SPREAD = 0.15
"""at least, of strided kernels: those of a layer are not the ones that were measured one by one"""
UNKNOWN_SPREAD = 0.2
"""of kernels and hosts whose fit left no errors: a roofline, an older calibration"""


def pass_time(work: PassWork, rates: Rates, plan: Plan, *, eager: bool) -> PassTime:
    """Seconds of the rank's kernels, summed by what limits them; host and comm beside it."""
    compute = rates.at(plan.active_ranks)
    spread = compute.curves.spread if compute.curves else {}
    device_s = flops_bound_s = variance = 0.0
    for kernel in work.kernels:
        one_s, flops_bound = kernel_time(kernel, compute)
        seconds = kernel.count * one_s
        device_s = device_s + seconds
        flops_bound_s = flops_bound_s + seconds * flops_bound
        variance = variance + (seconds * spread_of(kernel, spread)) ** 2
    comm_s = sum(n * rates.all_reduce_s(plan.tp, size) for n, size in work.all_reduces)
    variance = variance + (comm_s * COMM_SPREAD) ** 2
    late = skew(plan.tp, rates) if eager else 1.0
    own_host_s = eager_host_s(work, compute) if eager else compute.dispatch_s
    return PassTime(
        device_s=device_s,
        flops_bound_s=flops_bound_s,
        host_s=own_host_s * late,
        wait_s=own_host_s * (late - 1),
        comm_s=comm_s,
        one_queue=rates.device == "cpu",
        fixed_s=compute.curves.replay_s if compute.curves else 0.0,
        device_error_s=np.sqrt(variance),
        host_spread=spread.get("host", UNKNOWN_SPREAD),
    )


def eager_host_s(work: PassWork, compute: Compute) -> float:
    """Host seconds of an eager pass: its operators, those outside the layers as measured, if so."""
    fixed = compute.curves.pass_host_s if compute.curves else None
    if fixed is None:
        return work.dispatches * compute.dispatch_s
    return (work.dispatches - DISPATCHES_PER_PASS) * compute.dispatch_s + fixed


def class_seconds(
    spec: ModelSpec, rates: Rates, plan: Plan, phase: str, *, tp_rank: int, pp_rank: int
) -> dict[str, float]:
    """Seconds of one rank's kernels in one pass, by kind, and of its all-reduces as `comm`."""
    compute = rates.at(plan.active_ranks)
    step = prefill_pass(plan) if phase == "prefill" else decode_pass(plan)
    work = pass_work(spec, plan.shard(tp_rank, pp_rank), step)
    found: dict[str, float] = {}
    for kernel in work.kernels:
        seconds = kernel.count * float(kernel_time(kernel, compute)[0])
        found[kernel.kind] = found.get(kernel.kind, 0.0) + seconds
    reduces = (n * float(rates.all_reduce_s(plan.tp, size)) for n, size in work.all_reduces)
    return {**found, "comm": sum(reduces)}


def spread_of(kernel: Kernels, spread: Mapping[str, float]) -> Value:
    """Standard deviation of log(predicted / measured) of the kernel's curve."""
    if kernel.kind == "grouped":
        # A fit's own error knows nothing of how many experts a text reaches.
        return max(EXPERT_SPREAD, spread.get("grouped", EXPERT_SPREAD))
    if kernel.kind == "strided":
        return max(STRIDED_SPREAD, spread.get("strided", STRIDED_SPREAD))
    if kernel.kind != "product":
        return spread.get(kernel.kind, UNKNOWN_SPREAD)
    one, more = (spread.get(name, UNKNOWN_SPREAD) for name in ("vector", "gemm"))
    return np.where(kernel.rows == 1, one, more)


def skew(ranks: int, rates: Rates) -> float:
    """By how much the slowest of several hosts is later than one: each all-reduce waits for it.

    1 + spread * E[largest of t normal values], by Blom's approximation: 1.15 for two hosts that
    differ by 0.25 of a layer's time.
    """
    spread = rates.curves.spread.get("host", 0.0) if rates.curves else 0.0
    if ranks == 1 or not spread:
        return 1.0
    return 1 + spread * NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25))


def kernel_time(kernel: Kernels, compute: Compute) -> tuple[Value, Value]:
    """(seconds of one kernel, arithmetic limits it), by the curve of its kind.

    Without curves: max(flops / rate, bytes / bandwidth), and a GEMM takes its time from the
    measured curve over m where a calibration has one.
    """
    rate = compute.gemm_flops_per_s
    if kernel.kind.endswith("attention"):
        rate = compute.attention_flops_per_s or rate
    by_flops, by_bytes = kernel.flops / rate, kernel.num_bytes / compute.read_bytes_per_s
    if compute.curves is not None:
        return curve_seconds(kernel, compute.curves), by_flops > by_bytes
    if kernel.kind in ("gemm", "product"):
        args = (kernel.rows, kernel.weight_values, kernel.flops, kernel.num_bytes)
        return compute.gemm_s(*args), by_flops > by_bytes
    return np.maximum(by_flops, by_bytes), by_flops > by_bytes


def curve_seconds(kernel: Kernels, curves: Curves) -> Value:
    """Seconds of one kernel."""
    match kernel.kind:
        case "gemm":
            return curves.gemm.seconds(kernel.flops, kernel.num_bytes)
        case "product":
            several = curves.gemm.seconds(kernel.flops, kernel.num_bytes)
            return np.where(kernel.rows == 1, curves.vector.seconds(kernel.num_bytes), several)
        case "grouped" if curves.grouped:
            return curves.grouped.seconds(kernel.flops, kernel.num_bytes)
        case "grouped":
            return GROUPED_PRODUCT * curves.gemm.seconds(kernel.flops, kernel.num_bytes)
        case "decode_attention":
            return curves.decode_attention.seconds(kernel.num_bytes, kernel.heads)
        case "prefill_attention":
            return curves.prefill_attention.seconds(kernel.flops, kernel.tokens)
        case _:
            stream: Stream = getattr(curves, kernel.kind) or curves.elementwise
            return stream.seconds(kernel.num_bytes)
