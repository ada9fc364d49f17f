"""Which layout is best? Every layout of a number of GPUs, those that fit and keep the limits."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from perfkit.errors import ConfigError
from perfkit.predict.spec import ModelSpec
from perfkit.predict.tensors import usable_degrees

GOALS = {"throughput": "tokens_per_s", "tpot": "tpot_ms", "ttft": "ttft_ms"}
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


def layouts(spec: ModelSpec, num_gpus: int) -> Iterator[tuple[int, int]]:
    """(tp, pp) of at most `num_gpus` ranks, equal shards only."""
    for tp in usable_degrees(spec):
        for pp in range(1, min(num_gpus // tp, spec.num_layers) + 1):
            yield tp, pp


def best(
    rows: Sequence[dict[str, Any]], goal: str, max_tpot_s: float | None, max_ttft_s: float | None
) -> list[dict[str, Any]]:
    """The Pareto front of throughput against TPOT and GPUs among rows that fit and keep the
    limits, the best by the goal first; ConfigError when none does, with what comes nearest."""
    able = [row for row in rows if row["refused"] is None and row["fits"] != "does not fit"]
    if not able:
        raise ConfigError(
            "no layout fits. Use more GPUs, GPUs with more memory, or smaller batches."
        )
    kept = [row for row in able if _keeps(row, max_tpot_s, max_ttft_s)]
    if not kept:
        nearest = min(able, key=lambda row: (row["tpot_ms"] or 0.0, row["ttft_ms"]))
        tpot, ttft = (nearest[name] or 0.0 for name in ("tpot_ms", "ttft_ms"))
        raise ConfigError(
            f"no layout keeps the limits. The fastest, TP {nearest['tp']} x PP {nearest['pp']} at "
            f"batch {nearest['batch']}, has a TPOT of {tpot:.3g} ms and a TTFT of {ttft:.3g} ms.",
        )
    front = [row for row in kept if not any(_better(other, row) for other in kept)]
    name = GOALS[goal]
    return sorted(front, key=lambda row: row[name], reverse=goal == "throughput")


def seconds(text: str | None, option: str) -> float | None:
    """50ms, 0.5s, 800us -> seconds; None without a limit."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9.]+) *(s|ms|us)", text.strip())
    try:
        return float(found[1]) * UNITS[found[2]] if found else _no_time(text, option)
    except ValueError:
        return _no_time(text, option)


def _no_time(text: str, option: str) -> float:
    raise ConfigError(f"{option} {text!r} is no time. Use 50ms, 0.5s or 800us.")


def _keeps(row: dict[str, Any], max_tpot_s: float | None, max_ttft_s: float | None) -> bool:
    slow = max_tpot_s is not None and (row["tpot_ms"] or 0.0) > 1e3 * max_tpot_s
    late = max_ttft_s is not None and row["ttft_ms"] > 1e3 * max_ttft_s
    return not slow and not late


def _better(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """At least as good in throughput, TPOT and GPUs, and better in one."""
    pairs = [
        (one["tokens_per_s"], other["tokens_per_s"]),
        (-(one["tpot_ms"] or 0.0), -(other["tpot_ms"] or 0.0)),
        (-one["num_gpus"], -other["num_gpus"]),
    ]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)
