"""A run folder as a whole: what is there, what is broken, what is missing."""

import gzip
import json
from pathlib import Path

import polars as pl
import pytest
from run_builder import KINETO, a_run

from perfkit.errors import ConfigError
from perfkit.timeline.analysis import COLLECTED, TABLES, analyze_run, analyze_traces, write_tables
from perfkit.timeline.split import SPLIT

HANDMADE = KINETO / "handmade-gpu.json"


def test_parts_of_a_recorded_run_sum_to_the_window_of_each_phase() -> None:
    split = analyze_traces([KINETO / "gloo-tp2-pp2"]).split
    assert dict(split.schema) == dict(SPLIT)
    parts = pl.sum_horizontal("compute_ns", "exposed_comm_ns", "copy_ns", "idle_ns")
    assert split.select((parts == pl.col("window_ns")).all()).item()
    assert (split.select(pl.col("idle_ns").min()).item()) >= 0
    assert split["rank"].unique().sort().to_list() == [0, 1, 2, 3]


def test_phases_of_a_recorded_stage_have_all_their_instances() -> None:
    split = analyze_traces([KINETO / "gloo-tp2-pp2"]).split.filter(pl.col("rank") == 2)
    assert dict(split.select("phase", "instances").iter_rows()) == {
        "whole": 1,
        "pp_recv": 3,
        "prefill": 1,
        "sample": 3,
        "tok_send": 3,
        "decode": 2,
    }


def test_the_handmade_gpu_trace_splits_as_worked_out_by_hand() -> None:
    split = analyze_traces([HANDMADE]).split
    columns = ("window_ns", "compute_ns", "comm_ns", "overlap_ns", "copy_ns", "idle_ns")
    found = {row["phase"]: [row[c] for c in columns] for row in split.to_dicts()}
    assert found == {
        "whole": [1000000, 170000, 190000, 50000, 7000, 683000],
        "prefill": [200000, 100000, 150000, 50000, 0, 0],
        "decode": [112000, 60000, 40000, 0, 7000, 5000],
    }
    assert split["unknown_share"][0] == pytest.approx(10 / 360)


def test_measures_and_ratio_of_a_run(tmp_path: Path) -> None:
    found = analyze_run(a_run(tmp_path / "run"))
    assert found.measures["kind"].to_list() == ["timed", "timed", "captured"]
    ttft = found.summary.row(0, named=True)
    # Rank 1 has the tokens last, 1 ms after rank 0.
    assert (ttft["measure"], ttft["min"]) == ("ttft_s", pytest.approx(0.401))
    assert found.profiler_ratio == pytest.approx(2.201 / 1.101)
    assert found.warnings == []


def test_a_broken_trace_makes_a_missing_rank_and_the_others_are_analysed(tmp_path: Path) -> None:
    root = a_run(tmp_path / "run")
    broken = root / "ranks" / "0001" / "kineto.json.gz"
    broken.write_bytes(broken.read_bytes()[:900])
    found = analyze_run(root)
    assert found.split["rank"].unique().to_list() == [0]
    assert found.missing_traces == (1,)
    assert found.warnings == [
        "ranks/0001/kineto.json.gz its gzip data is cut off: the profiler was stopped while it "
        "wrote it, or the copy is incomplete. Copy it again, or run again and let the captured "
        "pass end.",
        "no usable trace of ranks 1: the split is of the others only",
    ]


def test_a_killed_rank_is_named_and_the_rest_is_analysed(tmp_path: Path) -> None:
    failure = {"rank": 1, "host": "node0", "reason": "was killed by SIGKILL"}
    root = a_run(tmp_path / "run", traces=(), timers=(0,), state="failed", failure=failure)
    timers = root / "ranks" / "0000" / "timers.jsonl"
    timers.write_bytes(timers.read_bytes()[:-20])
    found = analyze_run(root)
    assert found.warnings[0] == (
        "this run has not finished: rank 1 on node0 was killed by SIGKILL. "
        "What it left is analysed."
    )
    assert found.missing_timers == (1,)
    assert set(found.quality["code"]) == {
        "run-not-finished",
        "timers-cut-off",
        "missing-timers",
        "no-trace",
    }
    assert found.measures.height == 2  # the captured pass lost its request line


