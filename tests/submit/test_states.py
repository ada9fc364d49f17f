"""A point's state from its run.json, Slurm's answer and what the job printed."""

from pathlib import Path
from typing import Any

import pytest
from builders import a_point

from perfkit.study.forecast import Forecast
from perfkit.study.states import State
from perfkit.study.store import Submission
from perfkit.submit.plan import Wishes, decide
from perfkit.submit.queue import SlurmJob, seconds
from perfkit.submit.states import state_of

JOB = Submission(
    job_id="7",
    submitted_at="2026-11-23T00:00:00+00:00",
    hash="0123456789ab",
    name="study.tp1-pp1-r1",
    time_limit_s=1800,
)
RANK_1 = {"rank": 1, "host": "node1", "reason": "was killed by SIGKILL"}


def slurm(state: str, *, name: str = JOB.name, elapsed_s: int = 60, code: str = "") -> SlurmJob:
    return SlurmJob(job_id="7", state=state, name=name, elapsed_s=elapsed_s, exit_code=code)


def run(state: str, failure: dict[str, Any] | None = None, job: str = "7") -> dict[str, Any]:
    return {"state": state, "failure": failure, "slurm": {"SLURM_JOB_ID": job}}


def state(
    record: dict[str, Any] | None,
    answer: SlurmJob | None,
    *,
    asked: bool = True,
    output: str = "",
) -> State:
    return state_of(JOB, record, answer, asked=asked, output=output)


def test_without_a_job_a_point_is_new() -> None:
    assert state_of(None, None, None, asked=True).name == "new"


@pytest.mark.parametrize(
    ("record", "answer", "expected"),
    [
        (None, slurm("PENDING"), "waiting"),
        (None, slurm("CONFIGURING"), "waiting"),
        (None, slurm("RUNNING"), "running"),
        (run("running"), slurm("RUNNING"), "running"),
        # run.json is the truth, whatever Slurm still does with the job.
        (run("finished"), slurm("COMPLETING"), "finished"),
        (run("finished"), slurm("COMPLETED"), "finished"),
        (run("finished"), None, "finished"),
        # A run that has failed while its job still ends: nothing may take its folder yet.
        (run("failed", RANK_1), slurm("COMPLETING"), "running"),
        (run("failed", RANK_1), slurm("FAILED"), "failed"),
        (run("running"), slurm("TIMEOUT"), "failed"),
        (None, slurm("COMPLETED"), "failed"),
        # The run folder of a job before this one.
        (run("finished", job="6"), slurm("PENDING"), "waiting"),
        # A number that Slurm gave again, to somebody else's job.
        (None, slurm("RUNNING", name="other"), "failed"),
    ],
)
def test_run_json_comes_first_then_slurm(
    record: dict[str, Any] | None, answer: SlurmJob | None, expected: str
) -> None:
    assert state(record, answer).name == expected


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (None, "waiting"),
        (run("running"), "running"),
        (run("finished"), "finished"),
        (run("failed", RANK_1), "failed"),
    ],
)
def test_away_from_the_cluster_the_run_folder_is_all_there_is(
    record: dict[str, Any] | None, expected: str
) -> None:
    assert state(record, None, asked=False).name == expected


@pytest.mark.parametrize(
    ("record", "answer", "output", "cause"),
    [
        (
            run("failed", RANK_1),
            slurm("FAILED", code="1:0"),
            "",
            "rank 1 on node1: was killed by SIGKILL",
        ),
        (
            run("failed", RANK_1),
            slurm("OUT_OF_MEMORY", code="0:125"),
            "",
            "Slurm: OUT_OF_MEMORY; rank 1 on node1: was killed by SIGKILL",
        ),
        (run("running"), slurm("NODE_FAIL"), "", "Slurm: NODE_FAIL"),
        (
            run("running"),
            slurm("TIMEOUT", elapsed_s=1830),
            "",
            "reached its time limit of 00:30:00: give [job] time_limit more",
        ),
        # Told 120 s before the limit, and Slurm was 60 s early.
        (
            run("stopped", {"reason": "the run was asked to stop"}),
            slurm("FAILED", elapsed_s=1625),
            "",
            "reached its time limit of 00:30:00: give [job] time_limit more",
        ),
        (
            run("stopped", {"reason": "the run was asked to stop"}),
            slurm("CANCELLED", elapsed_s=1625),
            "",
            "Slurm: CANCELLED; the run was asked to stop",
        ),
        (
            None,
            slurm("FAILED", code="1:0"),
            "module\nperfkit: no GPU is visible\nperfkit: more\nsrun: error\n",
            "no GPU is visible",
        ),
        (
            None,
            slurm("FAILED", code="127:0"),
            "bash: line 3: module: command not found\n",
            "bash: line 3: module: command not found",
        ),
        (
            None,
            slurm("COMPLETED", code="0:0"),
            "",
            "ended with exit code 0:0 and left no finished run",
        ),
        (None, None, "", "not in the queue, unknown to accounting, and it left no run.json"),
    ],
)
def test_a_failure_has_its_cause(
    record: dict[str, Any] | None, answer: SlurmJob | None, output: str, cause: str
) -> None:
    found = state(record, answer, output=output)
    assert (found.name, found.cause) == ("failed", cause)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1:05", 65), ("00:01:05", 65), ("1-02:00:00", 93_600), ("0:00", 0), ("INVALID", None)],
)
def test_elapsed_times_of_squeue_and_sacct(text: str, expected: int | None) -> None:
    assert seconds(text) == expected


def wishes(**changes: Any) -> Wishes:
    return Wishes(root=Path("/project/runs/study"), **changes)


TOO_LARGE = Forecast(
    memory_bytes=2e11,
    at_least=False,
    fits="does not fit",
    pass_s=None,
    passes_s=None,
    unfit="needs 186 GiB",
    no_time="nothing is known",
)


@pytest.mark.parametrize(
    ("name", "changed", "asked", "shown", "submitted"),
    [
        ("new", "", {}, "new", True),
        ("failed", "", {}, "failed", True),
        ("finished", "", {}, "finished", False),
        ("finished", "batch was 1, is 2", {}, "stale", False),
        ("finished", "batch was 1, is 2", {"stale": True}, "stale", True),
        ("finished", "", {"stale": True}, "finished", False),
        ("waiting", "", {}, "waiting", False),
        ("running", "batch was 1, is 2", {"stale": True}, "running", False),
    ],
)
def test_what_is_submitted(
    name: str, changed: str, asked: dict[str, bool], shown: str, submitted: bool
) -> None:
    found = decide(State(name=name), changed, a_point(), None, wishes(**asked))
    assert found[:2] == (shown, submitted)


def test_a_point_that_does_not_fit_is_skipped_unless_it_is_forced() -> None:
    told = decide(State(name="new"), "", a_point(), TOO_LARGE, wishes())
    assert told == ("skipped", False, "needs 186 GiB; --force-points takes it all the same")
    forced = decide(State(name="new"), "", a_point(), TOO_LARGE, wishes(force_points=True))
    assert forced[:2] == ("new", True)
