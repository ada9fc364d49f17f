"""Points of whole steps of a tiny model -> what the host and the way between two steps take."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from perfkit.errors import ConfigError
from perfkit.predict.work import DISPATCHES_PER_LAYER, DISPATCHES_PER_LAYER_TP

Point = Mapping[str, Any]

SOURCE = "microbenchmark"
LEAST_HOST_SPREAD = 0.2
"""hosts of one machine differ by that much from pass to pass, whatever one calibration shows"""
REPLAY_S = 10e-6
"""where no step of one stage was measured: 7 to 12 us on H200 and H100"""


def host_table(steps: Sequence[Point]) -> dict[str, Any]:
    """dispatch_s: host seconds of a layer, from two depths, over its dispatches; the median of
    every rank and number of microbatches, and how much those differ."""
    slopes = [
        slope / (DISPATCHES_PER_LAYER_TP if key[1] > 1 else DISPATCHES_PER_LAYER)["llama"]
        for key, slope in host_slopes(steps).items()
    ]
    logs = [math.log(slope) for slope in slopes if slope > 0]
    if not logs:
        raise ConfigError("no steps of a tiny model were measured. Calibrate again.")
    spread = statistics.stdev(logs) if len(logs) > 1 else LEAST_HOST_SPREAD
    fixed = fixed_host_s(steps)
    return {
        "dispatch_s": math.exp(statistics.median(logs)),
        **({"pass_s": fixed} if fixed is not None else {}),
        "spread": max(spread, LEAST_HOST_SPREAD),
        "source": SOURCE,
    }


def step_table(steps: Sequence[Point]) -> dict[str, Any]:
    """Seconds of captured steps beyond their kernels: between two (replay_s), and, with several
    stages and one microbatch, one hop and one token's way back, halves of what was measured."""
    alone = [p for p in steps if p["decode"] == "graph" and p["microbatches"] == 1]
    found: dict[str, Any] = {"source": SOURCE}
    gaps = [p["tpot_s"] - p["decode_device_s"] for p in alone if p["pp"] == 1]
    found["replay_s"] = statistics.median(gaps) if gaps else REPLAY_S
    rounds = []
    for last in (p for p in alone if p["pp"] > 1 and "tpot_s" in p):
        same = ("layers", "tp_rank")
        stages = [p for p in alone if all(p[name] == last[name] for name in same)]
        rounds.append(last["tpot_s"] - sum(p["decode_device_s"] for p in stages))
    if rounds:
        hops = alone[0]["pp"]
        found["hop_s"] = found["return_s"] = statistics.median(rounds) / hops
    return found


def host_slopes(steps: Sequence[Point]) -> dict[tuple[int, ...], float]:
    """Host seconds of an eager layer: {(microbatches, tp, stage, tp_rank): from the two depths}."""
    depths: dict[tuple[int, ...], dict[int, float]] = {}
    for p in steps:
        if p["decode"] == "eager":
            key = tuple(int(p[part]) for part in ("microbatches", "tp", "stage", "tp_rank"))
            depths.setdefault(key, {})[p["layers"]] = p["decode_host_s"]
    found: dict[tuple[int, ...], float] = {}
    for key, times in depths.items():
        few, many = min(times), max(times)
        if many > few:
            found[key] = (times[many] - times[few]) / (many - few)
    return found


def fixed_host_s(steps: Sequence[Point]) -> float | None:
    """Seconds of an eager step outside its layers and its kernels: the time between two tokens of
    two depths, carried on to none. Only where one rank does all of it, one microbatch at a time."""
    alone = [p for p in steps if p["decode"] == "eager" and p["pp"] == p["microbatches"] == 1]
    times = {p["layers"]: p["tpot_s"] for p in alone if "tpot_s" in p}
    few, many = min(times, default=0), max(times, default=0)
    if few == many:
        return None
    slope = (times[many] - times[few]) / (many - few)
    return max(0.0, float(times[few] - few * slope))
