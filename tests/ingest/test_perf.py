"""perf stat in all its shapes, false zeros of unprivileged runs, and folded stacks."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfkit.errors import ConfigError
from perfkit.ingest.perf import COUNTERS, FALSE_ZERO, read_counter, read_perf_stat
from perfkit.ingest.perf_script import HOTTEST, STACKS, frame_name, hottest, read_perf_script

DATA = Path(__file__).parents[1] / "data" / "perf"
Row = dict[str, object]


def a_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "perf.txt"
    path.write_text(text)
    return path


def counters(path: Path) -> dict[str, Row]:
    frame, _findings = read_perf_stat(path, 3)
    return {row["event"]: row for row in frame.rows(named=True)}


def codes(findings: list[Row]) -> list[tuple[object, object]]:
    return [(row["code"], row["count"]) for row in findings]


@pytest.mark.parametrize(
    ("name", "task_clock_ms", "switches", "num_rows"),
    [
        ("stat-j.json", 129.410257, 39, 7),
        ("stat-j-default.json", 126.430234, 36, 8),
        ("stat-x.csv", 122.01, 36, 13),
        ("stat-x-r3.csv", 139.84, 38, 2),
        ("stat-d.txt", 124.9, 30, 12),
        ("stat-human.txt", 3.81, 2, 4),
    ],
)
def test_every_output_of_perf_stat_is_read(
    name: str, task_clock_ms: float, switches: int, num_rows: int
) -> None:
    frame, _findings = read_perf_stat(DATA / name, 3)
    assert dict(frame.schema) == dict(COUNTERS)
    assert (frame.height, frame["rank"].unique().to_list()) == (num_rows, [3])
    found = counters(DATA / name)
    assert (found["task-clock"]["value"], found["task-clock"]["unit"]) == (task_clock_ms, "msec")
    assert (found["context-switches"]["value"], found["context-switches"]["unit"]) == (
        switches,
        None,
    )
    assert found["task-clock"]["metric_unit"] == "CPUs utilized"


def test_unsupported_counters_are_null_with_the_reason() -> None:
    frame, findings = read_perf_stat(DATA / "stat-j.json", 0)
    cycles = frame.row(by_predicate=pl.col("event") == "cycles", named=True)
    assert [cycles[n] for n in ("value", "running_share", "metric_value", "metric_unit")] == [
        None
    ] * 4
    assert cycles["reason"] == "not supported on this machine"
    assert codes(findings) == [("perf-not-counted", 2)]
    assert findings[0]["text"] == (
        "ranks/0000/stat-j.json: instructions, cycles could not be counted here"
    )


@pytest.mark.parametrize("name", ["stat-x-nonroot-paranoid2.csv", "stat-nonroot-paranoid2.txt"])
def test_zeros_of_a_run_that_saw_user_space_only_are_not_zeros(name: str) -> None:
    found = counters(DATA / name)
    for event in ("context-switches", "cpu-migrations"):
        assert (found[event]["value"], found[event]["metric_value"]) == (None, None)
        assert found[event]["reason"] == FALSE_ZERO
    assert (found["page-faults"]["value"], found["page-faults"]["user_only"]) == (813, True)
    _frame, findings = read_perf_stat(DATA / name, 0)
    assert findings[0]["code"] == "perf-false-zero"


def test_a_true_zero_stays_zero() -> None:
    migrations = counters(DATA / "stat-j.json")["cpu-migrations"]
    assert (migrations["value"], migrations["reason"], migrations["user_only"]) == (0, None, False)


def test_intervals_keep_their_times() -> None:
    frame, _findings = read_perf_stat(DATA / "stat-x-interval.csv", 0)
    switches = frame.filter(pl.col("event") == "context-switches")
    assert switches.select("until_s", "value").rows() == [(0.203976805, 29), (0.272285568, 8)]


@pytest.mark.parametrize(
    ("line", "event", "value", "share"),
    [
        ("<not counted>,,cycles,0,0.00,,", "cycles", None, None),
        ("0,,cycles,0,0.00,,", "cycles", None, None),
        ("812,,cpu/event=0x3c,umask=0x1/u,99,62.50,,", "cpu/event=0x3c,umask=0x1/", 812, 0.625),
        ("  1,234,567      cycles:u   #  1.2 GHz      (62.50%)", "cycles", 1234567, 0.625),
        (
            '{"counter-value" : "7", "event" : "cycles", "event-runtime" : 9, '
            '"pcnt-running" : 62.50, "metric-value" : nan, "metric-unit" : "GHz"}',
            "cycles",
            7,
            0.625,
        ),
    ],
)
def test_other_lines(
    tmp_path: Path, line: str, event: str, value: float | None, share: float | None
) -> None:
    (found,) = counters(a_file(tmp_path, line + "\n")).values()
    assert (found["event"], found["value"], found["running_share"]) == (event, value, share)
    assert (found["reason"] is None) == (value is not None)


def test_a_line_cut_off_is_left_out_and_counted(tmp_path: Path) -> None:
    text = (DATA / "stat-j.json").read_text()
    frame, findings = read_perf_stat(a_file(tmp_path, text[:-60]), 0)
    assert frame.height == 6
    assert ("perf-stat-broken-lines", 1) in codes(findings)


def test_counters_of_parts_are_not_taken_for_the_rank(tmp_path: Path) -> None:
    lines = "CPU0,122.01,msec,task-clock,122005155,100.00,,\n36,,context-switches,1,100.00,,\n"
    frame, findings = read_perf_stat(a_file(tmp_path, lines), 0)
    assert frame["event"].to_list() == ["context-switches"]
    assert codes(findings) == [("perf-stat-broken-lines", 1)]


def test_perf_that_was_killed_left_its_first_line_only(tmp_path: Path) -> None:
    path = a_file(tmp_path, "# started on Sun Nov 22 19:25:42 2026\n\n")
    frame, findings = read_perf_stat(path, 0)
    assert frame.is_empty()
    assert codes(findings) == [("perf-stat-empty", 1)]


def test_what_perf_did_not_write_is_refused(tmp_path: Path) -> None:
    path = a_file(tmp_path, "event syntax error: 'msr/aperf/'\n")
    with pytest.raises(ConfigError, match=r"perf.txt is no output of perf stat"):
        read_perf_stat(path, 0)
    with pytest.raises(ConfigError, match=r"perf.txt is no output of perf script"):
        read_perf_script(path, 0)


@given(st.integers(0, 2**63), st.floats(0, 100))
def test_counts_read_back(value: int, share: float) -> None:
    found = read_counter(f"{value},,page-faults,1,{share:.2f},,", 0)
    assert found is not None
    assert found["value"] == float(value)
    assert 0 <= found["running_share"] <= 1


def test_stacks_are_folded_from_the_root_and_counted() -> None:
    frame, findings = read_perf_script(DATA / "perf-script-py312.txt", 1)
    assert dict(frame.schema) == dict(STACKS)
    assert frame["samples"].sum() == 7
    assert frame.rows()[0] == (
        1,
        "python3.12",
        "cpu-clock",
        "[unknown];_PyEval_EvalFrameDefault",
        2,
    )
    assert codes(findings) == [("perf-stacks-unnamed", 7)]


def test_a_sample_cut_off_is_left_out_and_counted() -> None:
    frame, findings = read_perf_script(DATA / "perf-script-py311.txt", 0)
    assert frame["samples"].sum() == 6
    assert ("perf-script-broken", 1) in codes(findings)


def test_python_functions_have_their_names() -> None:
    frame, findings = read_perf_script(DATA / "perf-script-py312-dwarf.txt", 0)
    roots = frame["stack"].str.split(";").list.first()
    counted = frame.group_by(roots.alias("root")).agg(pl.col("samples").sum()).sort("root")
    assert counted.rows() == [("inner (spin.py)", 2), ("inner.<locals>.<genexpr> (spin.py)", 7)]
    assert findings == []


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("  fda30 _PyEval_EvalFrameDefault+0x2ec0 (/lib/x.so.1.0)", "_PyEval_EvalFrameDefault"),
        ("  7f80 py::<module>:/home/me/a b.py+0x5 (/tmp/perf-1.map)", "<module> (a b.py)"),
        ("  7f80 [unknown] ([unknown])", "[unknown]"),
        ("  7f80 [unknown] (/usr/lib/libcuda.so.1)", "[libcuda.so.1]"),
        ("  7f80 std::f(int, long)::{lambda()#1}+0x3 (/a/b.so)", "std::f(int, long)::{lambda()#1}"),
        ("  7f80 gone+0x3 (/tmp/x.so (deleted))", "gone"),
        ("  1cfe03 pymalloc_alloc+0x53 (inlined)", "pymalloc_alloc"),
        ("  7f80 _PyEval_Ev", None),
    ],
)
def test_names_of_frames(line: str, name: str | None) -> None:
    assert frame_name(line) == name


@pytest.mark.parametrize(
    "head",
    [
        "pt main thread 12/34 [003]  22.5:   10 cycles:P: ",
        "pt main thread 12  22.5: cycles: ",
        "pt main thread    12  22.500001:   1 cycles:u: ",
    ],
)
def test_heads_of_samples(tmp_path: Path, head: str) -> None:
    text = f"# a comment\n{head}\n\t  7f80 leaf+0x1 (/a.so)\n\t  7f81 root+0x1 (/a.so)\n\n"
    frame, _findings = read_perf_script(a_file(tmp_path, text), 0)
    assert frame.rows() == [(0, "pt main thread", "cycles", "root;leaf", 1)]


def test_no_sample_at_all_is_a_finding(tmp_path: Path) -> None:
    _frame, findings = read_perf_script(a_file(tmp_path, ""), 0)
    assert codes(findings) == [("perf-script-empty", 1)]


def test_the_hottest_functions_are_those_in_which_samples_were_taken() -> None:
    frame, _findings = read_perf_script(DATA / "perf-script-py312-dwarf.txt", 4)
    found = hottest(frame, 2)
    assert dict(found.schema) == dict(HOTTEST)
    assert found.rows() == [
        (4, "pymalloc_alloc", 2, pytest.approx(2 / 9)),
        (4, "_PyInterpreterState_GET", 1, pytest.approx(1 / 9)),
    ]


def test_shares_are_of_each_rank() -> None:
    rows = [(0, "a;b", 3), (0, "b", 1), (0, "b;c", 4), (1, "c", 2)]
    frame = pl.DataFrame(rows, schema=["rank", "stack", "samples"], orient="row")
    assert hottest(frame, 1).rows() == [(0, "b", 4, 0.5), (1, "c", 2, 1.0)]


def test_stacks_that_could_not_be_unwound_are_told(tmp_path: Path) -> None:
    lone = "python3 1  22.5: 10 cpu-clock: \n\t 7f80 leaf+0x1 (/a.so)\n\n"
    _frame, findings = read_perf_script(a_file(tmp_path, lone * 3), 0)
    assert [(row["code"], row["count"], row["severity"]) for row in findings] == [
        ("perf-stacks-short", 3, "info")
    ]
