"""A run folder with two timed passes, the model's config and measured rates, for tests."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from perfkit.predict.cards import load_config
from perfkit.schema import RunFolder, read_json, write_json

MS = 1_000_000
CALIBRATION = {
    "device": "cpu",
    "device_name": "a processor",
    "dtype": "float32",
    "date": "2026-11-22",
    "source": "microbenchmark",
    "compute": [
        {
            "active_ranks": 1,
            "gemm_flops_per_s": 1e11,
            "read_bytes_per_s": 1e10,
            "dispatch_s": 5e-6,
        }
    ],
    "all_reduce": {},
    "send_recv": {},
}


def a_run(
    folder: Path,
    *,
    state: str = "finished",
    calibration: bool = True,
    gone: Collection[int] = (),
    **config: Any,
) -> Path:
    """TP x PP ranks, two timed passes: TTFT 100 and 120 ms, then 9 tokens of 20 ms each.

    The ranks `gone` left their status alone.
    """
    run = RunFolder(folder)
    settings = {
        "tp": 1,
        "pp": 1,
        "split": None,
        "batch": 2,
        "microbatches": 1,
        "prompt_tokens": 16,
        "new_tokens": 10,
        "dtype": "float32",
        "load": "safetensors",
        "model_id": "smollm2-135m-instruct",
        **config,
    }
    tp = settings["tp"]
    layout = [
        {"rank": rank, "pp_rank": rank // tp, "tp_rank": rank % tp, "host": "node0"}
        for rank in range(tp * settings["pp"])
    ]
    record: dict[str, Any] = {
        "id": folder.name,
        "state": state,
        "config": settings,
        "model": {"id": settings["model_id"], "config": load_config("smollm2-135m-instruct")[1]},
        "layout": layout,
        "hardware": {"gpus": []},
        "collectors": {"kineto": {"asked": False}},
        "warnings": [],
        "failure": None,
    }
    write_json(run.run_json, record)
    for place in layout:
        rank = place["rank"]
        write_json(run.rank_file(rank, "status.json"), {"rank": rank, "host": "node0"})
        if rank not in gone:
            write_rank(run, place)
    if calibration:
        write_json(run.calibration, CALIBRATION)
    return folder


def write_rank(run: RunFolder, place: Mapping[str, Any]) -> None:
    """What one rank's engine writes."""
    facts = {"rank": place["rank"], "parameter_bytes": 538_060_032}
    write_json(run.rank_file(place["rank"], "engine.json"), facts)
    header = {**place, "clock": "monotonic", "unix_minus_monotonic_ns": 0}
    passes = (line for number, ttft in enumerate((100, 120)) for line in a_pass(number, ttft))
    lines = [{"schema_version": 1, **header}, *passes]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    run.rank_file(place["rank"], "timers.jsonl").write_text(text)


def edited(run: Path, **changes: object) -> Path:
    """The run with other values in its run.json."""
    write_json(run / "run.json", read_json(run / "run.json") | changes)
    return run


def a_pass(number: int, ttft_ms: int) -> list[dict[str, Any]]:
    start = number * 10_000 * MS
    ends = [start + (ttft_ms + 20 * step) * MS for step in range(10)]
    common = {"pass": number, "kind": "timed", "microbatch": 0, "device_ns": None}
    samples = [
        {
            **common,
            "phase": "sample",
            "step": step,
            "start_ns": end - MS,
            "end_ns": end,
            "tokens": 2,
        }
        for step, end in enumerate(ends)
    ]
    request = {"phase": "request", "step": 0, "start_ns": start, "end_ns": ends[-1], "tokens": 32}
    return [*samples, {**common, **request}]
