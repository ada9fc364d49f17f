"""What collectors left beside the traces becomes tables; what is missing stays null."""

from pathlib import Path
from shutil import copyfile
from typing import Any

import polars as pl
import pytest

from perfkit.ingest.collected import SCHEMAS, nothing, read_collected
from perfkit.report.collected import sections
from perfkit.schema import RunFolder, write_json

DATA = Path(__file__).parents[1] / "data"
ENDED = {
    "pid": 7,
    "exit_code": 0,
    "signal": None,
    "started_ns": 1_000_000_000,
    "ended_ns": 11_000_000_000,
    "user_s": 6.0,
    "system_s": 2.0,
    "max_rss_bytes": 2**30,
    "voluntary_switches": 3,
    "involuntary_switches": 4,
}


def a_folder(tmp_path: Path, **changes: Any) -> RunFolder:
    folder = RunFolder(tmp_path)
    write_json(folder.rank_file(0, "exit.json"), {**ENDED, **changes})
    return folder


def test_the_witness_gives_cpu_time_and_memory(tmp_path: Path) -> None:
    row = read_collected(a_folder(tmp_path), [0], 0, []).processes.row(0, named=True)
    assert (row["wall_s"], row["cpu_s"], row["max_rss_bytes"]) == (10.0, 8.0, 2**30)


def test_a_rank_whose_witness_wrote_nothing_is_a_row_of_nulls(tmp_path: Path) -> None:
    row = read_collected(a_folder(tmp_path), [0, 1], 0, []).processes.row(1, named=True)
    assert [value for key, value in row.items() if key != "rank"] == [None] * 7


def test_what_stood_around_a_program_says_how_it_ended_when_nobody_saw_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    ends = (("SIGTERM", None), (None, 3), (None, 0))
    for rank, (signal, code) in enumerate(ends):
        write_json(folder.rank_file(rank, "exit.json"), {"pid": 7, "exit_code": None})
        write_json(folder.rank_file(rank, "status.json"), {"signal": signal, "exit_code": code})
    found = read_collected(folder, [0, 1, 2], 0, []).processes
    assert found.select("exit_code", "signal", "seen_by").rows() == [
        (None, 15, "supervisor"),
        (3, None, "supervisor"),
        (None, None, None),  # perf ends with 0 when its program was killed
    ]


def test_a_signal_is_named_in_the_table(tmp_path: Path) -> None:
    collected = read_collected(a_folder(tmp_path, exit_code=None, signal=9), [0], 0, [])
    text = "".join(sections(collected, "table"))
    assert "signal 9" in text
    assert "0.800" in text


def test_nothing_collected_prints_nothing(tmp_path: Path) -> None:
    assert list(sections(read_collected(RunFolder(tmp_path), [0], 0, []), "table")) == []


