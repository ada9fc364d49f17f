"""Runs side by side: README has what the command prints, and what is missing stays missing."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from measured_run import a_run, edited
from test_html import EVIL

from perfkit.cli.main import app
from perfkit.compare.run_facts import told_to_nccl
from perfkit.errors import ConfigError, ToolMissing
from perfkit.report.given import given
from perfkit.report.html import Findings
from perfkit.report.side_by_side import find_all, runs_table
from perfkit.report.written import html, markdown_of, write
from perfkit.schema import RunFolder, read_json

ROOT = Path(__file__).parents[2]
TRACES = ROOT / "traces"
EAGER, GRAPH, TP2 = (TRACES / f"h200-8b-{name}" for name in ("tp1-eager", "tp1-graph", "tp2"))
PRINTED = re.compile(r"<!-- (perfkit report .*?) -->\n(.*)<!-- end of what it prints -->", re.S)
PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """No Vega bundle is left in the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERFKIT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def found_in(*runs: Path) -> list[Findings]:
    found, unread = find_all(runs)
    assert unread == []
    return found


def row_of(*runs: Path) -> dict[str, Any]:
    """The first run's row."""
    return runs_table(found_in(*runs)).row(0, named=True)


def cells(markdown: str, run: str) -> list[str]:
    """The cells of a run's row."""
    (line,) = [line for line in markdown.splitlines() if line.startswith(f"| {run} ")]
    return line.strip("| ").split(" | ")


def a_copy(recorded: Path, folder: Path, *without: str) -> Path:
    """A recorded run without some of its files, given as patterns."""
    run = Path(shutil.copytree(recorded, folder))
    for pattern in without:
        for file in run.glob(pattern):
            file.unlink()
    return run


def test_readme_has_what_the_command_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    found = PRINTED.search(Path("README.md").read_text(encoding="utf-8"))
    assert found is not None
    command, written = found.groups()
    assert command == "perfkit report traces/*/ --format md"
    runs = [str(run) for run in Path("traces").glob("*/")]
    app(["report", *runs, "--format", "md"], standalone_mode=False)
    assert capsys.readouterr().out == written, "README.md is stale: `make readme` updates it"


def test_a_graph_step_on_one_gpu_is_nearly_all_compute() -> None:
    """Where the profiler costs nothing, the captured step is the measured TPOT."""
    row = row_of(GRAPH)
    assert (row["device"], row["gpus_of_host"], row["tp"], row["pp"]) == ("NVIDIA H200", 2, 1, 1)
    assert (row["decode"], row["date"], row["torch"]) == ("graph", "2026-11-23", "2.11.0")
    assert row["tpot_s"] == pytest.approx(4.286e-3, rel=1e-3)
    assert row["step_ns"] == pytest.approx(4.331e6, rel=1e-3)
    assert row["compute_ns"] == pytest.approx(4.170e6, rel=1e-3)
    assert (row["transfer_ns"], row["wait_ns"], row["untold_comm_ns"]) == (0, 0, 0)
    assert row["slowed"] == pytest.approx(1.008, rel=1e-3)
    assert row["peak_gpu_bytes"] == 17_656_774_656


def test_two_ranks_waited_for_each_other_over_nvlink() -> None:
    row = row_of(TP2)
    assert (row["link"], row["nccl"]) == ("P2P/CUMEM", "2.28.9+cuda13.0")
    assert (row["traced_ranks"], row["ranks"]) == (2, 2)
    assert row["wait_ns"] == pytest.approx(31.5e6, rel=1e-2)
    assert row["transfer_ns"] == pytest.approx(0.437e6, rel=1e-2)
    parts = ("compute", "transfer", "wait", "untold_comm", "launch_bound", "other")
    assert sum(row[f"{part}_ns"] for part in parts) == pytest.approx(row["step_ns"])


def test_eager_and_graph_of_one_configuration_stand_below_each_other() -> None:
    found = found_in(TP2, GRAPH, EAGER)
    assert [one.path.name for one in found] == ["h200-8b-tp1-eager", "h200-8b-tp1-graph", TP2.name]


def test_without_a_trace_the_shares_are_not_recorded(tmp_path: Path) -> None:
    run = a_copy(GRAPH, tmp_path / "bare", "ranks/*/kineto.json.gz")
    row = cells(markdown_of(given([run])), "bare")
    assert row[5:8] == ["4.29 (4.29 - 4.29)", "168", row[7]]
    assert row[8] == "not recorded"
    assert "<td" in html(given([run, GRAPH])).decode()
    assert row_of(run)["step_ns"] is None


def test_without_timers_the_speed_is_a_dash(tmp_path: Path) -> None:
    run = a_copy(GRAPH, tmp_path / "untimed", "ranks/*/timers.jsonl", "ranks/*/engine.json")
    row = cells(markdown_of(given([run])), "untimed")
    assert row[4:7] == ["-", "-", "-"]
    assert row[8:] == ["96 / 0 / 0 / 4", "-", "-"]


def test_of_a_part_of_the_ranks_it_says_so(tmp_path: Path) -> None:
    """Alone, a rank does not tell whether NCCL waited or transferred."""
    run = a_copy(TP2, tmp_path / "half", "ranks/0001/kineto.json.gz")
    assert cells(markdown_of(given([run])), "half")[8] == "7 / NCCL 74 / 19 (1 of 2 ranks)"


