"""What Slurm's accounting says of one run: which rows are its own, how it ended, what it took."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from perfkit.ingest.accounting import ending_findings, own_rows, own_step, resources
from perfkit.ingest.collected import PROCESSES
from perfkit.ingest.nvml import GPU_SUMMARY
from perfkit.ingest.sacct import Accounting, parse_sacct, read_sacct

DATA = Path(__file__).parents[1] / "data" / "slurm"
MIB = 2**20


def sample(name: str) -> Accounting:
    return read_sacct(DATA / f"sacct-{name}.psv")


def job(found: Accounting, number: int) -> Accounting:
    """One job's rows of a file that has many."""
    jobs = found.jobs.filter(pl.col("job_id") == number)
    return Accounting(jobs=jobs, sources=found.sources, findings=[])


def processes(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame([{"rank": at, **row} for at, row in enumerate(rows)], schema=PROCESSES)


def taken(
    found: Accounting | None = None,
    ranks: pl.DataFrame | None = None,
    gpus: pl.DataFrame | None = None,
    **run: Any,
) -> dict[str, tuple[float | None, str]]:
    """quantity -> (value, source)"""
    accounting = found or parse_sacct("JobID|State\n", "job/sacct.psv")
    frame = resources(
        accounting.jobs,
        accounting.sources,
        processes() if ranks is None else ranks,
        pl.DataFrame(schema=GPU_SUMMARY) if gpus is None else gpus,
        run,
    )
    return {row["quantity"]: (row["value"], row["source"]) for row in frame.to_dicts()}


def ended(found: Accounting, step: str | None = None) -> list[str]:
    return [row["text"] for row in ending_findings(found.jobs, step, "job/sacct.psv")]


@pytest.mark.parametrize(("job_id", "own"), [("4", "3_0"), ("3", "3_1")])
def test_a_run_in_an_array_has_its_own_task_alone(job_id: str, own: str) -> None:
    """The last task's SLURM_JOB_ID is the number of the whole array."""
    rows = own_rows(sample("22.05-array").jobs, job_id)
    assert rows["row_id"].to_list() == [own, f"{own}.batch", f"{own}.0"]


def test_a_run_in_a_heterogeneous_job_has_every_component() -> None:
    header = "JobID|JobIDRaw|State|NNodes\n"
    lines = "8+0|8|COMPLETED|1\n8+0.0|8.0|COMPLETED|1\n8+1|9|COMPLETED|1\n8+1.0|9.0|COMPLETED|1\n"
    jobs = parse_sacct(header + lines + "9+0|12|COMPLETED|4\n", "job/sacct.psv").jobs
    rows = own_rows(jobs, "8")
    assert rows["row_id"].to_list() == ["8+0", "8+0.0", "8+1", "8+1.0"]
    assert own_step(rows, "0") is None  # two have that number


@pytest.mark.parametrize("job_id", [None, "77"])
def test_without_a_known_number_every_row_may_be_its_own(job_id: str | None) -> None:
    jobs = sample("22.05").jobs
    assert own_rows(jobs, job_id).height == jobs.height


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("timeout", "Slurm ended the job: TIMEOUT after 00:01:28, limit 00:01:00"),
        ("scancel", "Slurm ended the job: CANCELLED by user 0 after 00:00:01"),
        ("oom", "Slurm ended the job: OUT_OF_MEMORY after 00:00:04"),
    ],
)
def test_what_slurm_did_to_a_job_is_said_once(name: str, text: str) -> None:
    assert ended(sample(f"22.05-{name}"), "0") == [text]


@pytest.mark.parametrize("version", ["22.05", "24.11", "26.05"])
def test_a_step_out_of_memory_is_told_where_the_job_has_only_failed(version: str) -> None:
    number = 17 if version == "24.11" else 6
    (text,) = ended(job(sample(version), number))
    assert text.startswith(f"Slurm ended step {number}.0: OUT_OF_MEMORY after 00:00:0")


def test_a_failure_of_its_own_is_not_slurms_doing() -> None:
    assert ended(job(sample("22.05"), 3)) == []
    assert ended(job(sample("22.05"), 4)) == []  # a signal; its step was cancelled for that


@pytest.mark.parametrize(
    ("state", "signal", "text"),
    [
        ("NODE_FAIL", "0:0", "the job: NODE_FAIL on node[0-1] after 1-01:00:00"),
        ("PREEMPTED", "0:0", "the job: PREEMPTED after 1-01:00:00"),
        ("CANCELLED by 1000", "0:9", "the job: CANCELLED by user 1000 with signal 9 after 1-01:00"),
    ],
)
def test_other_ends(state: str, signal: str, text: str) -> None:
    lines = f"JobID|State|ExitCode|Elapsed|NodeList\n7|{state}|{signal}|1-01:00:00|node[0-1]\n"
    (found,) = ended(parse_sacct(lines, "job/sacct.psv"))
    assert found.startswith(f"Slurm ended {text}")


