"""Planned beside used, month by month, and the rate that the rest would need. In local units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from perfkit.allocation.units import amount
from perfkit.allocation.usage import by_month, jobs_of, next_month, used_by_month
from perfkit.errors import ConfigError
from perfkit.report.tables import significant
from perfkit.study.systems import System

BURN = pl.Schema(
    {
        "month": pl.String(),
        "planned": pl.Float64(),  # null: no allocation is named
        "used": pl.Float64(),  # null: after the snapshot
        "planned_so_far": pl.Float64(),
        "used_so_far": pl.Float64(),
        "left": pl.Float64(),  # granted - used so far
    }
)
DAYS_OF_A_MONTH = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What was granted, in the site's unit; the last day counts."""

    granted: float
    start: datetime
    end: datetime
    monthly: tuple[float, ...] = ()

    @property
    def after(self) -> datetime:
        """Midnight after the last day."""
        return self.end + timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Of a grant, when the snapshot was taken."""

    used: float
    left: float
    days_left: float
    needed_per_month: float | None
    """to use all of it by its last day; None once that has passed"""
    used_per_month: float | None
    """so far; None before its first day"""


def grant_of(granted: float, start: str, end: str, monthly: Sequence[float] = ()) -> Grant:
    """A Grant from days such as 2026-11-01; ConfigError for what cannot be."""
    first, last = (datetime.fromisoformat(day).replace(tzinfo=UTC) for day in (start, end))
    if last <= first:
        raise ConfigError(f"the allocation ends on {end}, before it starts on {start}.")
    found = Grant(granted=granted, start=first, end=last, monthly=tuple(monthly))
    months = months_of(found)
    if monthly and len(monthly) != len(months):
        raise ConfigError(
            f"monthly has {len(monthly)} numbers, {start} to {end} are {len(months)} months."
        )
    return found


def months_of(grant: Grant) -> list[str]:
    """Every month that the grant touches."""
    return [month for month, _s in by_month(grant.start.timestamp(), grant.after.timestamp())]


def planned_of(grant: Grant) -> dict[str, float]:
    """As given for each month, else by days."""
    seconds = dict(by_month(grant.start.timestamp(), grant.after.timestamp()))
    if grant.monthly:
        return dict(zip(seconds, grant.monthly, strict=True))
    whole = sum(seconds.values())
    return {month: grant.granted * part / whole for month, part in seconds.items()}


def burn_down(used: Mapping[str, float], grant: Grant | None, taken_at: str) -> pl.DataFrame:
    """BURN: every month of the grant and of use; `used` in the unit of the grant."""
    planned = planned_of(grant) if grant else {}
    now = taken_at[:7]
    if not planned and not used:
        return pl.DataFrame(schema=BURN)
    first, last = min([*planned, *used]), max([*planned, *used, now])
    rows, so_far, plan_so_far = [], 0.0, 0.0
    for month in _months(first, last):
        past = month <= now
        so_far += used.get(month, 0.0)
        plan_so_far += planned.get(month, 0.0)
        rows.append(
            {
                "month": month,
                "planned": planned.get(month, 0.0) if grant else None,
                "used": used.get(month, 0.0) if past else None,
                "planned_so_far": plan_so_far if grant else None,
                "used_so_far": so_far if past else None,
                "left": grant.granted - so_far if grant and past else None,
            }
        )
    return pl.DataFrame(rows, schema=BURN)


def _months(first: str, last: str) -> list[str]:
    found, month = [], datetime.fromisoformat(f"{first}-01").replace(tzinfo=UTC)
    while month.strftime("%Y-%m") <= last:
        found.append(month.strftime("%Y-%m"))
        month = next_month(month)
    return found


def pace(used: Mapping[str, float], grant: Grant, taken_at: str) -> Pace:
    """What is left, and how fast it would have to go: per 30 days."""
    now = datetime.fromisoformat(taken_at)
    spent = sum(used.values())
    left = grant.granted - spent
    days_left = (grant.after - now).total_seconds() / 86400
    days_gone = (min(now, grant.after) - grant.start).total_seconds() / 86400
    return Pace(
        used=spent,
        left=left,
        days_left=max(0.0, days_left),
        needed_per_month=left / days_left * DAYS_OF_A_MONTH if days_left > 0 else None,
        used_per_month=spent / days_gone * DAYS_OF_A_MONTH if days_gone > 0 else None,
    )


def used_in_units(
    document: Mapping[str, Any], system: System | None
) -> tuple[dict[str, float], str]:
    """({month: used}, in which unit): the site's own where it is known, else node-hours."""
    used = used_by_month(jobs_of(document), document, system)
    if system is None or system.billing is None:
        return used, "node-hours"
    local = {month: amount(hours, system).local or 0.0 for month, hours in used.items()}
    return local, system.billing.unit


def amount_words(value: float) -> str:
    """Whole units from a hundred on."""
    return f"{value:,.0f}" if abs(value) >= 100 else significant(value)


def pace_words(found: Pace, unit: str) -> str:
    """Left 1,200 node-hours for 40 days: 900 per 30 days needed, 450 used so far."""
    needed, used = found.needed_per_month, found.used_per_month
    return (
        f"{amount_words(found.left)} {unit} are left for {found.days_left:.0f} days: "
        f"{'no more time' if needed is None else f'{amount_words(needed)} per 30 days'} to use all "
        f"of it, {'not started' if used is None else amount_words(used)} per 30 days so far."
    )


def as_grant(given: Any) -> Grant | None:
    """Of [allocation] in proposal.toml."""
    if given is None:
        return None
    return grant_of(given.granted, given.start, given.end, given.monthly)
