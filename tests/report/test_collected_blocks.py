"""What the collectors found as people read it: one table a source, dashes where nothing is."""

import json
import re
import shutil
from pathlib import Path

import pytest
from measured_run import a_run, edited

from perfkit.cli.main import app
from perfkit.ingest.collected import Collected, read_collected
from perfkit.report.collected import absent, blocks
from perfkit.report.collected_blocks import Block
from perfkit.report.html import render_report
from perfkit.report.tables import render
from perfkit.schema import RunFolder, write_json

DATA = Path(__file__).parents[1] / "data"
ENDED = {
    "exit_code": 0,
    "signal": None,
    "started_ns": 1_000_000_000,
    "ended_ns": 11_000_000_000,
    "user_s": 6.0,
    "system_s": 2.0,
    "max_rss_bytes": 2**30,
    "involuntary_switches": 4,
}
PRODUCTS = {
    "perf-stat.jsonl": "perf/stat-j.json",
    "perf-script.txt": "perf/perf-script-py312-dwarf.txt",
    "nccl-log.txt": "nccl/p2p.txt",
}
IDS = ["resources", "processes", "counters", "stacks", "gpus", "nccl", "jobs"]


def a_recorded_run(folder: Path, accounting: str = "22.05-array") -> Path:
    """Two ranks on one node; rank 1 was killed and left no product."""
    run = RunFolder(a_run(folder, tp=2))
    for name, source in PRODUCTS.items():
        shutil.copy(DATA / source, run.rank_file(0, name))
    write_json(run.rank_file(0, "exit.json"), ENDED)
    write_json(run.rank_file(1, "exit.json"), {**ENDED, "exit_code": None, "signal": 9})
    run.node("node0").mkdir(parents=True)
    shutil.copy(DATA / "nvml" / "handmade-2gpu.csv", run.node("node0") / "nvml.csv")
    shutil.copy(DATA / "slurm" / f"sacct-{accounting}.psv", run.job / "sacct.psv")
    states = {
        "perf-stat": {"state": "failed", "reason": "no room", "ranks": [0], "missing_ranks": [1]},
        "nsys": {"state": "missing", "reason": "nsys was not found on this node"},
    }
    slurm = {"SLURM_JOB_ID": "3", "SLURM_STEP_ID": "0"}
    return edited(folder, collectors=states, slurm=slurm)


def collected(run: Path, ranks: tuple[int, ...] = (0, 1)) -> Collected:
    return read_collected(RunFolder(run), ranks, 0, [])


def block_of(run: Path, name: str) -> Block:
    """One table of the run, whose Slurm job is 3."""
    return next(block for block in blocks(collected(run), "3") if block.name == name)


def lines(run: Path, name: str) -> list[list[str]]:
    """The cells of one table as a terminal has them, its header first."""
    block = block_of(run, name)
    text = render(block.frame, block.columns, "table")
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if "─" not in line]


def test_one_table_for_each_source(tmp_path: Path) -> None:
    assert [block.name for block in blocks(collected(a_recorded_run(tmp_path / "run")))] == IDS


def test_the_source_of_every_number_stands_beside_it(tmp_path: Path) -> None:
    rows = lines(a_recorded_run(tmp_path / "run"), "resources")
    assert [
        row for row in rows if row[0].startswith(("elapsed", "peak", "energy, Sl", "GPU-"))
    ] == [
        ["elapsed [s]", "3.00", "sacct, step 3_1.0"],
        [
            "peak memory of the largest task [MiB]",
            "1,024",
            "getrusage of every rank, most on rank 0; sacct, step 3_1.0, sampled only 39.2 MiB",
        ],
        ["energy, Slurm's [kJ]", "-", "not measured: no reading, as without an energy plugin"],
        ["GPU-hours", "-", "not measured: AllocTRES names no gres/gpu"],
    ]


def test_without_accounting_what_only_it_has_is_no_row(tmp_path: Path) -> None:
    run = a_recorded_run(tmp_path / "run")
    (RunFolder(run).job / "sacct.psv").unlink()
    titles = [row[0] for row in lines(run, "resources")]
    assert titles == [
        "the run took",
        "nodes",
        "CPU time [s]",
        "peak memory of the largest task [MiB]",
        "energy of the GPUs [kJ]",
    ]


def test_a_rank_without_counters_is_a_row_of_dashes(tmp_path: Path) -> None:
    block = block_of(a_recorded_run(tmp_path / "run"), "counters")
    assert [column.title for column in block.columns][:3] == [
        "rank",
        "task-clock msec",
        "context-switches",
    ]
    assert block.frame["context-switches"].to_list() == [39.0, None]
    assert block.frame["cycles"].to_list() == [None, None]  # asked for, not supported here
    assert block.notes == [
        "cycles: not supported on this machine",
        "instructions: not supported on this machine",
    ]


