"""A run folder for tests: recorded traces, and timers with times that are easy to check."""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

KINETO = Path(__file__).parent.parent / "data" / "kineto"
SECOND = 1_000_000_000

# name of the pass, its length relative to 1 s
PASSES = (("warmup", 0, 9.0), ("timed", 0, 1.0), ("timed", 1, 1.2), ("captured", 0, 2.2))


def a_run(
    root: Path,
    *,
    tp: int = 2,
    traces: Iterable[int] = (0, 1),
    timers: Iterable[int] = (0, 1),
    **record: Any,
) -> Path:
    """A run of `tp` ranks in one stage with the traces and timers of some of them."""
    layout = [{"rank": r, "pp_rank": 0, "tp_rank": r, "host": "node0"} for r in range(tp)]
    run: dict[str, Any] = {
        "schema_version": 1,
        "id": root.name,
        "state": "finished",
        "config": {"tp": tp, "pp": 1, "batch": 2, "new_tokens": 3},
        "layout": layout,
        "warnings": [],
        "failure": None,
    }
    root.mkdir(parents=True)
    (root / "run.json").write_text(json.dumps(run | record))
    for rank in range(tp):
        folder = root / "ranks" / f"{rank:04d}"
        folder.mkdir(parents=True)
        (folder / "status.json").write_text(json.dumps({"schema_version": 1, "rank": rank}))
    for rank in traces:
        recorded = KINETO / "gloo-tp2" / "ranks" / f"{rank:04d}" / "kineto.json.gz"
        shutil.copy(recorded, root / "ranks" / f"{rank:04d}" / "kineto.json.gz")
    for rank in timers:
        lines = timer_lines(rank)
        (root / "ranks" / f"{rank:04d}" / "timers.jsonl").write_text("\n".join(lines) + "\n")
    return root


def timer_lines(rank: int, passes: Sequence[tuple[str, int, float]] = PASSES) -> list[str]:
    """Header and passes of 2 microbatches and 3 steps: TTFT 0.4, TPOT 0.3, e2e 1 x the length.

    Rank 1 has its tokens 1 ms later than rank 0.
    """
    header = {
        "schema_version": 1,
        "rank": rank,
        "tp_rank": rank,
        "pp_rank": 0,
        "host": "node0",
        "clock": "monotonic",
        "unix_minus_monotonic_ns": 1_790_000_000 * SECOND,
    }
    lines = [header]
    for index, (kind, number, length) in enumerate(passes):
        start = (100 * index + rank) * SECOND
        for step in range(3):
            for microbatch in range(2):
                end = length * (0.4 + 0.3 * step - 0.1 * (1 - microbatch)) + 0.001 * rank
                sample = a_line(kind, number, "sample", start, end, step, microbatch)
                lines.append(sample | {"tokens": 1})
        lines.append(a_line(kind, number, "request", start, length + 0.01, 0, 0))
    return [json.dumps(line, separators=(",", ":")) for line in lines]


def a_line(
    kind: str, number: int, phase: str, start: int, end_s: float, step: int, microbatch: int
) -> dict[str, Any]:
    return {
        "pass": number,
        "kind": kind,
        "phase": phase,
        "step": step,
        "microbatch": microbatch,
        "start_ns": start,
        "end_ns": start + round(end_s * SECOND),
        "tokens": None,
        "device_ns": None,
    }
