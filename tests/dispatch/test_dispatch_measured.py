"""The figures of journals that are known event by event, and what is said of them."""

import json
from pathlib import Path

import pytest
from dispatch_builder import Journaled, a_starved_dispatch

from perfkit.dispatch.measure import Measured, measure
from perfkit.dispatch.tables import as_text
from perfkit.dispatch.words import need, sentences


def advice(measured: Measured) -> str:
    *_, last = sentences(measured)
    return last


def test_a_replica_that_waits_for_one_cpu_worker(tmp_path: Path) -> None:
    measured = measure(a_starved_dispatch(tmp_path).folder)
    (replica,) = measured.replicas.to_dicts()
    assert (replica["batches"], replica["prompts"], replica["new_tokens"]) == (4, 32, 640)
    assert replica["wall_s"] == 20
    assert replica["busy_s"] == 4
    assert replica["idle_s"] == 16
    assert replica["start_up_s"] == 2
    # 2 to 5 s, then 2.75 s before each of the other three.
    assert replica["starved_s"] == pytest.approx(3 + 3 * 2.75)
    assert replica["first_starved_s"] == 3
    assert replica["hand_over_s"] == 1
    assert replica["drained_s"] == pytest.approx(20 - 18.25)
    assert replica["idle"] == pytest.approx(0.8)


def test_preprocessing_cost_and_queue_wait(tmp_path: Path) -> None:
    measured = measure(a_starved_dispatch(tmp_path).folder)
    (worker,) = measured.cpu_workers.to_dicts()
    assert (worker["windows"], worker["prompts"], worker["tokens"]) == (4, 32, 320)
    assert (worker["busy_s"], worker["read_s"]) == (16, pytest.approx(1.6))
    assert worker["busy"] == pytest.approx(16 / 19)
    assert worker["busy_while_starved"] == 1
    assert measured.value("preprocessing_per_prompt") == 500
    assert measured.value("preprocessing") == 50
    assert measured.value("preprocessing_share") == pytest.approx(0.8)
    assert measured.value("throughput") == 32
    assert measured.value("replica_idle") == pytest.approx(0.8)
    assert measured.value("padding") == pytest.approx(0.2)


def test_the_distribution_of_the_queue_wait(tmp_path: Path) -> None:
    journal = Journaled(tmp_path).begin(0, 2).worker("cpu-1", 0, 0).worker("replica-2", 0, 0)
    journal.window("cpu-1", 0, 0, 1, batches=11, prompts=88)
    for number in range(11):
        journal.batch("replica-2", "cpu-1", 1, 1 + number, 2 + number)
    measured = measure(journal.end(12).folder)
    waits = {name: measured.value(f"queue_wait_{name}") for name in ("p50", "p90", "p99", "max")}
    assert waits == {"p50": 5, "p90": 9, "p99": pytest.approx(9.9), "max": 10}
    assert measured.value("queue_wait_mean") == 5


def test_a_replica_whose_clock_is_ahead_is_moved_to_the_dispatchers(tmp_path: Path) -> None:
    """By its own clock the batch began 100 s later."""
    journal = Journaled(tmp_path).begin(0, 2).worker("cpu-1", 0, 0)
    journal.worker("replica-2", 0, 1, ahead=100).window("cpu-1", 0, 0, 2)
    journal.add(
        "batch",
        **{"worker": "replica-2", "prepared_by": "cpu-1", "prompts": 8, "new_tokens": 8},
        **{"prompt_tokens": 80, "padded_tokens": 80, "ready_ns": 1002 * 10**9},
        **{"start_ns": 1103 * 10**9, "end_ns": 1104 * 10**9, "received_ns": 1004 * 10**9},
    )
    measured = measure(journal.end(4).folder)
    (replica,) = measured.replicas.to_dicts()
    assert [replica[f"{cause}_s"] for cause in ("start_up", "starved", "hand_over")] == [1, 1, 1]
    assert measured.value("queue_wait_mean") == 1
    assert measured.value("clock_bound") == 0.001


def test_parts_are_added_and_the_time_between_them_is_not(tmp_path: Path) -> None:
    journal = Journaled(tmp_path)
    for at in (0, 1000):
        journal.begin(at, 2).worker("cpu-1", at, at).worker("replica-2", at, at)
        journal.window("cpu-1", 0, at, at + 1)
        journal.batch("replica-2", "cpu-1", at + 1, at + 1, at + 5).end(at + 5)
    measured = measure(journal.folder)
    assert measured.parts == 2
    assert measured.replicas["wall_s"].to_list() == [10]
    assert measured.replicas["busy_s"].to_list() == [8]


def test_more_cpu_workers_are_advised_where_the_measured_rates_say_so(tmp_path: Path) -> None:
    """2 prompts/s by a CPU worker, 8 by the replica: it takes 4."""
    measured = measure(a_starved_dispatch(tmp_path).folder)
    found = need(measured)
    assert found is not None
    assert (found.prepared_per_s, found.answered_per_s, found.workers) == (2, 8, 4)
    assert advice(measured) == (
        "Measured: a CPU worker prepares 2.00 prompts/s while it is busy, a replica answers 8.00, "
        "so 1 replica(s) take what 4.00 CPU worker(s) prepare; there were 1. Replicas waited "
        "56.2 % of their time for prompts, while CPU workers were 100 % busy. Computed from these "
        "rates, not measured: 3 more would prepare as fast as replicas answer."
    )