def test_a_step_killed_by_slurms_own_watch_on_memory() -> None:
    lines = (
        "JobID|State|ExitCode|Elapsed\n1|FAILED|0:9|00:00:02\n"
        "1.0|CANCELLED by 0|0:9|00:00:02\n1.1|CANCELLED|0:15|00:00:01\n"
    )
    assert ended(parse_sacct(lines, "job/sacct.psv")) == [
        "Slurm ended step 1.0: CANCELLED by user 0 with signal 9 after 00:00:02"
    ]


def test_a_run_that_completed_before_its_job_was_ended_is_left_alone() -> None:
    lines = "JobID|State\n1|TIMEOUT\n1.0|COMPLETED\n1.1|CANCELLED\n"
    found = parse_sacct(lines, "job/sacct.psv")
    assert ended(found, "0") == []
    assert len(ended(found, "1")) == 1


@pytest.mark.parametrize(
    ("version", "number", "energy_j", "elapsed_s"),
    [("22.05", 2, 1500, 6), ("24.11", 13, 1600, 5), ("26.05", 2, 1800, 5)],
)
def test_every_version_gives_energy_and_gpu_hours_of_the_job_row(
    version: str, number: int, energy_j: int, elapsed_s: int
) -> None:
    found = taken(job(sample(version), number), slurm={"SLURM_STEP_ID": "0"})
    assert found["consumed_energy_j"] == (energy_j, f"sacct, job {number}: its whole nodes")
    hours, source = found["gpu_hours"]
    assert hours == pytest.approx(4 * elapsed_s / 3600)
    assert source == f"sacct, job {number}: allocated GPUs * elapsed"
    assert found["elapsed_s"] == (elapsed_s, f"sacct, step {number}.0")
    assert found["num_nodes"] == (2, f"sacct, step {number}.0")


def test_a_low_sample_of_memory_gives_way_to_the_kernels_own_peak() -> None:
    ranks = processes({"max_rss_bytes": 12 * MIB}, {"max_rss_bytes": 243 * MIB})
    found = taken(sample("22.05-oom"), ranks, slurm={"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0"})
    assert found["max_rss_bytes"] == (
        243 * MIB,
        "getrusage of every rank, most on rank 1; sacct, step 1.0, sampled only 57.6 MiB",
    )


def test_slurms_own_peak_stands_where_it_is_higher() -> None:
    ranks = processes({"max_rss_bytes": 12 * MIB})
    slurm = {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0"}
    found = taken(sample("22.05-timeout"), ranks, slurm=slurm)
    assert found["max_rss_bytes"] == (454876 * 1024, "sacct, step 1.0")


def test_without_accounting_the_ranks_own_counts_are_left_with_how_many_there_are() -> None:
    ranks = processes({"cpu_s": 3.0, "max_rss_bytes": MIB}, {}, {"cpu_s": 4.5, "max_rss_bytes": 5})
    found = taken(
        ranks=ranks,
        started_at="2026-11-23T00:59:34.500+00:00",
        ended_at="2026-11-23T01:00:04.750+00:00",
        layout=[{"rank": 0, "host": "a"}, {"rank": 1, "host": "b"}],
        collectors={"sacct": {"reason": "slurmdbd does not answer"}},
    )
    assert found == {
        "elapsed_s": (30.25, "run.json, start to end"),
        "time_limit_s": (None, "not measured: slurmdbd does not answer"),
        "num_nodes": (2, "run.json, hosts of the ranks"),
        "cpu_time_s": (7.5, "getrusage of 2 of 3 ranks only"),
        "max_rss_bytes": (MIB, "getrusage of 2 of 3 ranks only, most on rank 0"),
        "consumed_energy_j": (None, "not measured: slurmdbd does not answer"),
        "gpu_energy_j": (None, "not measured: no samples of nvidia-smi"),
        "gpu_hours": (None, "not measured: slurmdbd does not answer"),
    }


def test_nothing_is_said_of_a_job_that_still_runs() -> None:
    found = taken(job(sample("22.05-running"), 1), slurm={"SLURM_STEP_ID": "0"})
    assert [found[name][0] for name in ("elapsed_s", "cpu_time_s", "gpu_hours")] == [None] * 3
    assert found["elapsed_s"][1] == "not measured: the job had not ended"


def test_tasks_on_one_node_do_not_add_their_energies() -> None:
    found = taken(sample("22.05-array"))
    value, source = found["consumed_energy_j"]
    assert (value, source) == (None, "not measured: 2 jobs or tasks, which may share nodes")


def test_energy_of_gpus_says_when_a_host_is_missing() -> None:
    row = {"host": "a", "gpu": 0, "energy_j": 500.0}
    gpus = pl.DataFrame([row, {**row, "gpu": 1}], schema=GPU_SUMMARY)
    layout = [{"rank": 0, "host": "a"}, {"rank": 1, "host": "b"}]
    found = taken(gpus=gpus, layout=layout)["gpu_energy_j"]
    assert found == (1000.0, "nvidia-smi, 2 GPUs of 1 of 2 hosts only, while it sampled")
    silent = gpus.with_columns(energy_j=pl.Series([500.0, None]))
    assert taken(gpus=silent)["gpu_energy_j"] == (
        None,
        "not measured: not every GPU tells its power",
    )
