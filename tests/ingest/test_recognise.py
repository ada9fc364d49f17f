"""What a path is, by what is in it; run folders with nsys files; one broken file stops no other."""

import json
import shutil
from pathlib import Path

import pytest
import typer
from nsys_builder import an_export, call, kernel, pushed
from trace_builder import a_trace, operation
from typer.testing import CliRunner

from perfkit.cli import analyze
from perfkit.errors import ConfigError
from perfkit.ingest.recognise import read_traces, trace_files
from perfkit.timeline.analysis import analyze_paths, analyze_run, analyze_traces

DATA = Path(__file__).parent.parent / "data"
H200 = DATA / "nsys" / "h200x2-allreduce-2025.3.sqlite"
CPU = DATA / "nsys" / "cpu-rank-2022.4.sqlite"


@pytest.fixture
def no_nsys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which the collector's rules find no nsys."""
    folder = tmp_path / "collectors"
    folder.mkdir()
    rules = '[program]\nnames = ["nsys-that-is-not-here"]\n'
    (folder / "nsys.toml").write_text(f'summary = "x"\nscope = "rank"\nabsence = "x"\n{rules}')
    monkeypatch.setenv("PERFKIT_COLLECTORS_DIR", str(folder))


def a_run(root: Path, *, ranks: int = 2, task: str = "program") -> Path:
    """A run of a program without anything of its ranks."""
    run = {"schema_version": 1, "id": root.name, "task": task, "state": "finished", "config": {}}
    layout = [{"rank": rank, "host": f"node{rank}"} for rank in range(ranks)]
    root.mkdir(parents=True)
    (root / "run.json").write_text(json.dumps({**run, "layout": layout, "warnings": []}))
    for rank in range(ranks):
        folder = root / "ranks" / f"{rank:04d}"
        folder.mkdir(parents=True)
        (folder / "status.json").write_text(json.dumps({"schema_version": 1, "rank": rank}))
    return root


def test_content_and_not_the_name_says_what_a_file_is(tmp_path: Path) -> None:
    exported = Path(shutil.copy(CPU, tmp_path / "mine.trace"))
    assert read_traces(exported)[0].recognised == "Nsight Systems 2022.4.2.1 SQLite export"
    recorded = a_trace(tmp_path / "other.trace", operation("aten::mm", 0, 9))
    assert read_traces(recorded)[0].recognised == "PyTorch profiler (Kineto) trace"


def test_a_file_that_only_has_the_name_of_an_export_says_so(tmp_path: Path) -> None:
    path = tmp_path / "mine.sqlite"
    path.write_text("{}")
    with pytest.raises(ConfigError, match=r"mine\.sqlite is no SQLite file"):
        read_traces(path)


def test_a_folder_is_searched_for_every_kind_of_trace(tmp_path: Path) -> None:
    a_trace(tmp_path / "rank0.json", operation("aten::mm", 0, 9), rank=0)
    an_export(tmp_path / "node1" / "rank1.sqlite", kernel("k", 1, 2))
    (tmp_path / "node1" / "rank1.nsys-rep").write_bytes(b"its export stands beside it")
    (tmp_path / "node2" / "rank2_pqtdir").mkdir(parents=True)
    (tmp_path / "node2" / "rank2_pqtdir" / "StringIds.parquet").write_bytes(b"")
    an_export(tmp_path / "node2" / "rank2.sqlite", kernel("k", 1, 2))
    (tmp_path / "notes.txt").write_text("not a trace")
    assert [str(path.relative_to(tmp_path)) for path in trace_files(tmp_path)] == [
        "node1/rank1.sqlite",
        "node2/rank2_pqtdir",
        "rank0.json",
    ]


def test_a_report_without_nsys_says_what_to_do(tmp_path: Path, no_nsys: None) -> None:
    report = tmp_path / "a.nsys-rep"
    report.write_bytes(b"only nsys can read this")
    with pytest.raises(
        ConfigError, match=r"a\.nsys-rep is a report.*no nsys was found here.*export"
    ):
        read_traces(report)
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["a.nsys-rep"]


def test_a_recording_without_a_report_says_how_to_make_one(tmp_path: Path) -> None:
    path = tmp_path / "a.qdstrm"
    path.write_bytes(b"what the recorder left")
    with pytest.raises(ConfigError, match=r"QdstrmImporter -i a\.qdstrm"):
        read_traces(path)