def test_false_zeros_are_dashes_with_the_reason(tmp_path: Path) -> None:
    run = a_recorded_run(tmp_path / "run")
    shutil.copy(
        DATA / "perf" / "stat-x-nonroot-paranoid2.csv",
        RunFolder(run).rank_file(1, "perf-stat.jsonl"),
    )
    block = block_of(run, "counters")
    assert block.frame["context-switches"].to_list() == [39.0, None]
    assert any(note.startswith("context-switches: false zero") for note in block.notes)
    assert "user space only: the kernel's share is in none of them" in block.notes


def test_intervals_are_summed_and_a_gap_leaves_no_sum(tmp_path: Path) -> None:
    run = a_recorded_run(tmp_path / "run")
    shutil.copy(
        DATA / "perf" / "stat-x-interval.csv", RunFolder(run).rank_file(0, "perf-stat.jsonl")
    )
    block = block_of(run, "counters")
    assert block.frame["context-switches"].to_list() == [37.0, None]  # 29 + 8


def test_the_functions_of_the_sampled_ranks(tmp_path: Path) -> None:
    run = a_recorded_run(tmp_path / "run")
    assert lines(run, "stacks")[1:3] == [
        ["0", "pymalloc_alloc", "2", "22.2 %"],
        ["0", "_PyInterpreterState_GET", "1", "11.1 %"],
    ]
    assert block_of(run, "stacks").notes[0].startswith("sampled: rank 0 of 2;")


def test_the_network_that_nccl_used(tmp_path: Path) -> None:
    assert lines(a_recorded_run(tmp_path / "run"), "nccl")[1:] == [
        ["0", "2.28.9+cuda13.0", "P2P/CUMEM", "2", "Socket"],
        ["1", "-", "-", "-", "-"],
    ]


def test_the_job_has_its_own_rows_with_exit_and_signal(tmp_path: Path) -> None:
    run = a_recorded_run(tmp_path / "run")
    assert [row[:5] for row in lines(run, "jobs")[1:]] == [
        ["3_1", "COMPLETED", "0", "1", "-"],
        ["3_1.batch", "COMPLETED", "0", "1", "1"],
        ["3_1.0", "COMPLETED", "0", "1", "1"],
    ]
    assert block_of(run, "jobs").notes[2:] == [
        "nodes: node0",
        "3 rows of the array's other tasks are in jobs.parquet",
    ]
    timeout = blocks(collected(a_recorded_run(tmp_path / "other", "22.05-timeout")), "1")[-1]
    assert timeout.frame["exit"].to_list() == ["0", "0:15", "15"]


def test_what_is_not_there_says_what_is_lost(tmp_path: Path) -> None:
    assert absent(collected(a_recorded_run(tmp_path / "run")))[:2] == [
        "perf-stat: failed on rank 1, recorded 1 of 2 ranks: no room. "
        "Without it: no CPU time, context switches or instructions of the ranks.",
        "nsys: nsys was not found on this node. "
        "Without it: no GPU timeline: no kernels, no NCCL time, no launches.",
    ]


def test_a_rank_that_was_not_seen_to_end_is_counted(tmp_path: Path) -> None:
    run = a_recorded_run(tmp_path / "run")
    RunFolder(run).rank_file(1, "exit.json").unlink()
    assert block_of(run, "processes").notes[1:] == ["1 of 2 ranks were seen to end"]
    rows = lines(run, "processes")[1:]
    assert rows == [["0", "exit 0", "10.0", "8.00", "0.800", "1,024", "4"], ["1", *["-"] * 6]]


def test_the_page_has_a_section_for_it(tmp_path: Path) -> None:
    page = render_report(a_recorded_run(tmp_path / "run"))
    section = page.partition('<section id="collected">')[2].partition("</section>")[0]
    assert re.findall(r'<table id="(\w+)"', section) == IDS
    assert "<td" in section
    assert "signal 9" in section
    assert "<li>nsys: nsys was not found on this node." in section
    assert "not asked for: kineto" in section
    assert '<a href="#collected">Collected</a>' in page


def test_without_collectors_the_page_says_what_is_lost(tmp_path: Path) -> None:
    page = render_report(edited(a_run(tmp_path / "run"), collectors={}))
    section = page.partition('<section id="collected">')[2].partition("</section>")[0]
    assert re.findall(r'<table id="(\w+)"', section) == ["resources"]
    assert "sacct (no elapsed time, peak memory or energy from Slurm)" in section


def test_json_has_every_table_and_the_hottest_functions_for_the_stacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_recorded_run(tmp_path / "run")
    app(["analyze", str(run), "--format", "json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert [len(found[name]) for name in ("processes", "gpus", "nccl", "jobs")] == [2, 2, 1, 6]
    assert found["hottest_functions"][0]["function"] == "pymalloc_alloc"
    assert "stacks" not in found
    energy = {"row_id": "3_1.0", "number": "consumed_energy_j"}
    assert [row["source"] for row in found["job_sources"] if energy.items() <= row.items()] == [
        "not measured: energy is of whole nodes, only the job's row has it"
    ]
    assert (run / "tables" / "stacks.parquet").is_file()
