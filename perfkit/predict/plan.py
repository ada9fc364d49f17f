"""What is to be run, whether it can be, and what one pass of it feeds."""

from dataclasses import dataclass

import numpy as np

from perfkit.errors import ConfigError
from perfkit.predict.curves import Value
from perfkit.predict.kernels import Pass, Shard
from perfkit.predict.memory import Workload
from perfkit.predict.rates import Rates
from perfkit.predict.spec import ModelSpec, dtype_bytes
from perfkit.predict.tensors import check_layout

DECODES = ("eager", "graph")
OBSTACLES = (
    "batch={batch}: use 1 or more.",
    "prompt_tokens={prompt_tokens}: use 1 or more.",
    "new_tokens={new_tokens}: use 1 or more.",
    "{microbatches} microbatches are more than batch={batch}. Use {batch} or fewer.",
    "{prompt_tokens} + {new_tokens} tokens are more than the {spec.max_positions} positions of "
    "{spec.id}.",
)
"""why a plan cannot run, whatever the layout; the first that holds counts"""


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
    reached: tuple[float | None, float | None] = (None, None)
    """experts of a layer that a microbatch's prompt and its decode step go to, where they were
    counted; even routing otherwise"""

    @property
    def sequences_per_microbatch(self) -> Value:
        """Of the largest microbatch; the engine divides the batch as evenly as possible."""
        return -(-self.batch // self.microbatches)

    @property
    def active_ranks(self) -> int:
        """Ranks at work at the same time: min(M, p) stages of t ranks."""
        return min(self.microbatches, self.pp) * self.tp

    def shard(self, tp_rank: int, pp_rank: int) -> Shard:
        """Where one rank stands."""
        return Shard(
            tp=self.tp,
            pp=self.pp,
            tp_rank=tp_rank,
            pp_rank=pp_rank,
            split=self.split,
            sharding=self.sharding,
        )


def check_plan(spec: ModelSpec, rates: Rates, plan: Plan) -> None:
    """ConfigError for a plan that cannot run, with what to use."""
    check_mode(spec, rates, plan)
    code = int(obstacle(spec, plan))
    if code >= 0:
        raise ConfigError(why_not(spec, code, **sequences(plan), microbatches=plan.microbatches))


def check_mode(spec: ModelSpec, rates: Rates, plan: Plan) -> None:
    """ConfigError for a layout, a mode or rates that rule out every batch."""
    check_layout(spec, tp=plan.tp, pp=plan.pp, split=plan.split, sharding=plan.sharding)
    if plan.microbatches < 1:
        raise ConfigError(f"microbatches={plan.microbatches}: use 1 or more.")
    if plan.decode not in DECODES:
        raise ConfigError(f"decode {plan.decode!r} is not known. Use {' or '.join(DECODES)}.")
    if rates.dtype != plan.dtype:
        raise ConfigError(f"the rates are for {rates.dtype}, but the plan is {plan.dtype}.")


def obstacle(spec: ModelSpec, plan: Plan) -> Value:
    """The place in OBSTACLES of what these sequences cannot run for; -1 where they can."""
    conditions = (
        plan.batch < 1,
        plan.prompt_tokens < 1,
        plan.new_tokens < 1,
        plan.batch < plan.microbatches,
        plan.prompt_tokens + plan.new_tokens > spec.max_positions,
    )
    return np.select(conditions, range(len(OBSTACLES)), -1)


def why_not(spec: ModelSpec, code: int, **values: int) -> str:
    """An obstacle in words; `values` are the plan's own, by their names."""
    return OBSTACLES[code].format(spec=spec, **values)


def sequences(plan: Plan) -> dict[str, Value]:
    """The fields that may be arrays."""
    return {name: getattr(plan, name) for name in ("batch", "prompt_tokens", "new_tokens")}


def prefill_pass(plan: Plan) -> Pass:
    """A whole prompt: eager in every mode."""
    return _pass(
        plan,
        tokens=plan.prompt_tokens,
        context=plan.prompt_tokens,
        eager=True,
        reached=plan.reached[0],
    )


def decode_pass(plan: Plan) -> Pass:
    """The mean decode step."""
    context = plan.prompt_tokens + plan.new_tokens / 2
    eager = plan.decode == "eager"
    return _pass(plan, tokens=1, context=context, eager=eager, reached=plan.reached[1])


def _pass(plan: Plan, *, tokens: Value, context: Value, eager: bool, reached: float | None) -> Pass:
    return Pass(
        sequences=plan.sequences_per_microbatch,
        tokens=tokens,
        context=context,
        bytes_per_value=dtype_bytes(plan.dtype),
        eager=eager,
        reached=reached,
    )


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
