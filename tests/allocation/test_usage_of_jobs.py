"""What jobs used, how long they waited, and when nothing ran: from sacct's text."""

from pathlib import Path

import pytest
from accounting_text import a_job, a_snapshot

from perfkit.allocation.snapshot import read_snapshot
from perfkit.allocation.usage import (
    calendar,
    common,
    energy_kwh,
    jobs_of,
    merged,
    used_by_month,
    waits,
)
from perfkit.errors import ConfigError
from perfkit.study.systems import load_system

RECORDED = Path(__file__).parents[1] / "data" / "allocation" / "snapshot-22.05.json"
LEONARDO = load_system("leonardo")


def test_waiting_for_ones_own_earlier_job_is_no_queue_wait() -> None:
    chain = [
        a_job(1, submit=0, eligible=0, start=1, end=3),
        a_job(2, submit=0, eligible=3, start=5, end=6),
        a_job(3, submit=0, eligible=6, start=9, end=10),
    ]
    found = waits(jobs_of(a_snapshot(*chain)))
    assert found is not None
    assert (found.jobs, found.median_h, found.total_h) == (3, 2.0, 6.0)
    assert found.p90_h == pytest.approx(2.8)
    assert found.since_submit_h == 15.0


def test_a_recorded_chain_waited_a_second_not_thirteen() -> None:
    jobs = jobs_of(read_snapshot(RECORDED))
    found = waits(jobs)
    assert found is not None
    assert (found.jobs, round(found.total_h * 3600), round(found.since_submit_h * 3600)) == (
        3,
        1,
        13,
    )
    assert jobs["gpus"].to_list() == [4, 1, 1]
    assert jobs["state"].to_list() == ["COMPLETED"] * 3


def test_a_job_over_the_end_of_a_month_counts_in_both() -> None:
    document = a_snapshot(a_job(1, start=-2, end=4))
    assert used_by_month(jobs_of(document), document, None) == {"2026-10": 4.0, "2026-11": 8.0}


def test_a_running_job_has_used_what_it_ran_until_the_snapshot() -> None:
    document = a_snapshot(a_job(1, state="RUNNING", start=1, end=None), taken=4)
    assert used_by_month(jobs_of(document), document, None) == {"2026-11": 6.0}


def test_what_ran_before_the_window_is_not_counted_again() -> None:
    document = a_snapshot(a_job(1, start=0, end=10), since="2026-11-01T06:00:00+00:00")
    assert used_by_month(jobs_of(document), document, None) == {"2026-11": 8.0}


def test_a_shared_node_costs_its_part() -> None:
    half = a_job(1, nodes=1, tres="cpu=16,gres/gpu=2,node=1")
    document = a_snapshot(half)
    assert used_by_month(jobs_of(document), document, LEONARDO) == {"2026-11": 1.0}
    whole = load_system("lumi-g")
    assert used_by_month(jobs_of(document), document, whole) == {"2026-11": 2.0}


def test_gaps_are_told_apart_by_whether_a_job_could_have_run() -> None:
    document = a_snapshot(
        a_job(1, eligible=0, start=0, end=2),
        a_job(2, eligible=0, start=1, end=3),
        a_job(3, submit=0, eligible=4, start=6, end=7),
    )
    found = calendar(jobs_of(document), document)
    assert found is not None
    assert (found.span_h, found.busy_h, found.queued_h, found.idle_h) == (7.0, 4.0, 2.0, 1.0)


def test_intervals_that_touch_are_one() -> None:
    assert merged([(3, 4), (0, 1), (1, 2), (0.5, 0.7)]) == [(0, 2), (3, 4)]


def test_a_job_that_was_cancelled_in_the_queue_has_no_wait_and_no_use() -> None:
    document = a_snapshot(a_job(1, state="CANCELLED by 0", start=None, end=2))
    jobs = jobs_of(document)
    assert waits(jobs) is None
    assert calendar(jobs, document) is None
    assert used_by_month(jobs, document, None) == {}


def test_energy_is_of_the_jobs_that_say_so() -> None:
    jobs = jobs_of(
        a_snapshot(
            a_job(1, energy="7200000"),
            a_job(2, energy="18446744073709551614"),
            a_job(3, energy="0"),
        )
    )
    assert energy_kwh(jobs) == (2.0, 1, 3)


def test_text_that_is_not_sacct_s_is_refused() -> None:
    document = a_snapshot(texts={"sacct": "JobID|State\n1|COMPLETED\n"})
    with pytest.raises(ConfigError, match="no alloctres, eligible, end"):
        jobs_of(document)


def test_another_json_file_is_no_snapshot(tmp_path: Path) -> None:
    other = tmp_path / "run.json"
    other.write_text('{"schema_version": 1, "id": "x"}')
    with pytest.raises(ConfigError, match="no allocation snapshot"):
        read_snapshot(other)


def test_what_two_lists_of_intervals_have_in_common() -> None:
    assert common([(0, 2), (4, 6), (8, 9)], [(1, 5), (5.5, 8.5)]) == 3.0
    assert common([(0, 1)], []) == 0.0


def test_a_project_of_fifty_thousand_jobs_is_counted() -> None:
    # Every half hour a job of two nodes for an hour: always two at once, all of November 2026 on.
    jobs = (
        a_job(
            number,
            submit=number / 2 - 1,
            eligible=number / 2 - 1,
            start=number / 2,
            end=number / 2 + 1,
        )
        for number in range(50_000)
    )
    document = a_snapshot(*jobs, taken=30_000.0, until="2031-01-01T00:00:00+00:00")
    frame = jobs_of(document)
    used = used_by_month(frame, document, LEONARDO)
    # The first half hour of a month that is not the first has the job that began before it, too.
    assert (used["2026-11"], used["2026-12"]) == (2 * (2 * 720 - 0.5), 2 * 2 * 744)
    assert sum(used.values()) == pytest.approx(100_000)
    found, days = waits(frame), calendar(frame, document)
    assert found is not None
    assert days is not None
    assert (found.jobs, found.median_h, found.total_h) == (50_000, 1.0, 50_000.0)
    assert (days.span_h, days.idle_h) == (25_000.5, 0.0)