def test_broken_files_are_told_and_the_others_analysed(tmp_path: Path) -> None:
    an_export(tmp_path / "rank0.sqlite", kernel("k", 10, 20, correlationId=1), call(5, 1))
    (tmp_path / "rank1.sqlite").write_bytes(H200.read_bytes()[:50_000])
    (tmp_path / "rank2.sqlite").write_bytes(b"")
    (tmp_path / "rank3.json").write_text('{"traceEvents": [')
    found = analyze_traces([tmp_path])
    assert found.split["rank"].to_list() == [0]
    broken = found.quality.filter(code="unreadable-trace")
    assert [Path(source).name for source in broken["source"]] == [
        "rank1.sqlite",
        "rank2.sqlite",
        "rank3.json",
    ]
    assert "is cut off: it has 50000 of" in broken["text"][0]


def test_a_program_run_is_analysed_without_timers_or_stages(tmp_path: Path) -> None:
    root = a_run(tmp_path / "run")
    for rank in range(2):
        folder = root / "ranks" / f"{rank:04d}"
        rows = [kernel("gemm", 10, 20 + rank, correlationId=1), call(5, 1), pushed("step", 1, 9)]
        an_export(folder / "nsys.sqlite", *rows)
    found = analyze_run(root)
    assert found.split.select("rank", "phase", "window_ns", "compute_ns").rows() == [
        (0, "whole", 10, 10),
        (0, "step", 10, 10),
        (1, "whole", 11, 11),
        (1, "step", 11, 11),
    ]
    assert found.warnings == []
    assert (found.missing_traces, found.recognised) == (
        (),
        ("Nsight Systems SQLite export, ranks 0, 1",),
    )
    assert found.clock_of == {0: "ranks/0000/nsys.sqlite", 1: "ranks/0001/nsys.sqlite"}


def test_the_processes_that_a_lone_rank_started_are_ranks(tmp_path: Path) -> None:
    """`perfkit run --collect nsys -- torchrun ...` is one rank, which starts the real ones."""
    root = a_run(tmp_path / "run", ranks=1)
    shutil.copy(H200, root / "ranks" / "0000" / "nsys.sqlite")
    found = analyze_run(root)
    assert (found.ranks, found.missing_traces) == ((0, 1), ())
    assert found.split["rank"].unique().sort().to_list() == [0, 1]


def test_a_program_run_without_a_trace_says_how_to_record_one(tmp_path: Path) -> None:
    found = analyze_run(a_run(tmp_path / "run"))
    assert found.warnings == [
        "the split was not measured: no rank left a trace. Record the program with --collect nsys, "
        "where there is a GPU"
    ]


def test_what_can_be_read_is_taken_when_the_better_one_is_broken(tmp_path: Path) -> None:
    root = a_run(tmp_path / "run", ranks=1)
    folder = root / "ranks" / "0000"
    (folder / "kineto.json.gz").write_bytes(b"\x1f\x8b cut off")
    an_export(folder / "nsys.sqlite", kernel("gemm", 10, 20))
    found = analyze_run(root)
    assert found.split["kernels"].to_list() == [1]
    assert found.quality["code"].to_list()[0] == "unreadable-trace"


def test_without_phases_the_whole_is_split_all_the_same() -> None:
    (quick,), (full,) = analyze_paths([H200], phases=False), analyze_paths([H200])
    columns = [
        "rank",
        "device",
        "phase",
        "window_ns",
        "compute_ns",
        "comm_ns",
        "copy_ns",
        "idle_ns",
    ]
    assert quick.split.select(columns).equals(full.split.filter(phase="whole").select(columns))
    assert quick.ranges.is_empty()


def test_analyze_says_on_stderr_what_it_recognised(tmp_path: Path) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(analyze.command)
    answer = CliRunner().invoke(app, [str(H200)], catch_exceptions=False)
    assert answer.stderr.splitlines()[0] == f"{H200}: Nsight Systems SQLite export, ranks 0, 1"
    assert "cuda:1" in answer.stdout
    quick = CliRunner().invoke(app, [str(H200), "--no-phases"], catch_exceptions=False)
    assert " step " in answer.stdout
    assert " step " not in quick.stdout
