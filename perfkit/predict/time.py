"""How long does a run take? Work of each rank over rates, then the pipeline's schedule.

    B batch, M microbatches of b = B/M sequences, p stages, T_s seconds of one pass of stage s
    on one microbatch, n new tokens per sequence

Every value is predicted. The equations leave out sampling, padding, contention between a
profiler and the run, and the wait of ranks for each other beyond uneven shards.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from statistics import NormalDist
from typing import Any

import numpy as np

from perfkit.errors import ConfigError
from perfkit.predict.curves import Curves, Stream, Value
from perfkit.predict.memory import Workload, rank_parts
from perfkit.predict.rates import Compute, Rates
from perfkit.predict.schedule import BOTTLENECKS, PassTime, Schedule, bottleneck
from perfkit.predict.spec import ModelSpec, dtype_bytes, spec_from_config
from perfkit.predict.tensors import check_layout
from perfkit.predict.work import Kernels, Pass, PassWork, Shard, hop_bytes, pass_work, same_work

DECODES = ("eager", "graph")
TOKEN_BYTES = 8
"""a token id travels as int64"""
Z90 = NormalDist().inv_cdf(0.95)
MODEL_SPREAD = 0.02
"""of log(predicted / measured), where every curve were exact: gaps, clocks, what is left out"""
COMM_SPREAD = 0.15
"""of an all-reduce in its place: its ranks never come at the same time"""
UNKNOWN_SPREAD = 0.2
"""of kernels and hosts whose fit left no errors: a roofline, an older calibration"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is run: one static batch, prompts of equal length, greedy.

    batch, prompt_tokens and new_tokens may be arrays: many plans of one layout.
    """

    tp: int = 1
    pp: int = 1
    batch: Value = 1
    microbatches: int = 1
    prompt_tokens: Value = 2048
    new_tokens: Value = 128
    dtype: str = "bfloat16"
    decode: str = "eager"
    """eager: each operator dispatched; graph: one launch per decode step, the limit of CUDA
    graphs"""
    sharding: str = "deepspeed"
    split: tuple[int, ...] | None = None

    @property
    def sequences_per_microbatch(self) -> Value:
        """Of the largest microbatch; the engine divides the batch as evenly as possible."""
        return -(-self.batch // self.microbatches)

    @property
    def active_ranks(self) -> int:
        """Ranks at work at the same time: min(M, p) stages of t ranks."""
        return min(self.microbatches, self.pp) * self.tp


def predict_run(
    config: Mapping[str, Any],
    rates: Rates,
    *,
    model_id: str = "model",
    **plan: Any,
) -> dict[str, Any]:
    """Predicted times and memory of one run; keywords are the fields of Plan.

    Returns ttft_s, tpot_s (None without a second token), the ends of their 90 % intervals
    (ttft_p05_s ...), end_to_end_s, tokens_per_s, and `ranks`:
    for each rank its stage, tp_rank, {weights, kv, activation, overhead}_bytes, and for `prefill`
    and `decode` the totals over all microbatches and steps: compute_s (kernels that compute),
    comm_s (collectives and hops received, without waiting), host_s (dispatching; overlaps with
    compute on a GPU) and wall_s of the phase.
    """
    return predict(spec_from_config(config, model_id=model_id), rates, Plan(**plan))


def predict(spec: ModelSpec, rates: Rates, plan: Plan) -> dict[str, Any]:
    """predict_run for a spec and a plan."""
    check_plan(spec, rates, plan)
    prefill, decode = prefill_schedule(spec, rates, plan), decode_schedule(spec, rates, plan)
    found = {name: _plain(value) for name, value in outcome(plan, prefill, decode).items()}
    found["bottleneck"] = BOTTLENECKS[found["bottleneck"]]
    steps = plan.new_tokens - 1
    phases = {
        "prefill": (prefill, plan.microbatches, found["ttft_s"]),
        "decode": (decode, plan.microbatches * steps, steps * _plain(decode.period_s)),
    }
    return {
        **asdict(plan),
        "model": spec.id,
        **found,
        "rates": rates.summary,
        "provenance": dict(rates.provenance),
        "ranks": [
            _rank(spec, plan, phases, rates.device, tp_rank=tp_rank, pp_rank=pp_rank)
            for pp_rank in range(plan.pp)
            for tp_rank in range(plan.tp)
        ],
    }


def outcome(plan: Plan, prefill: Schedule, decode: Schedule) -> dict[str, Value]:
    """Times, throughput, shares of the slowest rank's pass, and its limit as an index of
    BOTTLENECKS; NaN for a TPOT where there is one new token only, and then shares of the prefill.
    """
    steps = plan.new_tokens - 1
    ttft_s, period_s = prefill.fill_s, decode.period_s
    end_to_end_s = ttft_s + steps * period_s
    tpot_s = np.where(steps > 0, period_s, np.nan)
    first, later = _shares(prefill), _shares(decode)
    return {
        "ttft_s": ttft_s,
        "tpot_s": tpot_s,
        "end_to_end_s": end_to_end_s,
        "tokens_per_s": plan.batch * plan.new_tokens / end_to_end_s,
        **interval("ttft", ttft_s, prefill.slowest),
        **interval("tpot", tpot_s, decode.slowest),
        **{name: np.where(steps > 0, later[name], first[name]) for name in first},
    }


def _plain(value: Value) -> Any:
    """An array of no dimension as a number or a word; None for NaN."""
    if not isinstance(value, np.ndarray | np.generic):
        return value
    found = value.item()
    return None if found != found else found


def interval(name: str, seconds: Value, step: PassTime) -> dict[str, Value]:
    """{name}_p05_s and {name}_p95_s: 90 of 100 measurements should lie between them.

    seconds * exp(-+1.645 sigma), sigma from the errors of the curves' fits over the kernels of the
    slowest rank, and MODEL_SPREAD for what no curve knows.
    """
    sigma = np.hypot(step.spread, MODEL_SPREAD)
    return {
        f"{name}_{which}_s": seconds * np.exp(sign * Z90 * sigma)
        for which, sign in (("p05", -1), ("p95", 1))
    }


def check_plan(spec: ModelSpec, rates: Rates, plan: Plan) -> None:
    """ConfigError for a plan that cannot run, with what to use."""
    check_mode(spec, rates, plan)
    reason = why_not(spec, plan.batch, plan.microbatches, plan.prompt_tokens, plan.new_tokens)
    if reason:
        raise ConfigError(reason)


def check_mode(spec: ModelSpec, rates: Rates, plan: Plan) -> None:
    """ConfigError for a layout, a mode or rates that rule out every batch."""
    check_layout(spec, tp=plan.tp, pp=plan.pp, split=plan.split, sharding=plan.sharding)
    if plan.microbatches < 1:
        raise ConfigError(f"microbatches={plan.microbatches}: use 1 or more.")
    if plan.decode not in DECODES:
        raise ConfigError(f"decode {plan.decode!r} is not known. Use {' or '.join(DECODES)}.")
    if rates.dtype != plan.dtype:
        raise ConfigError(f"the rates are for {rates.dtype}, but the plan is {plan.dtype}.")


def why_not(
    spec: ModelSpec, batch: int, microbatches: int, prompt_tokens: int, new_tokens: int
) -> str | None:
    """Why these sequences cannot run; None where they can."""
    counts = {"batch": batch, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens}
    for name, value in counts.items():
        if value < 1:
            return f"{name}={value}: use 1 or more."
    if microbatches > batch:
        return f"{microbatches} microbatches are more than batch={batch}. Use {batch} or fewer."
    if prompt_tokens + new_tokens > spec.max_positions:
        return (
            f"{prompt_tokens} + {new_tokens} tokens are more than the {spec.max_positions} "
            f"positions of {spec.id}."
        )
    return None


def can_run(spec: ModelSpec, plan: Plan) -> Value:
    """why_not(...) is None, for arrays."""
    fewest = reduce(np.minimum, (plan.batch, plan.prompt_tokens, plan.new_tokens))
    whole = plan.prompt_tokens + plan.new_tokens
    return (fewest >= 1) & (plan.batch >= plan.microbatches) & (whole <= spec.max_positions)


def evaluate(spec: ModelSpec, rates: Rates, plan: Plan) -> dict[str, Value]:
    """What `predict` returns but for the ranks, of all plans that the arrays of `plan` hold.

    Only the first tensor-parallel rank of each stage is timed: its shards are the largest.
    """
    phases = (schedule(spec, rates, plan, tp_ranks=1) for schedule in PHASES)
    return outcome(plan, *phases)


def prefill_schedule(
    spec: ModelSpec, rates: Rates, plan: Plan, *, tp_ranks: int | None = None
) -> Schedule:
    """All prompts of one microbatch in one pass; of the first `tp_ranks` of each stage, or all."""
    return _schedule(spec, rates, plan, prefill_pass(plan), tp_ranks)


def decode_schedule(
    spec: ModelSpec, rates: Rates, plan: Plan, *, tp_ranks: int | None = None
) -> Schedule:
    """One new token per sequence; the mean step attends to prompt + new / 2 tokens."""
    return _schedule(spec, rates, plan, decode_pass(plan), tp_ranks)


PHASES = (prefill_schedule, decode_schedule)


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
    own_host_s = (work.dispatches if eager else 1) * compute.dispatch_s
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


def class_seconds(
    spec: ModelSpec, rates: Rates, plan: Plan, phase: str, *, tp_rank: int, pp_rank: int
) -> dict[str, float]:
    """Seconds of one rank's kernels in one pass, by kind, and of its all-reduces as `comm`."""
    compute = rates.at(plan.active_ranks)
    step = prefill_pass(plan) if phase == "prefill" else decode_pass(plan)
    shard = Shard(
        tp=plan.tp,
        pp=plan.pp,
        tp_rank=tp_rank,
        pp_rank=pp_rank,
        split=plan.split,
        sharding=plan.sharding,
    )
    work = pass_work(spec, shard, step)
    found: dict[str, float] = {}
    for kernel in work.kernels:
        seconds = kernel.count * float(kernel_time(kernel, compute)[0])
        found[kernel.kind] = found.get(kernel.kind, 0.0) + seconds
    reduces = (n * float(rates.all_reduce_s(plan.tp, size)) for n, size in work.all_reduces)
    return {**found, "comm": sum(reduces)}