def test_fewer_are_advised_where_replicas_hardly_wait(tmp_path: Path) -> None:
    journal = Journaled(tmp_path).begin(0, 3).worker("cpu-1", 0, 0).worker("cpu-2", 0, 0)
    journal.worker("replica-3", 0, 0)
    journal.window("cpu-1", 0, 0, 0.25).window("cpu-2", 1, 0, 0.25)
    journal.batch("replica-3", "cpu-1", 0.25, 0.25, 8).batch("replica-3", "cpu-2", 0.25, 8, 16)
    said = advice(measure(journal.end(16).folder))
    assert said.endswith(
        "there were 2. Replicas waited 1.6 % of their time for prompts. Computed from these rates, "
        "not measured: 1 would do."
    )


def test_preparing_while_replicas_start_does_not_pass_for_enough(tmp_path: Path) -> None:
    journal = Journaled(tmp_path).begin(0, 2).worker("cpu-1", 0, 0).worker("replica-2", 0, 10)
    journal.window("cpu-1", 0, 0, 8).batch("replica-2", "cpu-1", 8, 10, 11)
    said = advice(measure(journal.end(11).folder))
    assert said.endswith(
        "Replicas waited 0.0 % of their time for prompts: CPU workers had prepared while replicas "
        "started. Computed from these rates, not measured: a longer file would take 7 more."
    )


def test_no_more_are_advised_where_cpu_workers_were_idle_themselves(tmp_path: Path) -> None:
    """One window for two CPU workers: half of them had nothing to do."""
    journal = Journaled(tmp_path).begin(0, 3).worker("cpu-1", 0, 0).worker("cpu-2", 0, 0)
    journal.worker("replica-3", 0, 0)
    journal.window("cpu-1", 0, 0, 8).batch("replica-3", "cpu-1", 8, 8, 9)
    said = advice(measure(journal.end(9).folder))
    assert said.endswith(
        "Replicas waited 88.9 % of their time for prompts, while CPU workers were 50 % busy: more "
        "of them would not help. The prompts made 1 window(s) for 2 CPU workers: a smaller "
        "--window divides them more finely."
    )


def test_a_wait_for_the_first_batch_alone_is_called_so(tmp_path: Path) -> None:
    journal = Journaled(tmp_path).begin(0, 2).worker("cpu-1", 0, 0).worker("replica-2", 0, 0)
    journal.window("cpu-1", 0, 0, 1).batch("replica-2", "cpu-1", 1, 1, 4)
    said = advice(measure(journal.end(4).folder))
    assert said.endswith(
        "Replicas waited 25.0 % of their time for prompts, while CPU workers were 100 % busy, "
        "100 % of it before their first batch. By these rates they are enough."
    )


def test_an_empty_dispatch_says_what_is_missing(tmp_path: Path) -> None:
    journal = Journaled(tmp_path, "failed", failure={"reason": "no room"})
    measured = measure(journal.folder)
    assert measured.missing == (
        "this dispatch is not finished (state failed: no room)",
        "dispatch.jsonl has nothing: no worker was ever started, and nothing was measured",
    )
    assert as_text(measured, "table") == "".join(f"missing: {one}\n" for one in measured.missing)


def test_a_dispatch_that_was_killed_before_any_answer_is_shown_as_far_as_it_came(
    tmp_path: Path,
) -> None:
    journal = Journaled(tmp_path, "running").begin(0, 3).worker("cpu-1", 1, 2)
    measured = measure(journal.born("replica-2", 3).folder)
    assert measured.missing == (
        "this dispatch is not finished (state running)",
        "its last part has no end (it still runs, or was killed): measured to its last event",
        "no batch was answered: nothing can be said of preprocessing, waits and rates",
        "1 of 3 workers never came",
        f"replica-2 was never ready: see {tmp_path}/ranks/0002/log.txt",
    )
    assert measured.replicas["start_up_s"].to_list() == [3]
    assert measured.value("throughput") is None
    assert measured.value("queue_wait_p99") is None
    text = as_text(measured, "table")
    assert " throughput                                 -   new tokens/s\n" in text


def test_lines_that_cannot_be_read_are_counted_and_the_rest_is_shown(tmp_path: Path) -> None:
    folder = a_starved_dispatch(tmp_path).folder
    path = tmp_path / "dispatch.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-2], "{half", lines[-1]]) + "\n")
    measured = measure(folder)
    assert measured.missing == (
        "1 line(s) of dispatch.jsonl cannot be read: what they said is not counted",
    )
    assert measured.replicas["batches"].to_list() == [3]


def test_every_format_has_the_same_figures_and_fits_100_columns(tmp_path: Path) -> None:
    measured = measure(a_starved_dispatch(tmp_path).folder)
    found = json.loads(as_text(measured, "json"))
    assert found["replicas"][0]["idle_s"] == 16
    assert as_text(measured, "csv").splitlines()[1].startswith("0,replica-2,node1,4,32,640,20.0,16")
    assert "| 0 | node1 | 4 | 32 | 640 | 20.0 | 4.00 | 80.0 % | 0 |" in as_text(measured, "md")
    table = as_text(measured, "table")
    assert max(map(len, table.splitlines())) <= 100
    assert "0   node1         4        32          640       20.0       4.00   80.0 %" in table
