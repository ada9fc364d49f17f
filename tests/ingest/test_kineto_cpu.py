"""What counts as compute and as communication on a rank without a GPU."""

from pathlib import Path

import polars as pl
from trace_builder import BASE_NS, GLOO_THREAD, a_trace, gloo, operation, phase

from perfkit.ingest.frames import ACTIVITIES
from perfkit.ingest.kineto import read_kineto

DATA = Path(__file__).parent.parent / "data" / "kineto"


def rows(path: Path) -> list[tuple[str, str, float, float]]:
    """name, class, start and end in us of every activity."""
    us = ((pl.col(c) - BASE_NS) / 1000 for c in ("start_ns", "end_ns"))
    return read_kineto(path).activities.select("name", "class", *us).rows()


def test_only_the_outermost_operation_counts(tmp_path: Path) -> None:
    path = a_trace(
        tmp_path / "t.json",
        operation("aten::linear", 0, 10),
        operation("aten::addmm", 1, 9),
        operation("aten::mm", 20, 30),
    )
    assert [row[0] for row in rows(path)] == ["aten::linear", "aten::mm"]


def test_waiting_inside_an_autograd_function_is_not_compute(tmp_path: Path) -> None:
    # DeepSpeed's RowParallel waits for its all-reduce inside the operation.
    path = a_trace(
        tmp_path / "t.json",
        operation("RowParallel", 0, 100),
        operation("aten::matmul", 5, 15),
        operation("c10d::allreduce_", 20, 22),
        gloo("all_reduce", 25, 90),
    )
    assert rows(path) == [
        ("aten::matmul", "compute", 5, 15),
        ("c10d::allreduce_", "comm", 20, 22),
        ("gloo:all_reduce", "comm", 22, 90),
    ]


def test_an_asynchronous_collective_begins_when_gloo_does(tmp_path: Path) -> None:
    path = a_trace(
        tmp_path / "t.json",
        operation("c10d::allreduce_", 0, 2),
        gloo("all_reduce", 10, 50),
        operation("aten::mm", 5, 30),
    )
    assert rows(path)[-1] == ("gloo:all_reduce", "comm", 10, 50)


def test_a_send_counts_only_while_somebody_waits_for_it(tmp_path: Path) -> None:
    path = a_trace(
        tmp_path / "t.json",
        phase("pp_send", 0, 5),
        operation("c10d::send", 1, 3),
        gloo("send", 2, 80, tid=100),
        phase("decode", 10, 70),
        operation("aten::mm", 20, 60),
        phase("pp_send", 75, 90),
    )
    assert ("gloo:send", "comm", 75, 80) in rows(path)


def test_operations_of_other_threads_are_counted_but_not_split(tmp_path: Path) -> None:
    path = a_trace(
        tmp_path / "t.json",
        phase("request", 0, 100),
        operation("aten::mm", 0, 10),
        operation("aten::add", 0, 90, tid=GLOO_THREAD),
    )
    trace = read_kineto(path)
    assert trace.activities["name"].to_list() == ["aten::mm"]
    assert [(row["code"], row["count"]) for row in trace.findings] == [("other-threads", 1)]


def test_marks_of_gloo_are_no_phases_and_numbered_steps_are_one(tmp_path: Path) -> None:
    path = a_trace(
        tmp_path / "t.json",
        phase("ProfilerStep#1", 0, 10),
        phase("ProfilerStep#2", 10, 20),
        gloo("all_reduce", 1, 2),
        operation("aten::mm", 3, 4),
    )
    assert read_kineto(path).ranges["phase"].to_list() == ["ProfilerStep", "ProfilerStep"]


def test_a_recorded_rank_has_its_collectives_with_sizes() -> None:
    trace = read_kineto(DATA / "gloo-tp2" / "ranks" / "0001" / "kineto.json.gz")
    assert dict(trace.activities.schema) == dict(ACTIVITIES)
    assert (trace.rank, trace.world_size) == (1, 2)
    counted = trace.activities.drop_nulls("op").group_by("op", "bytes").len().sort("op", "bytes")
    # 2 layers x 3 steps: prefill is 64 rows of 256 floats, decode 2 rows; then 2 tokens of 8 bytes.
    assert counted.rows() == [
        ("all_reduce", 2048, 4),
        ("all_reduce", 65536, 2),
        ("barrier", None, 1),
        ("broadcast", 16, 3),
    ]


def test_a_recorded_pipeline_has_sends_and_receives_of_its_stages() -> None:
    first = read_kineto(DATA / "gloo-tp2-pp2" / "ranks" / "0000" / "kineto.json.gz").activities
    last = read_kineto(DATA / "gloo-tp2-pp2" / "ranks" / "0003" / "kineto.json.gz").activities
    assert sizes(first, "send") == [65536, 2048, 2048] == sizes(last, "recv")
    assert sizes(first, "recv") == [16, 16, 16] == sizes(last, "send")


def sizes(activities: pl.DataFrame, op: str) -> list[int]:
    return activities.filter(pl.col("op") == op)["bytes"].to_list()


def test_a_recorded_collective_never_starts_before_its_call() -> None:
    trace = read_kineto(DATA / "gloo-tp2-pp2" / "ranks" / "0002" / "kineto.json.gz").activities
    calls = trace.filter(pl.col("name") == "c10d::allreduce_")["start_ns"].sort()
    runs = trace.filter(pl.col("name") == "gloo:all_reduce")["start_ns"].sort()
    assert (runs >= calls).all()
