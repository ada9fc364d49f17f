"""A run that went wrong: every output names the cause in its first lines, and who is missing."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from measured_run import a_run, edited

from perfkit.cli.main import app
from perfkit.report.ending import first_lines
from perfkit.report.html import render_report
from perfkit.report.time_split_output import beside
from perfkit.schema import RunFolder
from perfkit.timeline.analysis import analyze_run

DATA = Path(__file__).parents[1] / "data"
TRACES = DATA / "kineto" / "gloo-tp2-pp2" / "ranks"
ENDED_AT = "2026-11-23T01:28:29.088+00:00"
BY_SIGTERM = {
    "reason": "stopped by SIGTERM (scancel, a time limit or kill)",
    "signal": "SIGTERM",
}
TWO_IS_MISSING = [
    "missing: rank 2 left no timers and no trace: what follows is of 3 of 4 ranks",
    "rank 2 of the last stage lacks 2 of 2 timed passes: TTFT, TPOT and throughput, which are the "
    "slowest rank's, may look better than they are",
]
STOPPED = "stopped by SIGTERM (scancel, a time limit or kill) at 2026-11-23 01:28:29 UTC"

# name -> what run.json says, Slurm's accounting, ranks that left nothing, the first lines
FAILURES: dict[str, tuple[Mapping[str, Any], str | None, tuple[int, ...], list[str]]] = {
    "exits 7": (
        {
            "state": "failed",
            "failure": {
                "rank": 2,
                "host": "node1",
                "reason": "exited with code 7\nTraceback: boom",
                "exit_code": 7,
            },
        },
        None,
        (2,),
        ["rank 2 on node1: exited with code 7", *TWO_IS_MISSING],
    ),
    "killed": (
        {
            "state": "failed",
            "failure": {"rank": 2, "host": "node1", "reason": "was killed by SIGKILL (by somebody"},
        },
        None,
        (2,),
        ["rank 2 on node1: was killed by SIGKILL (by somebody", *TWO_IS_MISSING],
    ),
    "scancel": (
        {"state": "stopped", "ended_at": ENDED_AT, "failure": BY_SIGTERM},
        "scancel",
        (),
        [STOPPED, "Slurm ended the job: CANCELLED by user 0 after 00:00:01"],
    ),
    "TIMEOUT": (
        {"state": "stopped", "ended_at": ENDED_AT, "failure": BY_SIGTERM},
        "timeout",
        (),
        [STOPPED, "Slurm ended the job: TIMEOUT after 00:01:28, limit 00:01:00"],
    ),
    "out of memory": (
        {
            "state": "failed",
            "failure": {"rank": 2, "host": "node0", "reason": "was killed by SIGKILL"},
        },
        "oom",
        (2,),
        [
            "rank 2 on node0: was killed by SIGKILL",
            "Slurm ended the job: OUT_OF_MEMORY after 00:00:04",
            *TWO_IS_MISSING,
        ],
    ),
    "full disk": (
        {
            "state": "failed",
            "failure": {"rank": 0, "host": "a", "reason": "No space left (full file system)"},
        },
        None,
        (),
        ["rank 0 on a: No space left (full file system)"],
    ),
    "perfkit killed": (
        {"state": "running"},
        None,
        (2,),
        [
            "run.json still says running: the run goes on, or perfkit itself was killed. "
            "`perfkit collect {run}` tells which",
            *TWO_IS_MISSING,
        ],
    ),
}


def broken(folder: Path, name: str) -> tuple[Path, list[str]]:
    """The run folder of one failure, and the lines that must come first."""
    record, accounting, gone, lines = FAILURES[name]
    run = edited(a_run(folder, gone=gone, tp=2, pp=2), **record)
    for rank in set(range(4)) - set(gone):
        trace = TRACES / f"{rank:04d}" / "kineto.json.gz"
        shutil.copy(trace, RunFolder(run).rank_file(rank, "kineto.json.gz"))
    if accounting:
        sacct = DATA / "slurm" / f"sacct-22.05-{accounting}.psv"
        shutil.copy(sacct, RunFolder(run).job / "sacct.psv")
    return run, [line.replace("{run}", str(run)) for line in lines]


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[str, str]:
    """stdout and stderr of a command."""
    capsys.readouterr()
    app([*map(str, arguments)], standalone_mode=False)
    said = capsys.readouterr()
    return said.out, said.err


@pytest.mark.parametrize("name", FAILURES)
def test_the_first_lines_name_the_cause_and_who_is_missing(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, lines = broken(tmp_path / "run", name)
    for command in (("analyze", run), ("compare", run, "--gpu", "h200-sxm")):
        printed = call(capsys, *command)[0].splitlines()
        assert printed[1 : 1 + len(lines)] == lines, command
        document = json.loads(call(capsys, *command, "--format", "json")[0])
        assert document["ending"] == lines
        assert document["warnings"]
        assert [text for text in document["warnings"] if f"warning: {text}" not in printed] == []
    header = render_report(run).partition("</header>")[0]
    said = re.findall(r'<p class="ending">(.*?)</p>', header)
    assert [text.replace("&#39;", "'") for text in said] == lines


def test_every_format_has_the_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, lines = broken(tmp_path / "run", "exits 7")
    warnings = analyze_run(run).warnings
    assert len(warnings) > 3
    for command in (("analyze", run), ("compare", run, "--gpu", "h200-sxm")):
        md, _err = call(capsys, *command, "--format", "md")
        assert md.splitlines()[1 : 1 + len(lines)] == lines
        assert [text for text in warnings if f"\n- {text}\n" not in md] == []
    out, err = call(capsys, "compare", run, "--gpu", "h200-sxm", "--format", "csv")
    assert [text for text in warnings if f"warning: {text}\n" not in err] == []
    assert err.splitlines()[: len(lines)] == lines
    assert "warning" not in out
    assert beside([analyze_run(run)], "csv") == [*lines, *(f"warning: {w}" for w in warnings)]
    assert beside([analyze_run(run)], "table") == []
    for name in ("quality", "comparison_quality"):
        quality = pl.read_parquet(run / "tables" / f"{name}.parquet")
        assert [text for text in warnings if text not in quality["text"].to_list()] == []


def test_the_other_ranks_are_analysed_and_the_missing_one_is_dashes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _lines = broken(tmp_path / "run", "exits 7")
    table, _err = call(capsys, "analyze", run)
    whole = [line.split()[:4] for line in table.splitlines() if " whole " in line]
    assert sorted({row[0] for row in whole}) == ["0", "1", "3"]
    second = next(line.split() for line in table.splitlines() if line.startswith("    2 "))
    assert second == ["2", *["-"] * 10]
    split = json.loads(call(capsys, "compare", run, "--gpu", "h200-sxm", "--format", "json")[0])
    rows = {(row["rank"], row["phase"]): row["measured_compute_s"] for row in split["split"]}
    assert rows[2, "decode"] is None
    assert rows[1, "decode"] > 0


def test_the_report_never_looks_whole(tmp_path: Path) -> None:
    run, _lines = broken(tmp_path / "run", "exits 7")
    page = render_report(run)
    assert "time split measured on 3 of 4 ranks</h1>" in page
    assert "summed over the 3 of 4 ranks that left a trace" in page
    assert "It shows the 3 of 4 ranks that left a trace." in page


def test_each_thing_that_is_missing_has_its_own_ranks(tmp_path: Path) -> None:
    run, _lines = broken(tmp_path / "run", "exits 7")
    for rank in (0, 1):
        RunFolder(run).rank_file(rank, "kineto.json.gz").unlink()
    assert first_lines(analyze_run(run))[1:3] == [
        "missing: rank 2 left no timers: what follows is of 3 of 4 ranks",
        "missing: ranks 0-2 left no trace: what follows is of 1 of 4 ranks",
    ]


def test_a_pass_that_one_rank_did_not_end_is_told(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", tp=2)
    timers = RunFolder(run).rank_file(1, "timers.jsonl")
    timers.write_text("".join(timers.read_text().splitlines(keepends=True)[:-1]))
    (line,) = first_lines(analyze_run(run))
    assert line.startswith("rank 1 of the last stage lacks 1 of 2 timed passes: TTFT")


def test_ranks_that_were_not_to_be_profiled_are_not_missing(tmp_path: Path) -> None:
    run, _lines = broken(tmp_path / "run", "full disk")
    nsys = {"state": "failed", "ranks": [0], "missing_ranks": [3]}
    edited(run, state="finished", failure=None, collectors={"nsys": nsys})
    for rank in (1, 2, 3):
        RunFolder(run).rank_file(rank, "kineto.json.gz").unlink()
    assert first_lines(analyze_run(run)) == [
        "missing: rank 3 left no trace: what follows is of 1 of 4 ranks",
        "not profiled: ranks 1, 2; the time split is of 1 of 4 ranks",
    ]


def test_a_whole_run_says_nothing_of_the_kind(tmp_path: Path) -> None:
    assert first_lines(analyze_run(a_run(tmp_path / "run", tp=2, pp=2))) == []


def test_accounting_that_was_down_costs_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """slurmdbd was stopped: run.json has the warning, and the rest is analysed."""
    warning = (
        "sacct partial: Connection refused (no elapsed time, peak memory or energy from Slurm)"
    )
    state = {"state": "partial", "reason": "Connection refused", "asked": True}
    run = edited(
        a_run(tmp_path / "run"),
        collectors={"sacct": state},
        warnings=[warning],
        slurm={"SLURM_JOB_ID": "1"},
    )
    table, _err = call(capsys, "analyze", run)
    assert table.startswith("run run: finished, TP 1 x PP 1, 1 rank(s)\n\n")
    assert "not collected: sacct (Connection refused)" in table
    assert f"warning: {warning}" in table
    page = render_report(run)
    lost = "Without it: no elapsed time, peak memory or energy from Slurm."
    assert f"<li>sacct: Connection refused. {lost}</li>" in page
    assert f"<li>{warning}</li>" in page


def test_one_profiler_of_sixteen_that_failed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks = [rank for rank in range(16) if rank != 7]
    state = {
        "state": "failed",
        "reason": "nsys ended with 1\nbefore it had started the rank",
        "ranks": ranks,
        "missing_ranks": [7],
    }
    warning = "nsys failed on ranks [7]: nsys ended with 1 (no GPU timeline)"
    run = a_run(tmp_path / "run", tp=2, pp=8)
    edited(run, collectors={"nsys": state}, warnings=[warning])
    page = render_report(run)
    reason = "nsys ended with 1 before it had started the rank"
    assert f"<li>nsys: failed on rank 7, recorded 15 of 16 ranks: {reason}." in page
    assert f"<li>{warning}</li>" in page
    document = json.loads(call(capsys, "analyze", run, "--format", "json")[0])
    assert warning in document["warnings"]
    (row,) = [row for row in document["collectors"] if row["collector"] == "nsys"]
    assert (row["missing_ranks"], len(row["ranks"])) == ([7], 15)
