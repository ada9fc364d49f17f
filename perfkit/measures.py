"""The words for a pass's speed, as formulas. Standard library only.

A pass is one batch from the request to its last new token. Times are seconds; the clock is the
one of the rank that put the tokens on the host, so no two clocks are ever subtracted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Several measurements of one quantity: the middle one and the range, never a bare mean."""

    median: float
    min: float
    max: float
    count: int


def ttft_s(request_start_ns: int, first_tokens_ns: Sequence[int]) -> float:
    """Time to first token of a batch: from the request until every sequence has its first token.

    The last of the microbatches' first tokens on the host - the start of the request. Includes
    waiting behind other microbatches; leaves out tokenising and loading.
    """
    return (max(first_tokens_ns) - request_start_ns) / NS_PER_S


def ttft_first_s(request_start_ns: int, first_tokens_ns: Sequence[int]) -> float:
    """The same for the luckiest sequences: the first of the microbatches' first tokens."""
    return (min(first_tokens_ns) - request_start_ns) / NS_PER_S


def e2e_s(request_start_ns: int, tokens_ns: Iterable[int]) -> float:
    """End to end: from the request until the last new token of the batch is on the host."""
    return (max(tokens_ns) - request_start_ns) / NS_PER_S


def tpot_s(e2e_s: float, ttft_s: float, new_tokens: int) -> float | None:
    """Time per output token after the first: (e2e - TTFT) / (new tokens of a sequence - 1).

    None when a sequence has one new token only: there is nothing to measure.
    """
    return (e2e_s - ttft_s) / (new_tokens - 1) if new_tokens > 1 else None


def throughput_tokens_per_s(tokens: int, e2e_s: float) -> float:
    """New tokens of all sequences / end-to-end time. Prompt tokens do not count."""
    return tokens / e2e_s


def profiler_ratio(captured_e2e_s: float, timed_e2e_s: Sequence[float]) -> float:
    """How much slower a captured pass is: its e2e / median e2e of the timed passes. 1 is free."""
    return captured_e2e_s / median(timed_e2e_s)


def spread(values: Sequence[float]) -> Spread | None:
    """Median, minimum, maximum and count; None of nothing."""
    if not values:
        return None
    return Spread(median=median(values), min=min(values), max=max(values), count=len(values))


def memory_in_use(engine_facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of engine.json: max_allocated_bytes, max_reserved_bytes and device_used_bytes while passes
    were timed; loading may take more for a moment. What was kept in all where phases are not.
    """
    phases: Mapping[str, Any] = engine_facts.get("memory") or {}
    found: Mapping[str, Any] = phases.get("timed", engine_facts)
    return found
