"""How many experts a run's tokens reached, as its ranks counted them (engine/reached.py).

What a text prefers is a fact of the input, as its length is: a prediction of a run that is known
may use it. One that was made before the run assumed even routing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from perfkit.predict.plan import Plan
from perfkit.predict.spec import ModelSpec, distinct_experts

PHASES = ("prefill", "decode")
Reached = tuple[float | None, float | None]


def experts_reached(run: Mapping[str, Any]) -> Reached:
    """Mean experts of a layer that a microbatch's prompt and decode step reach, over all stages.

    (None, None) where nobody counted: a dense model, an older run.
    """
    ranks = [place for place in run.get("layout", []) if "reached" in (place.get("experts") or {})]
    prefill, decode = (_mean(ranks, phase) for phase in PHASES)
    return prefill, decode


def _mean(ranks: Sequence[Mapping[str, Any]], phase: str) -> float | None:
    """Weighted by the layers of each rank."""
    counts = [
        (rank["experts"]["reached"][phase], rank["layers"][1] - rank["layers"][0])
        for rank in ranks
        if rank["experts"]["reached"][phase] is not None
    ]
    layers = sum(weight for _count, weight in counts)
    return sum(count * weight for count, weight in counts) / layers if layers else None


def experts_sentence(spec: ModelSpec, plan: Plan) -> str | None:
    """What was counted beside even routing; None where nothing was."""
    prefill, decode = plan.reached
    if prefill is None:
        return None
    sequences, prompt = plan.sequences_per_microbatch, plan.prompt_tokens
    even = distinct_experts(spec, sequences * prompt), distinct_experts(spec, sequences)
    text = f"{_of(prefill, even[0])} by a prompt"
    if decode is not None:
        text += f", {_of(decode, even[1])} in a decode step"
    return f"predicted for the experts that were reached, of {spec.num_experts}: {text}"


def _of(count: float, even: float) -> str:
    return f"{count:.1f} (even routing {even:.1f})"
