"""sacct text of three Slurm versions: rows, numbers with their sources, and false zeros."""

import tomllib
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfkit.errors import ConfigError
from perfkit.ingest.sacct import (
    FIELDS,
    JOBS,
    SOURCES,
    Accounting,
    parse_sacct,
    read_sacct,
)
from perfkit.ingest.sacct_cells import MEMORY_UNITS, duration_s, memory_bytes
from perfkit.paths import find

DATA = Path(__file__).parents[1] / "data" / "slurm"
VERSIONS = ("22.05", "24.11", "26.05")


def sample(name: str, utc_offset_s: int | None = None) -> Accounting:
    return read_sacct(DATA / f"sacct-{name}.psv", utc_offset_s)


def row(found: Accounting, row_id: str) -> dict[str, object]:
    return found.jobs.row(by_predicate=pl.col("row_id") == row_id, named=True)


def why(found: Accounting, row_id: str, number: str) -> str:
    wanted = (pl.col("row_id") == row_id) & (pl.col("number") == number)
    return str(found.sources.row(by_predicate=wanted, named=True)["source"])


def one_job(**cells: str) -> Accounting:
    header = {"JobID": "7", "State": "COMPLETED", **cells}
    return parse_sacct("|".join(header) + "\n" + "|".join(header.values()) + "\n", "job/sacct.psv")


@pytest.mark.parametrize(
    ("version", "job", "energy_j", "rss_bytes"),
    [("22.05", "2", 1500, 56984), ("24.11", "13", 1600, 57480), ("26.05", "2", 1800, 58352)],
)
def test_every_version_reads_alike(version: str, job: str, energy_j: int, rss_bytes: int) -> None:
    found = sample(version)
    assert dict(found.jobs.schema) == dict(JOBS)
    assert dict(found.sources.schema) == dict(SOURCES)
    assert (found.jobs.height, found.findings) == (29, [])
    whole, step = row(found, job), row(found, f"{job}.0")
    assert (whole["state"], whole["nodes"], whole["num_nodes"]) == ("COMPLETED", "node[0-1]", 2)
    assert (whole["gpus"], whole["consumed_energy_j"]) == (4, energy_j)
    assert (step["num_tasks"], step["max_rss_bytes"]) == (4, rss_bytes * 1024)


def test_rows_say_which_job_task_component_and_step_they_are() -> None:
    found = sample("22.05")
    names = ("job_id", "array_task", "het_component", "step")
    assert [row(found, "7_1.batch")[name] for name in names] == [7, "1", None, "batch"]
    assert [row(found, "8+1.0")[name] for name in names] == [8, None, 1, "0"]
    assert [row(found, "2")[name] for name in names] == [2, None, None, None]
    array = sample("22.05-array")
    assert [row(array, name)["raw_id"] for name in ("3_0", "3_0.0", "3_1")] == [4, 4, 3]


@pytest.mark.parametrize(
    ("text", "job", "component", "step"),
    [
        ("34+0", 34, 0, None),
        ("34+1.extern", 34, 1, "extern"),
        ("9.interactive", 9, None, "interactive"),
    ],
)
def test_other_ids(text: str, job: int, component: int | None, step: str | None) -> None:
    found = row(one_job(JobID=text), text)
    assert (found["job_id"], found["het_component"], found["step"]) == (job, component, step)


def test_failures_keep_code_and_signal_apart() -> None:
    found = sample("22.05")
    names = ("state", "by_uid", "exit_code", "signal")
    assert [row(found, "3")[name] for name in names] == ["FAILED", None, 3, None]
    assert [row(found, "5")[name] for name in names] == ["CANCELLED", 0, 0, None]
    assert [row(found, "5.0")[name] for name in names] == ["CANCELLED", None, 0, 15]
    assert [row(found, "6.0")[name] for name in names] == ["OUT_OF_MEMORY", None, 0, 125]
    assert row(sample("26.05"), "4")["exit_code"] == 139  # older versions print 11


def test_only_the_job_has_energy() -> None:
    found = sample("22.05")
    assert row(found, "2.0")["consumed_energy_j"] is None
    assert "only the job's row" in why(found, "2.0", "consumed_energy_j")
    assert why(found, "2", "consumed_energy_j") == "sacct"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0", "as without an energy plugin"),
        ("", "as without an energy plugin"),
        ("18446744073708451116", "went backwards"),
        ("18446744073709551614", "went backwards"),
        ("1.50K", "cannot read"),
    ],
)
def test_energy_that_no_plugin_read_is_not_zero(text: str, reason: str) -> None:
    found = one_job(ConsumedEnergyRaw=text)
    assert row(found, "7")["consumed_energy_j"] is None
    assert reason in why(found, "7", "consumed_energy_j")


def test_a_cancelled_job_without_energy_takes_none_from_its_steps() -> None:
    found = sample("26.05")  # 5.batch and 5.0 each say 1000 J of the same node
    assert row(found, "5")["consumed_energy_j"] is None
    assert row(found, "5.0")["consumed_energy_j"] is None


@pytest.mark.parametrize(
    ("tres", "gpus"),
    [
        ("billing=4,cpu=4,gres/gpu=4,node=2", 4),
        ("cpu=4,gres/gpu:a100=4,gres/gpu=4", 4),
        ("cpu=4,gres/gpu:a100=2,gres/gpu:h100=1", 3),
        ("cpu=4,node=1", None),
        ("", None),
    ],
)
def test_gpus_come_from_what_was_allocated(tres: str, gpus: int | None) -> None:
    found = one_job(AllocTRES=tres, Elapsed="01:30:00")
    assert row(found, "7")["gpus"] == gpus
    assert row(found, "7")["gpu_hours"] == (None if gpus is None else gpus * 1.5)


