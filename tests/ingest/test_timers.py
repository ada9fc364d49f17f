"""timers.jsonl: whole and broken files, and the measures of each pass."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from perfkit.ingest.timers import (
    MEASURES,
    TIMERS,
    measure_passes,
    profiler_ratio,
    read_timers,
    summarise,
)

HEADER = {
    "schema_version": 1,
    "rank": 3,
    "tp_rank": 1,
    "pp_rank": 1,
    "host": "node1",
    "clock": "monotonic",
    "unix_minus_monotonic_ns": 1000,
}
MS = 1_000_000


def line(phase: str, start_ms: int, end_ms: int, **more: Any) -> dict[str, Any]:
    fixed = {"pass": 0, "kind": "timed", "step": 0, "microbatch": 0, "tokens": None}
    times = {"start_ns": start_ms * MS, "end_ns": end_ms * MS, "device_ns": None}
    return {**fixed, "phase": phase, **times, **more}


def a_file(tmp_path: Path, *lines: dict[str, Any], header: dict[str, Any] = HEADER) -> Path:
    path = tmp_path / "timers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (header, *lines)))
    return path


A_PASS = (
    line("sample", 40, 50, tokens=2),
    line("sample", 50, 60, tokens=2, microbatch=1),
    line("sample", 90, 100, tokens=2, step=1),
    line("sample", 100, 110, tokens=2, step=1, microbatch=1),
    line("request", 10, 115),
)


def test_lines_keep_the_place_of_their_rank(tmp_path: Path) -> None:
    frame, findings = read_timers(a_file(tmp_path, line("decode", 1, 2, device_ns=7)), 3)
    assert dict(frame.schema) == dict(TIMERS)
    row = frame.row(0, named=True)
    assert (row["rank"], row["pp_rank"], row["host"]) == (3, 1, "node1")
    assert (row["start_ns"], row["unix_ns"], row["device_ns"]) == (MS, MS + 1000, 7)
    assert findings == []


def test_a_cut_off_last_line_is_left_out_and_told(tmp_path: Path) -> None:
    path = a_file(tmp_path, *A_PASS)
    path.write_bytes(path.read_bytes()[:-30])
    frame, findings = read_timers(path, 3)
    assert frame.height == 4
    assert [(row["code"], row["count"]) for row in findings] == [("timers-cut-off", 1)]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'{"rank": 1}\n'])
def test_without_a_header_nothing_is_used(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "timers.jsonl"
    path.write_bytes(content)
    frame, findings = read_timers(path, 1)
    assert frame.is_empty()
    assert [row["code"] for row in findings] == ["timers-header"]


def test_another_schema_version_is_not_guessed_at(tmp_path: Path) -> None:
    path = a_file(tmp_path, *A_PASS, header=HEADER | {"schema_version": 2})
    frame, findings = read_timers(path, 3)
    assert frame.is_empty()
    assert [row["code"] for row in findings] == ["timers-version"]


def test_a_pass_is_measured_from_its_request_to_its_samples(tmp_path: Path) -> None:
    frame, _findings = read_timers(a_file(tmp_path, *A_PASS), 3)
    found = measure_passes(frame, last_stage=1)
    assert dict(found.schema) == dict(MEASURES)
    row = found.row(0, named=True)
    assert (row["ttft_s"], row["ttft_first_s"], row["e2e_s"]) == (0.05, 0.04, 0.1)
    assert (row["tpot_s"], row["tokens"], row["new_tokens"]) == (0.05, 8, 2)
    assert row["tokens_per_s"] == 80.0


def test_a_pass_without_its_request_was_cut_off(tmp_path: Path) -> None:
    frame, _findings = read_timers(a_file(tmp_path, *A_PASS[:-1]), 3)
    assert measure_passes(frame, last_stage=1).is_empty()


def test_only_the_last_stage_has_measures(tmp_path: Path) -> None:
    frame, _findings = read_timers(a_file(tmp_path, *A_PASS), 3)
    assert measure_passes(frame, last_stage=0).is_empty()


def test_wall_clock_figures_come_from_the_timed_passes_only(tmp_path: Path) -> None:
    def passes(kind: str, number: int, end_ms: int) -> list[dict[str, Any]]:
        named = {"kind": kind, "pass": number}
        return [
            line("sample", 0, end_ms, tokens=1, **named),
            line("request", 0, end_ms, **named),
        ]

    rows = [
        *passes("warmup", 0, 9000),
        *passes("timed", 0, 100),
        *passes("timed", 1, 200),
        *passes("captured", 0, 300),
    ]
    frame, _findings = read_timers(a_file(tmp_path, *rows), 3)
    found = measure_passes(frame, last_stage=1)
    e2e = summarise(found).filter(pl.col("measure") == "e2e_s").row(0, named=True)
    assert (e2e["median"], e2e["min"], e2e["max"]) == (pytest.approx(0.15), 0.1, 0.2)
    assert (e2e["count"], e2e["captured"]) == (2, 0.3)
    assert profiler_ratio(found) == pytest.approx(2.0)


def test_nothing_measured_is_null_and_not_zero(tmp_path: Path) -> None:
    frame, _findings = read_timers(a_file(tmp_path), 3)
    found = measure_passes(frame, last_stage=1)
    assert summarise(found)["median"].to_list() == [None] * 5
    assert profiler_ratio(found) is None