def spread_of(kernel: Kernels, spread: Mapping[str, float]) -> Value:
    """Standard deviation of log(predicted / measured) of the kernel's curve."""
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
        case "decode_attention":
            return curves.decode_attention.seconds(kernel.num_bytes, kernel.heads)
        case "prefill_attention":
            return curves.prefill_attention.seconds(kernel.flops, kernel.tokens)
        case _:
            stream: Stream = getattr(curves, kernel.kind)
            return stream.seconds(kernel.num_bytes)


def prefill_pass(plan: Plan) -> Pass:
    """A whole prompt: eager in every mode."""
    return _pass(plan, tokens=plan.prompt_tokens, context=plan.prompt_tokens, eager=True)


def decode_pass(plan: Plan) -> Pass:
    """The mean decode step."""
    context = plan.prompt_tokens + plan.new_tokens / 2
    return _pass(plan, tokens=1, context=context, eager=plan.decode == "eager")


def _pass(plan: Plan, *, tokens: Value, context: Value, eager: bool) -> Pass:
    return Pass(
        sequences=plan.sequences_per_microbatch,
        tokens=tokens,
        context=context,
        bytes_per_value=dtype_bytes(plan.dtype),
        eager=eager,
    )


def _schedule(
    spec: ModelSpec, rates: Rates, plan: Plan, step: Pass, tp_ranks: int | None
) -> Schedule:
    """Ranks that compute the same are timed once."""
    sends = plan.pp > 1
    times: dict[tuple[Any, ...], PassTime] = {}

    def rank_time(tp_rank: int, pp_rank: int) -> PassTime:
        shard = Shard(
            tp=plan.tp,
            pp=plan.pp,
            tp_rank=tp_rank,
            pp_rank=pp_rank,
            split=plan.split,
            sharding=plan.sharding,
        )
        alike = same_work(spec, shard, step)
        if alike not in times:
            work = pass_work(spec, shard, step)
            times[alike] = pass_time(work, rates, plan, eager=step.eager)
        return times[alike]

    return Schedule(
        ranks=tuple(
            tuple(rank_time(tp_rank, stage) for tp_rank in range(tp_ranks or plan.tp))
            for stage in range(plan.pp)
        ),
        microbatches=plan.microbatches,
        hops_s=rates.hops_s(plan.tp, plan.pp, hop_bytes(spec, step)) if sends else 0.0,
        return_s=_return_s(rates, plan, step) if sends else 0.0,
    )