def test_a_bar_in_a_name_does_not_move_the_columns() -> None:
    found = sample("22.05-fields")
    assert (row(found, "1")["name"], row(found, "1")["state"]) == ("two|bars", "COMPLETED")
    assert row(found, "1")["time_limit_s"] == 300


def test_local_times_need_the_offset_from_utc() -> None:
    found = sample("22.05-fields")
    assert row(found, "1")["start"] is None
    assert "offset from UTC not known" in why(found, "1", "start")
    assert [one["code"] for one in found.findings] == ["sacct-unfinished", "sacct-local-times"]
    start = row(sample("22.05-fields", utc_offset_s=3600), "1")["start"]
    assert start == datetime(2026, 11, 22, 21, 49, 43, tzinfo=UTC)


def test_seconds_since_1970_need_no_offset() -> None:
    found = sample("22.05-running")  # recorded with SLURM_TIME_FORMAT=%s
    assert row(found, "1")["start"] == datetime(2026, 11, 22, 22, 49, 43, tzinfo=UTC)
    assert row(found, "1")["end"] is None
    assert why(found, "1", "end") == "not measured: sacct says Unknown"


def test_tasks_that_wait_are_one_row() -> None:
    found = sample("22.05-fields")
    waiting = row(found, "2_[3-6%2]")
    assert (waiting["job_id"], waiting["array_task"], waiting["state"]) == (2, "[3-6%2]", "PENDING")
    assert [waiting[name] for name in ("elapsed_s", "cpu_time_s", "nodes", "exit_code")] == [
        None
    ] * 4


def test_the_zeros_of_a_job_that_just_started_are_no_measurements() -> None:
    found = sample("22.05-running")
    job, step = row(found, "1"), row(found, "1.0")
    assert (job["state"], step["state"]) == ("PENDING", "RUNNING")  # sacct lags behind
    assert [job[n] for n in ("num_nodes", "num_cpus", "time_limit_s", "cpu_time_s")] == [None] * 4
    assert (step["elapsed_s"], step["cpu_time_s"]) == (2, None)
    (finding,) = found.findings
    assert (finding["code"], finding["count"]) == ("sacct-unfinished", 6)


def test_no_row_yet_is_a_finding() -> None:
    found = parse_sacct(
        "JobID|JobName|Partition|Account|AllocCPUS|State|ExitCode\n", "job/sacct.psv"
    )
    assert [one["code"] for one in found.findings] == ["sacct-no-rows"]


def test_broken_lines_are_left_out_and_counted() -> None:
    lines = ["JobID|State|Elapsed", "16|COMPLETED|00:00:02", "16.0|COMP", "sacct: error: x|y|z"]
    found = parse_sacct("\n".join(lines), "job/sacct.psv")
    assert found.jobs["row_id"].to_list() == ["16"]
    assert [(one["code"], one["count"]) for one in found.findings] == [("sacct-broken-lines", 2)]


def test_a_cell_that_cannot_be_read_is_told() -> None:
    found = one_job(Elapsed="soon")
    assert row(found, "7")["elapsed_s"] is None
    assert [one["text"] for one in found.findings] == [
        "job/sacct.psv: Elapsed 'soon' cannot be read"
    ]


@pytest.mark.parametrize(
    "content",
    ["", "sacct: error: Problem talking to the database: Connection refused\n", "a|b\n1|2\n"],
)
def test_what_is_no_sacct_output_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "sacct.psv"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"sacct.psv is no sacct output.*JobID\|"):
        read_sacct(path)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_has_the_fields(version: str) -> None:
    """One unknown field is a fatal error of sacct."""
    words = (DATA / f"sacct-{version}.helpformat").read_text().lower().split()
    assert [name for name in FIELDS if name.lower() not in words] == []


def test_the_collector_asks_for_what_is_read() -> None:
    path = find("collectors", "sacct.toml")
    assert path is not None
    command = tomllib.loads(path.read_text())["settle"]["command"]
    assert tuple(command[command.index("-o") + 1].split(",")) == FIELDS


@given(st.integers(0, 2**20), st.sampled_from(sorted(MEMORY_UNITS)))
def test_memory_sizes_read_back(count: int, unit: str) -> None:
    assert memory_bytes(f"{count}{unit}") == count * MEMORY_UNITS[unit]


@pytest.mark.parametrize(("text", "size"), [("1.50G", 3 * 2**29), ("820K", 839680), ("K", None)])
def test_memory_sizes(text: str, size: int | None) -> None:
    assert memory_bytes(text) == size


@given(st.integers(0, 30 * 86400 * 1000))
def test_durations_read_back(ms: int) -> None:
    seconds, ms = divmod(ms, 1000)
    days, rest = divmod(seconds, 86400)
    text = f"{days}-{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}.{ms:03}"
    assert duration_s(text) == pytest.approx(seconds + ms / 1000)


@pytest.mark.parametrize(
    ("text", "seconds"), [("00:04.161", 4.161), ("1-02:03:04", 93784), ("UNLIMITED", None)]
)
def test_durations(text: str, seconds: float | None) -> None:
    assert duration_s(text) == seconds
