"""Planned beside used, and the rate that the rest needs."""

import pytest

from perfkit.allocation.burn import burn_down, grant_of, months_of, pace, pace_words, planned_of
from perfkit.errors import ConfigError

QUARTER = grant_of(9200, "2026-11-01", "2027-01-31")


def test_a_grant_is_planned_by_days() -> None:
    assert months_of(QUARTER) == ["2026-11", "2026-12", "2027-01"]
    assert planned_of(QUARTER) == {"2026-11": 3000.0, "2026-12": 3100.0, "2027-01": 3100.0}


def test_months_after_the_snapshot_are_planned_and_not_used() -> None:
    rows = burn_down({"2026-11": 1000.0, "2026-12": 500.0}, QUARTER, "2026-12-16T00:00:00+00:00")
    assert rows.rows() == [
        ("2026-11", 3000.0, 1000.0, 3000.0, 1000.0, 8200.0),
        ("2026-12", 3100.0, 500.0, 6100.0, 1500.0, 7700.0),
        ("2027-01", 3100.0, None, 9200.0, None, None),
    ]


def test_months_without_jobs_are_shown_as_used_nothing() -> None:
    rows = burn_down({"2026-11": 1.0, "2027-01": 2.0}, None, "2027-01-10T00:00:00+00:00")
    assert rows["used"].to_list() == [1.0, 0.0, 2.0]
    assert rows["planned"].null_count() == 3


def test_the_rest_needs_a_rate_from_now() -> None:
    found = pace({"2026-11": 1500.0}, QUARTER, "2026-12-16T00:00:00+00:00")
    assert (found.left, found.days_left, found.needed_per_month) == (
        7700.0,
        47.0,
        7700 / 47 * 30,
    )
    assert found.used_per_month == pytest.approx(1000.0)
    assert pace_words(found, "node-hours") == (
        "7,700 node-hours are left for 47 days: 4,915 per 30 days to use all of it, 1,000 per 30 "
        "days so far."
    )


def test_after_the_last_day_no_rate_helps() -> None:
    found = pace({}, QUARTER, "2027-03-01T00:00:00+00:00")
    assert (found.days_left, found.needed_per_month) == (0.0, None)


def test_a_plan_by_month_is_taken_as_it_is() -> None:
    grant = grant_of(100, "2026-11-01", "2026-12-31", [30, 70])
    assert planned_of(grant) == {"2026-11": 30, "2026-12": 70}


def test_a_plan_must_have_every_month() -> None:
    with pytest.raises(ConfigError, match="2 numbers, 2026-11-01 to 2027-01-31 are 3 months"):
        grant_of(100, "2026-11-01", "2027-01-31", [30, 70])


def test_a_grant_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ConfigError, match="before it starts"):
        grant_of(100, "2026-11-01", "2026-10-31")
