"""A point that was run without Slurm: its state from run.json, its process and what it printed."""

import os
import socket
import subprocess
from dataclasses import replace
from typing import Any

import pytest

from perfkit.study.states import limit_reached, local_state
from perfkit.study.store import Submission

HERE = socket.gethostname()


@pytest.fixture(scope="module")
def ended() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def job(pid: int, host: str = HERE) -> Submission:
    return Submission(
        job_id="local-1",
        submitted_at="2026-11-23T00:00:00+00:00",
        hash="0123456789ab",
        name="study.tp1-pp1-r1",
        time_limit_s=1800,
        host=host,
        pid=pid,
    )


def run(state: str, pid: int, host: str = HERE, reason: str | None = None) -> dict[str, Any]:
    failure = {"reason": reason} if reason else None
    return {"state": state, "supervisor": {"host": host, "pid": pid}, "failure": failure}


def test_run_json_is_the_truth(ended: int) -> None:
    assert local_state(job(ended), run("finished", ended)).name == "finished"


def test_the_run_of_another_process_says_nothing(ended: int) -> None:
    found = local_state(job(ended), run("finished", ended + 1))
    assert (found.name, found.run) == ("failed", None)
    assert found.cause == "its process was killed, and it left no run.json"


def test_a_process_that_died_has_failed_whatever_run_json_says(ended: int) -> None:
    found = local_state(job(ended), run("running", ended), "[ 1.0 s] loading 4 %\n")
    assert (found.name, found.run) == ("failed", "running")
    assert found.cause == "[ 1.0 s] loading 4 %"


def test_a_number_that_another_program_has_now_is_no_run() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        assert local_state(job(other.pid), None).name == "failed"
        other.terminate()


def test_on_another_machine_run_json_is_taken_at_its_word() -> None:
    far = job(os.getpid(), host="another-node")
    assert local_state(far, None).name == "running"
    assert local_state(far, run("running", os.getpid(), "another-node")).name == "running"
    stopped = run("stopped", os.getpid(), "another-node", "stopped by SIGINT (Ctrl-C)")
    assert local_state(far, stopped).cause == "stopped by SIGINT (Ctrl-C)"


def test_a_time_limit_is_told_before_what_it_led_to(ended: int) -> None:
    late = replace(job(ended), time_limit_s=60)
    output = f"perfkit: stopped: stopped by SIGTERM\nperfkit: {limit_reached(late)}\n"
    found = local_state(late, run("stopped", ended, reason="stopped by SIGTERM"), output)
    assert found.cause == "reached its time limit of 00:01:00: give [job] time_limit more"
