"""timers.jsonl: one header, then one line a phase, whole passes at a time."""

import json
from pathlib import Path
from typing import Any

from perfkit.engine.recorder import Recorder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_phases_are_written_when_their_pass_ends(tmp_path: Path) -> None:
    path = tmp_path / "timers.jsonl"
    recorder = Recorder(path, rank=3, tp_rank=1, pp_rank=1, gpu=False)
    recorder.begin_pass("timed", 2)
    with (
        recorder.phase("request", tokens=8),
        recorder.phase("decode", step=5, microbatch=1, tokens=4),
    ):
        pass
    recorder.end_pass()
    recorder.close()
    header, decode, request = lines(path)
    assert (header["rank"], header["tp_rank"], header["pp_rank"]) == (3, 1, 1)
    assert header["clock"] == "monotonic"
    assert (decode["phase"], decode["step"], decode["microbatch"]) == ("decode", 5, 1)
    assert (decode["kind"], decode["pass"], decode["tokens"]) == ("timed", 2, 4)
    assert decode["device_ns"] is None
    assert request["start_ns"] <= decode["start_ns"] <= decode["end_ns"] <= request["end_ns"]