def test_a_run_without_traces_still_has_its_measures(tmp_path: Path) -> None:
    found = analyze_run(a_run(tmp_path / "run", traces=()))
    assert found.split.is_empty()
    assert found.measures.height == 3
    assert "the split was not measured" in found.warnings[0]
    assert found.missing_traces == (0, 1)


def test_a_rank_that_left_no_status_is_a_finding(tmp_path: Path) -> None:
    root = a_run(tmp_path / "run")
    (root / "ranks" / "0001" / "status.json").unlink()
    assert "missing-status" in analyze_run(root).quality["code"].to_list()


def test_tables_are_written_with_their_declared_columns(tmp_path: Path) -> None:
    found = analyze_run(a_run(tmp_path / "run"))
    folder = write_tables(found, tmp_path / "run" / "tables")
    assert sorted(path.stem for path in folder.iterdir()) == sorted((*TABLES, *COLLECTED))
    for name in TABLES:
        assert pl.read_parquet(folder / f"{name}.parquet").equals(getattr(found, name))
    for name in COLLECTED:
        assert pl.read_parquet(folder / f"{name}.parquet").equals(getattr(found.collected, name))


def test_a_file_of_one_rank_says_which_ranks_are_missing() -> None:
    found = analyze_traces([KINETO / "gloo-tp2" / "ranks" / "0001" / "kineto.json.gz"])
    assert (found.ranks, found.missing_traces) == ((0, 1), (0,))
    assert found.warnings == ["no trace of ranks 0 of 2: give their files too"]


def test_two_files_of_one_rank_are_not_mixed() -> None:
    file = KINETO / "gloo-tp2" / "ranks" / "0000" / "kineto.json.gz"
    found = analyze_traces([file, HANDMADE])
    assert found.split["device"].unique().to_list() == ["cpu"]
    assert "same-rank" in found.quality["code"].to_list()


def test_a_trace_in_the_folder_of_another_rank_is_told(tmp_path: Path) -> None:
    root = a_run(tmp_path / "run", traces=(1,))
    moved = root / "ranks" / "0000" / "kineto.json.gz"
    (root / "ranks" / "0001" / "kineto.json.gz").rename(moved)
    assert "rank-mismatch" in analyze_run(root).quality["code"].to_list()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write the tables to"):
        write_tables(analyze_traces([HANDMADE]), tmp_path / "file" / "tables")


def test_nothing_usable_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "kineto.json").write_text("{")
    with pytest.raises(ConfigError, match=r"kineto\.json is not whole JSON"):
        analyze_traces([tmp_path])
    with pytest.raises(ConfigError, match="holds no Kineto file"):
        analyze_traces([empty])


def test_no_host_name_or_path_of_the_profiler_reaches_a_table(tmp_path: Path) -> None:
    found = analyze_run(a_run(tmp_path / "run"))
    text = "".join(getattr(found, name).write_csv() for name in TABLES)
    assert "/tmp/" not in text
    assert "trace_id" not in text


def test_a_trace_of_the_engine_without_its_marks_is_told(tmp_path: Path) -> None:
    """As nsys 2022.4 leaves it with a newer nvtx: ranges missing, exit code 0, nothing said."""
    root = a_run(tmp_path / "run")
    path = root / "ranks" / "0001" / "kineto.json.gz"
    trace = json.loads(gzip.decompress(path.read_bytes()))
    trace["traceEvents"] = [e for e in trace["traceEvents"] if e.get("cat") != "user_annotation"]
    path.write_bytes(gzip.compress(json.dumps(trace).encode()))
    found = analyze_run(root).quality.filter(pl.col("code") == "no-phases")
    assert found["text"].to_list() == [
        "no phase of the engine in the trace of ranks 1: its NVTX marks were not recorded (nsys "
        "2022.4 sees none newer than nvtx 0.2.10), so nothing is told by phase"
    ]