def test_recorded_products_are_read(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    findings: list[dict[str, Any]] = []
    copyfile(DATA / "perf" / "stat-j.json", folder.rank_file(0, "perf-stat.jsonl"))
    copyfile(DATA / "perf" / "perf-script-py312.txt", folder.rank_file(0, "perf-script.txt"))
    copyfile(DATA / "nccl" / "shm.txt", folder.rank_file(0, "nccl-log.txt"))
    folder.job.mkdir()
    copyfile(DATA / "slurm" / "sacct-24.11.psv", folder.job / "sacct.psv")
    (folder.node("n0")).mkdir(parents=True)
    copyfile(DATA / "nvml" / "handmade-2gpu.csv", folder.node("n0") / "nvml.csv")
    collected = read_collected(folder, [0], 0, findings)
    assert collected.counters.height == 7
    assert collected.stacks["samples"].sum() == 7
    assert collected.nccl["transports"].to_list() == ["SHM"]
    assert (collected.jobs.height, collected.job_sources.height) == (29, 29 * 14)
    assert collected.gpus["gpu"].to_list() == [0, 1]
    assert collected.gpus["host"].unique().to_list() == ["n0"]


def test_an_unreadable_product_is_a_finding_and_no_error(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    findings: list[dict[str, Any]] = []
    folder.job.mkdir()
    (folder.job / "sacct.psv").write_text("no accounting here\n")
    assert read_collected(folder, [0], 0, findings).jobs.is_empty()
    assert findings[0]["code"] == "unreadable-product"
    assert findings[0]["source"] == "job/sacct.psv"


def test_every_table_has_its_declared_columns(tmp_path: Path) -> None:
    found = read_collected(RunFolder(tmp_path), [0], 0, [])
    for name, schema in SCHEMAS.items():
        assert dict(getattr(found, name).schema) == dict(schema), name
        assert dict(getattr(nothing(), name).schema) == dict(schema), name


def collectors(folder: RunFolder, **states: dict[str, Any]) -> None:
    """A run.json that says what collectors did."""
    named = {name.replace("_", "-"): state for name, state in states.items()}
    warnings = ["perf-stat failed on ranks [1]: left no perf-stat.jsonl"]
    write_json(folder.run_json, {"collectors": named, "warnings": warnings})


def test_what_collectors_did_is_a_table_with_those_nobody_asked_for(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    lost = {"state": "failed", "reason": "no room", "ranks": [0], "missing_ranks": [1]}
    collectors(folder, perf_stat=lost, nvml={"state": "missing", "reason": "no GPU"})
    table = read_collected(folder, [0, 1], 0, []).collectors
    rows = {row["collector"]: row for row in table.to_dicts()}
    names = ("state", "ranks", "missing_ranks", "reason", "lost")
    assert [rows["perf-stat"][name] for name in names] == [
        *("failed", [0], [1], "no room"),
        "no CPU time, context switches or instructions of the ranks",
    ]
    assert (rows["nvml"]["state"], rows["nvml"]["reason"]) == ("missing", "no GPU")
    assert rows["nccl-log"]["state"] == "not asked"
    assert "rocprof" not in rows  # declared, but untested


def test_warnings_of_the_run_are_in_the_tables_too(tmp_path: Path) -> None:
    folder, findings = a_folder(tmp_path), list[dict[str, Any]]()
    collectors(folder)
    read_collected(folder, [0], 0, findings)
    assert [(row["code"], row["source"], row["text"]) for row in findings] == [
        ("run-warning", "run.json", "perf-stat failed on ranks [1]: left no perf-stat.jsonl")
    ]


def test_a_product_that_was_recorded_and_is_not_here_is_a_finding(tmp_path: Path) -> None:
    folder, findings = a_folder(tmp_path), list[dict[str, Any]]()
    collectors(folder, perf_stat={"state": "ran", "ranks": [0, 1, 2], "missing_ranks": []})
    copyfile(DATA / "perf" / "stat-j.json", folder.rank_file(0, "perf-stat.jsonl"))
    read_collected(folder, [0, 1, 2], 0, findings)
    assert [row["text"] for row in findings if row["code"] == "missing-product"] == [
        "perf-stat recorded ranks 1, 2, but perf-stat.jsonl is not here: was all copied?"
    ]


def test_what_the_run_has_warned_of_is_not_warned_of_twice(tmp_path: Path) -> None:
    folder, findings = a_folder(tmp_path), list[dict[str, Any]]()
    collectors(folder, perf_stat={"state": "failed", "ranks": [], "missing_ranks": [0]})
    folder.rank_file(0, "perf-stat.jsonl").write_text("")
    read_collected(folder, [0], 0, findings)
    assert [(row["code"], row["severity"]) for row in findings] == [
        ("run-warning", "warning"),
        ("perf-stat-empty", "info"),
    ]


def test_sockets_between_nodes_are_told(tmp_path: Path) -> None:
    folder, findings = a_folder(tmp_path), list[dict[str, Any]]()
    copyfile(DATA / "nccl" / "socket.txt", folder.rank_file(0, "nccl-log.txt"))
    read_collected(folder, [0], 0, findings)
    assert [row["code"] for row in findings] == ["nccl-sockets"]


def test_slurm_is_asked_how_the_runs_own_task_ended(tmp_path: Path) -> None:
    folder, findings = a_folder(tmp_path), list[dict[str, Any]]()
    write_json(folder.run_json, {"slurm": {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0"}})
    folder.job.mkdir()
    copyfile(DATA / "slurm" / "sacct-22.05-timeout.psv", folder.job / "sacct.psv")
    found = read_collected(folder, [0], 0, findings)
    assert [(row["code"], row["text"]) for row in findings] == [
        ("ended-by-slurm", "Slurm ended the job: TIMEOUT after 00:01:28, limit 00:01:00")
    ]
    hours = found.resources.row(by_predicate=pl.col("quantity") == "gpu_hours", named=True)
    assert hours["value"] == pytest.approx(4 * 88 / 3600)
