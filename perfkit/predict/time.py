"""How long does a run take? Work of each rank over rates, then the pipeline's schedule.

    B batch, M microbatches of b = B/M sequences, p stages, T_s seconds of one pass of stage s
    on one microbatch, n new tokens per sequence

Every value is predicted. The equations leave out sampling, padding, contention between a
profiler and the run, and the wait of ranks for each other beyond uneven shards.
"""

from collections.abc import Mapping
from dataclasses import asdict
from statistics import NormalDist
from typing import Any

import numpy as np

from perfkit.predict.curves import Value
from perfkit.predict.kernels import Pass
from perfkit.predict.memory import rank_parts
from perfkit.predict.passes import pass_time
from perfkit.predict.plan import Plan, check_plan, decode_pass, prefill_pass, workload
from perfkit.predict.rates import Rates
from perfkit.predict.schedule import BOTTLENECKS, PassTime, Schedule, bottleneck
from perfkit.predict.spec import ModelSpec, spec_from_config
from perfkit.predict.work import hop_bytes, pass_work, same_work

TOKEN_BYTES = 8
"""a token id travels as int64"""
Z90 = NormalDist().inv_cdf(0.95)
MODEL_SPREAD = 0.02
"""of log(predicted / measured), where every curve were exact: gaps, clocks, what is left out"""


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


def evaluate(spec: ModelSpec, rates: Rates, plan: Plan) -> dict[str, Value]:
    """What `predict` returns but for the ranks, of all plans that the arrays of `plan` hold.

    Only the first tensor-parallel rank of each stage is timed: its shards are the largest.
    """
    prefill = prefill_schedule(spec, rates, plan, tp_ranks=1)
    return outcome(plan, prefill, decode_schedule(spec, rates, plan, tp_ranks=1))


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


def _schedule(
    spec: ModelSpec, rates: Rates, plan: Plan, step: Pass, tp_ranks: int | None
) -> Schedule:
    """Ranks that compute the same are timed once."""
    sends = plan.pp > 1
    times: dict[tuple[Any, ...], PassTime] = {}

    def rank_time(tp_rank: int, pp_rank: int) -> PassTime:
        shard = plan.shard(tp_rank, pp_rank)
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
