"""`perfkit allocation`: freeze what Slurm says of a project's use, and show what is left."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, result, story
from perfkit.errors import ConfigError

if TYPE_CHECKING:
    from perfkit.allocation.burn import Grant, Pace
    from perfkit.allocation.usage import Calendar, Waits
    from perfkit.report.tables import Column

DAYS_BACK = 365
app = typer.Typer(
    no_args_is_help=True, help="Compute time: freeze Slurm's accounting, show the burn-down."
)


@app.command("snapshot")
def snapshot(
    account: str | None = typer.Option(
        None, "--account", "-A", help="A project: all its jobs. [default: your own jobs]"
    ),
    user: str | None = typer.Option(None, "--user", "-u", help="Only the jobs of this user."),
    since: str | None = typer.Option(
        None, help=f"First day, such as 2026-11-01. [default: {DAYS_BACK} days ago]"
    ),
    until: str | None = typer.Option(None, help="Last day. [default: now]"),
    out: Path | None = typer.Option(
        None, "-o", "--out", help="The file. [default: allocation-ACCOUNT-DAY.json]"
    ),
    force: bool = typer.Option(False, "--force", help="Replace the file."),
) -> None:
    """Write sacct, sshare and sinfo as they are now into one dated file: Slurm forgets.

    Names of users and of jobs are not asked for. The file says what could not be taken.
    """
    from perfkit.allocation.snapshot import Asked, default_name, take, write_snapshot

    now = datetime.now(UTC)
    asked = Asked(
        account=account,
        user=user,
        since=day(since) if since else now - timedelta(days=DAYS_BACK),
        until=min(now, day(until) + timedelta(days=1)) if until else now,
    )
    document = take(asked, now)
    path = write_snapshot(document, out or default_name(document), force=force)
    for name, why in document["not_taken"].items():
        story(f"warning: no {name}: {why}")
    jobs = len(document["texts"]["sacct"].splitlines()) - 1
    story(f"{jobs} jobs of {account or user or 'yours'} since {document['since'][:10]}")
    result(str(path))
    closing(path, f"perfkit allocation show {path}")


@app.command("show")
def show(
    snapshot: Path = typer.Argument(help="A file of `perfkit allocation snapshot`."),
    system: str | None = typer.Option(
        None, "--system", help="A system of models/systems: its unit and its billing rule."
    ),
    plan: Path | None = typer.Option(
        None, "--plan", help="proposal.toml with [allocation]: granted, start, end, monthly."
    ),
    granted: float | None = typer.Option(
        None, min=0, help="What was granted, in the system's own unit; with --start and --end."
    ),
    start: str | None = typer.Option(None, help="First day of the allocation."),
    end: str | None = typer.Option(None, help="Last day of the allocation."),
    models_dir: Path | None = typer.Option(None, help="Your own models folder, searched first."),
    format: Format = FORMAT_OPTION,
) -> None:
    """Show the burn-down: planned and used by month, what is left, and the rate it needs from now.

    Queue wait is from when a job could have started: waiting for one's own earlier jobs is none.
    """
    from perfkit.allocation.burn import burn_down, pace, used_in_units
    from perfkit.allocation.snapshot import read_snapshot
    from perfkit.allocation.usage import calendar, energy_kwh, jobs_of, waits
    from perfkit.report.tables import render, significant
    from perfkit.study.systems import load_system

    document = read_snapshot(snapshot)
    site = load_system(system, models_dir) if system else None
    grant = grant_from(plan, granted, start, end)
    used, unit = used_in_units(document, site)
    jobs = jobs_of(document)
    rows = burn_down(used, grant, document["taken_at"])
    found, days = waits(jobs), calendar(jobs, document)
    kwh, said, started = energy_kwh(jobs)
    rate = pace(used, grant, document["taken_at"]) if grant else None
    extra: dict[str, Any] = {
        "unit": unit,
        "taken_at": document["taken_at"],
        "account": document["account"],
        "jobs": jobs.height,
        "jobs_started": started,
        "pace": _fields(rate),
        "queue_wait": _fields(found),
        "calendar": _fields(days),
        "energy_kwh": kwh,
        "jobs_with_energy": said,
    }
    title = f"{document['account'] or 'Own jobs'}, {unit}, as of {document['taken_at']}"
    result(render(rows, columns(unit), format.value, title=title, extra=extra))
    for line in words(rate, unit, grant, jobs.height, found, days):
        story(line)
    energy = "not measured" if kwh is None else f"{significant(kwh)} kWh"
    story(f"energy: {energy} (said of {said} of {started} jobs)")
    closing(None, f"perfkit proposal RUNS --system {system or 'NAME'} --allocation {snapshot}")


def words(
    rate: "Pace | None",
    unit: str,
    grant: "Grant | None",
    num_jobs: int,
    found: "Waits | None",
    days: "Calendar | None",
) -> Iterator[str]:
    """What stands below the table."""
    from perfkit.allocation.burn import pace_words
    from perfkit.report.tables import significant as h

    if rate is not None:
        yield pace_words(rate, unit)
    if grant is None:
        yield "no allocation is named: give --plan proposal.toml, or --granted, --start and --end"
    if found is None:
        yield f"not measured: no job of {num_jobs} has started"
    else:
        yield (
            f"queue wait of {found.jobs} jobs: median {h(found.median_h)} h, 90th percentile "
            f"{h(found.p90_h)} h, {h(found.total_h)} h in all; start - submit would say "
            f"{h(found.since_submit_h)} h, with dependency chains counted as waiting"
        )
    if days is not None:
        yield (
            f"of {h(days.span_h)} h from the first start to the last end a job ran "
            f"{h(days.busy_h)} h; in {h(days.queued_h)} h jobs only waited, in {h(days.idle_h)} h "
            "there was none"
        )


def _fields(found: Any) -> dict[str, Any] | None:
    from dataclasses import asdict

    return None if found is None else asdict(found)


def grant_from(
    plan: Path | None, granted: float | None, start: str | None, end: str | None
) -> "Grant | None":
    """[allocation] of a proposal.toml, or the three options; None where nothing is said."""
    from perfkit.allocation.burn import as_grant, grant_of
    from perfkit.documents.settings import load_document

    if plan is not None:
        found = as_grant(load_document(plan).allocation)
        if found is None:
            raise ConfigError(f"{plan} has no [allocation]: granted, start and end.")
        return found
    options = {"--granted": granted, "--start": start, "--end": end}
    missing = [name for name, value in options.items() if value is None]
    if len(missing) == len(options):
        return None
    if missing or granted is None or start is None or end is None:
        raise ConfigError(f"{', '.join(missing)} is missing: give --granted, --start and --end.")
    return grant_of(granted, day(start).date().isoformat(), day(end).date().isoformat())


def day(text: str) -> datetime:
    """Midnight UTC of a day such as 2026-11-01."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise ConfigError(f"{text!r} is no day. Give one such as 2026-11-01.") from error


def columns(unit: str) -> "list[Column]":
    from perfkit.report.tables import Column

    return [
        Column(name="month", title="month", kind="text"),
        Column(name="planned", title=f"planned [{unit}]"),
        Column(name="used", title="used"),
        Column(name="planned_so_far", title="planned so far"),
        Column(name="used_so_far", title="used so far"),
        Column(name="left", title="left"),
    ]