def test_a_failed_run_is_told_wherever_it_stands(tmp_path: Path) -> None:
    failure = {"rank": 0, "host": "node0", "reason": "was killed by SIGKILL"}
    run = edited(a_run(tmp_path / "broken", state="failed"), failure=failure)
    assert cells(markdown_of(given([run])), "broken (failed)")[3:5] == ["16 + 10", "110"]
    header = html(given([run, GRAPH])).decode().partition("</header>")[0]
    assert "Run broken: FAILED because of rank 0" in header


def test_a_run_that_never_started_has_a_row(tmp_path: Path) -> None:
    run = tmp_path / "never"
    run.mkdir()
    (run / "run.json").write_text('{"schema_version": 1, "state": "preparing"}')
    row = cells(markdown_of(given([run])), "never (preparing)")
    assert row[1:] == ["-", "-", "-", "-", "-", "-", "-", "not recorded", "-", "-"]


def test_a_graph_that_was_not_captured_is_not_called_one(tmp_path: Path) -> None:
    run = a_copy(GRAPH, tmp_path / "run")
    engine = RunFolder(run).rank_file(0, "engine.json")
    engine.write_text(engine.read_text().replace('"captured": true', '"captured": false'))
    assert row_of(run)["decode"] == "graph, not captured"


def test_the_same_configuration_twice_keeps_two_bars(tmp_path: Path) -> None:
    from perfkit.report.side_by_side_charts import labels

    again = a_copy(GRAPH, tmp_path / "again")
    names = labels(runs_table(found_in(GRAPH, again)))
    assert names == ["TP1 PP1 graph, again", "TP1 PP1 graph, h200-8b-tp1-graph"]


def test_a_bar_is_of_the_captured_step_and_points_are_of_both_times() -> None:
    from perfkit.report.side_by_side_charts import step_colours, tpot_figures

    runs = runs_table(found_in(EAGER))
    (figure,) = tpot_figures(runs)
    bars, _rule, points = (layer["encoding"] for layer in figure.spec["layer"])
    assert bars["color"]["scale"]["domain"] == list(step_colours(runs))
    assert list(step_colours(runs)) == ["compute", "launch-bound idle", "other idle"]
    assert points["shape"]["scale"]["range"] == ["diamond", "circle"]
    assert "TP1 PP1 eager: measured 24.5 ms" in figure.alt
    assert "captured step compute 6.59 ms, launch-bound idle 44.1 ms" in figure.alt


def test_files_among_the_runs_are_left_out_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    readme = TRACES / "README.md"
    app(["report", str(readme), str(GRAPH), "--format", "md"], standalone_mode=False)
    printed = capsys.readouterr()
    assert f"{readme} is a file, not a run folder: left out" in printed.err
    assert "| h200-8b-tp1-graph |" in printed.out
    with pytest.raises(ConfigError, match=r"README\.md is a file, not a run folder"):
        app(["report", str(readme), "--format", "md"], standalone_mode=False)


def test_the_ending_of_the_name_says_what_is_written(tmp_path: Path) -> None:
    starts = {"svg": b"<svg ", "png": PNG, "md": b"**llama-3.1-8b", "html": b"<!DOCTYPE html>"}
    for suffix, start in starts.items():
        out = tmp_path / f"runs.{suffix}"
        app(["report", str(EAGER), str(GRAPH), "-o", str(out)], standalone_mode=False)
        assert out.read_bytes().startswith(start)
    svg = (tmp_path / "runs.svg").read_text()
    assert "prefers-color-scheme: dark" in svg
    assert "TP1 PP1 graph" in svg
    assert ">predicted</text>" in svg
    assert ">measured</text>" in svg


def test_an_existing_picture_needs_force(tmp_path: Path) -> None:
    out = tmp_path / "runs.svg"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="--force"):
        write(given([GRAPH]), out, "svg")
    assert out.read_text() == "mine"


def test_markdown_needs_no_extra_and_a_picture_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    assert "h200-8b-tp1-graph" in markdown_of(given([GRAPH]))
    with pytest.raises(ToolMissing, match=r"pip install 'perfkit\[report\]'"):
        write(given([GRAPH]), tmp_path / "runs.svg", "svg")


def test_names_stay_text(tmp_path: Path) -> None:
    run = a_copy(GRAPH, tmp_path / "evil")
    record = read_json(run / "run.json")
    record["config"]["model_id"] = record["layout"][0]["device"] = record["id"] = EVIL
    page = html(given([edited(run, **record), GRAPH])).decode()
    assert EVIL not in page
    assert "alert(&#39;x&#39;)" in page
    for spec in re.findall(r'class="spec">(.*?)</script>', page, re.S):
        assert "<" not in spec


def test_with_nothing_measured_there_is_a_page_and_no_picture(tmp_path: Path) -> None:
    run = tmp_path / "never"
    run.mkdir()
    (run / "run.json").write_text('{"schema_version": 1, "state": "preparing"}')
    again = a_copy(run, tmp_path / "again")
    assert "Run never: PREPARING, NO MEASUREMENT" in html(given([run, again])).decode()
    with pytest.raises(ConfigError, match="no picture"):
        write(given([run, again]), tmp_path / "runs.svg", "svg")


def test_the_link_is_what_nccl_was_told_where_its_log_is_missing() -> None:
    told = {"nccl": {"NCCL_SHM_DISABLE": "1", "NCCL_P2P_DISABLE": "1"}}
    assert told_to_nccl(told) == "NCCL_P2P_DISABLE=1 NCCL_SHM_DISABLE=1"
    assert told_to_nccl({}) is None