def _return_s(rates: Rates, plan: Plan, step: Pass) -> Value:
    size = step.sequences * TOKEN_BYTES
    network = rates.network
    over_s = 0.0
    if network and network.num_nodes(plan.tp * plan.pp) > 1:
        over_s = network.message_s(size)
    if rates.curves and rates.curves.return_s is not None:
        return rates.curves.return_s + over_s
    return rates.send_recv_s(size) + over_s


def _shares(schedule: Schedule) -> dict[str, Value]:
    """Of one pass of the slowest rank: shares that add up to 1; and the pipeline's bubble."""
    step = schedule.slowest
    return {
        "compute_share": step.device_s / step.total_s,
        "comm_share": step.comm_s / step.total_s,
        "wait_share": step.exposed_wait_s / step.total_s,
        "host_share": (step.exposed_host_s - step.exposed_wait_s) / step.total_s,
        "bubble": schedule.bubble,
        "bottleneck": bottleneck(step),
    }


def _rank(
    spec: ModelSpec,
    plan: Plan,
    phases: Mapping[str, tuple[Schedule, int, float]],
    device: str,
    *,
    tp_rank: int,
    pp_rank: int,
) -> dict[str, Any]:
    return {
        "rank": pp_rank * plan.tp + tp_rank,
        "stage": pp_rank,
        "tp_rank": tp_rank,
        **{
            part: _plain(size)
            for part, size in rank_parts(
                spec,
                workload(plan, device),
                tp=plan.tp,
                pp=plan.pp,
                tp_rank=tp_rank,
                pp_rank=pp_rank,
                split=plan.split,
            ).items()
        },
        **{name: _phase(*phase, tp_rank, pp_rank) for name, phase in phases.items()},
    }


def _phase(
    schedule: Schedule, passes: int, wall_s: float, tp_rank: int, pp_rank: int
) -> dict[str, float]:
    """Totals of one rank: hops count where they are received; the token goes to earlier stages."""
    step = schedule.ranks[pp_rank][tp_rank]
    last = pp_rank == len(schedule.ranks) - 1
    received = (schedule.hop_s if pp_rank else 0.0) + (0.0 if last else schedule.return_s)
    return {
        "compute_s": _plain(passes * step.device_s),
        "comm_s": _plain(passes * (step.comm_s + received)),
        "host_s": _plain(passes * step.host_s),
        "wall_s": wall_s,
    }


def workload(plan: Plan, device: str = "cuda") -> Workload:
    """What the plan holds at its end: the last new token of a sequence never enters the cache."""
    return Workload(
        batch=plan.batch,
        context=plan.prompt_tokens + plan.new_tokens - 1,
        prompt=plan.prompt_tokens,
        microbatches=plan.microbatches,
        dtype=plan.dtype,
        device=device,
        decode=plan.decode,
    )
