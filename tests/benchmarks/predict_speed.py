"""Predictions a second, their memory, and how long one takes.

    python tests/benchmarks/predict_speed.py [--rows 1048576]

A grid of Llama-3.3-70B over TP, PP, batch, prompt, new tokens and decode mode, in one process.
Prints one JSON line: rows a second of the first call (cold), peak memory, milliseconds of one plan
from Python, and seconds from the command's start to its table. Exit code 3 when a goal is missed.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

from perfkit.predict.cards import load_spec
from perfkit.predict.gpus import load_gpu
from perfkit.predict.grid import predict_frame
from perfkit.predict.plan import Plan
from perfkit.predict.rates import rates_from_gpu
from perfkit.predict.time import predict

CHECK_FAILED = 3
GOALS = {"rows_per_s": 1e6, "peak_gib": 1.0, "one_ms": 5.0, "command_s": 1.5}
LAYOUTS = 4 * 4 * 2
LENGTHS = 16 * 8


def grid(rows: int) -> dict[str, list[Any]]:
    return {
        "tp": [1, 2, 4, 8],
        "pp": [1, 2, 3, 4],
        "batch": list(range(1, max(2, rows // LAYOUTS // LENGTHS + 1))),
        "prompt_tokens": [128 * step for step in range(1, 17)],
        "new_tokens": [16 * step for step in range(1, 9)],
        "decode": ["eager", "graph"],
    }


def measure(rows: int) -> dict[str, Any]:
    spec = load_spec("llama-3.3-70b")
    rates = rates_from_gpu(load_gpu("h200-sxm"), "bfloat16")
    start = time.perf_counter()
    frame = predict_frame(spec, rates, grid(rows), capacity_bytes=150 * 10**9)
    taken = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    plan, times = Plan(tp=2, pp=3, microbatches=3, batch=8, decode="graph"), []
    for _ in range(20):
        start = time.perf_counter()
        predict(spec, rates, plan)
        times.append(time.perf_counter() - start)
    command = [sys.executable, "-m", "perfkit", "predict", "llama-3.3-70b", "--gpu", "h200-sxm"]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return {
        "benchmark": "predict",
        "rows": frame.height,
        "rows_per_s": round(frame.height / taken),
        "peak_gib": round(peak, 2),
        "one_ms": round(1e3 * statistics.median(times), 2),
        "command_s": round(time.perf_counter() - start, 2),
    }


def good(found: dict[str, Any]) -> bool:
    slow = found["rows_per_s"] < GOALS["rows_per_s"]
    return not slow and all(found[name] <= GOALS[name] for name in list(GOALS)[1:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1 << 20)
    found = measure(parser.parse_args().rows)
    print(json.dumps(found))
    return 0 if good(found) else CHECK_FAILED


if __name__ == "__main__":
    sys.exit(main())
