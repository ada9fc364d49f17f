"""What collectors left beside the traces becomes tables; what is missing stays null."""

from pathlib import Path
from shutil import copyfile
from typing import Any

from perfkit.ingest.collected import read_collected
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
    assert [value for key, value in row.items() if key != "rank"] == [None] * 6


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
    folder.job.mkdir()
    copyfile(DATA / "slurm" / "sacct-24.11.psv", folder.job / "sacct.psv")
    (folder.node("n0")).mkdir(parents=True)
    copyfile(DATA / "nvml" / "handmade-2gpu.csv", folder.node("n0") / "nvml.csv")
    collected = read_collected(folder, [0], 0, findings)
    assert collected.counters.height == 7
    assert collected.jobs.height == 29
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
