"""`perfkit submit`: a study as one sbatch job a point."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, result, story

if TYPE_CHECKING:
    from perfkit.report.tables import Column
    from perfkit.submit.plan import Planned
    from perfkit.submit.study import Study
    from perfkit.submit.systems import System


def command(
    study: str = typer.Argument(help="A study: a TOML file, or the name of a shipped one."),
    system: str = typer.Option(
        ..., "--system", help="A system of models/systems, or a TOML file of your own."
    ),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Print the scripts; submit and write nothing."
    ),
    out: Path | None = typer.Option(None, help="Folder of the results. [default: runs/STUDY]"),
    account: str | None = typer.Option(None, help="Project that the jobs are charged to."),
    partition: str | None = typer.Option(None, help="Partition, instead of the system's."),
    qos: str | None = typer.Option(None, help="Quality of service, instead of the system's."),
    gpus_per_node: int | None = typer.Option(
        None, min=0, help="GPUs of a node, instead of the system's."
    ),
    container: Path | None = typer.Option(
        None, "--container", help="Image that has perfkit and torch: run inside it."
    ),
    bind: list[str] = typer.Option(
        [], "--bind", help="Another SRC[:DEST[:ro]] that the container sees. Repeatable."
    ),
    only: str | None = typer.Option(None, help="Only points that match, e.g. 'tp2-*'."),
    stale: bool = typer.Option(
        False, "--stale", help="Submit finished points again whose settings have changed."
    ),
    force_points: bool = typer.Option(
        False, "--force-points", help="Submit points that do not fit by prediction, too."
    ),
    models_dir: Path | None = typer.Option(None, help="Your own models folder, searched first."),
    format: Format = FORMAT_OPTION,
) -> None:
    """Submit a study: one readable sbatch script for each point that is not finished.

    Run again it skips what is finished, waits or runs, and submits again what has failed.
    """
    from perfkit.predict.gpus import load_gpu
    from perfkit.submit.model import load_model
    from perfkit.submit.plan import Setting, Wishes, make_plan
    from perfkit.submit.study import load_study
    from perfkit.submit.systems import load_system, with_overrides

    site = with_overrides(
        load_system(system, models_dir), partition=partition, qos=qos, gpus_per_node=gpus_per_node
    )
    what = load_study(study, models_dir)
    wishes = Wishes(
        root=(out or Path("runs") / what.name).resolve(),
        account=account,
        image=container.resolve() if container else None,
        binds=tuple(bind),
        only=only,
        stale=stale,
        force_points=force_points,
        dry_run=dry_run,
    )
    setting = Setting(
        study=what,
        system=site,
        model=load_model(what.model, models_dir),
        wishes=wishes,
        gpu=load_gpu(site.gpu, models_dir) if site.gpu else None,
    )
    plan, problems = make_plan(setting)
    tell(site, plan, problems, in_container=container is not None)
    if dry_run:
        show_scripts(plan, what, site, format)
        closing(None, shlex.join(["perfkit", *(a for a in sys.argv[1:] if a != "--dry-run")]))
        return
    jobs = submit(plan)
    result(render(rows(plan, jobs), what, site, format))
    closing_line(wishes.root, study, out, jobs)


def submit(plan: "list[Planned]") -> dict[str, str]:
    """Job ids by point; each is told as soon as it is recorded."""
    from perfkit.submit.submit import submit_all

    jobs = {}
    for one, job_id in submit_all(plan):
        jobs[one.point.name] = job_id
        story(f"{one.point.name}: job {job_id}")
    return jobs


def tell(
    system: "System",
    plan: "list[Planned]",
    problems: tuple[str, ...],
    *,
    in_container: bool,
) -> None:
    """What a user should know before anything is submitted."""
    from perfkit.submit.trust import unverified_values

    if marks := unverified_values(system, in_container=in_container):
        story(f"warning: nobody checked these values of {system.name} at the site itself:")
        for mark in marks:
            story(f"  {mark}")
    for note in [*system.notes, *dict.fromkeys(p.point.note for p in plan if p.point.note)]:
        story(f"note: {note}")
    for problem in problems:
        story(f"warning: {problem}")
    story(cost(plan, system))


def cost(plan: "list[Planned]", system: "System") -> str:
    """What the jobs may cost, at most."""
    from perfkit.report.tables import significant
    from perfkit.submit.budget import budget

    needed = budget(plan, system)
    if not needed.jobs:
        return "Nothing to submit."
    text = f"{needed.jobs} job(s), at most {significant(needed.node_hours)} node-hours"
    if needed.charge is not None and system.billing is not None:
        text += f" = {significant(needed.charge)} {system.billing.unit}"
    return f"{text}, if each takes its whole time limit."


def show_scripts(plan: "list[Planned]", study: "Study", system: "System", format: Format) -> None:
    """Every script that would be submitted; the plan is the story beside it."""
    from perfkit.submit.script import job_script, read_template

    template = read_template()
    texts = {one.point.name: job_script(one.job, template) for one in plan if one.job}
    if format in (Format.json, Format.csv):
        found = [{**row, "script": texts.get(row["point"])} for row in rows(plan, {})]
        result(render(found, study, system, format))
        return
    story(render(rows(plan, {}), study, system, Format.table))
    for one in plan:
        if one.job:
            result(f"# {one.folder.script}\n{texts[one.point.name]}")


def rows(plan: "list[Planned]", jobs: dict[str, str]) -> list[dict[str, Any]]:
    """One row a point: layout, forecast, state and job."""
    return [_row(one, jobs.get(one.point.name)) for one in plan]


def _row(one: "Planned", job_id: str | None) -> dict[str, Any]:
    point, place, needs = one.point, one.point.placement, one.forecast
    earlier = one.record.last.job_id if one.record else None
    return {
        "point": point.name,
        "nodes": place.nodes if place else None,
        "tasks": place.nodes * place.tasks_per_node if place else None,
        "tp": point.tp,
        "pp": point.pp,
        "batch": point.batch,
        "predicted_memory_bytes": needs.memory_bytes if needs else None,
        "predicted_memory_is_lower_bound": needs.at_least if needs else None,
        "predicted_fits": needs.fits if needs else None,
        "predicted_pass_s": needs.pass_s if needs else None,
        "state": one.state,
        "action": _action(one, job_id),
        "job_id": job_id or earlier,
        "hash": one.hash,
        "why": one.why,
    }


def _action(one: "Planned", job_id: str | None) -> str | None:
    if one.job is None:
        return None
    return "submitted" if job_id else "to submit"


def render(found: list[dict[str, Any]], study: "Study", system: "System", format: Format) -> str:
    """The plan; reasons stand below the table, once each, because they are long."""
    import polars as pl

    from perfkit.report.tables import render as table

    frame = pl.DataFrame(found, infer_schema_length=None)
    if format in (Format.json, Format.csv):
        return table(frame, [], format.value, extra={"study": study.name})
    reasons = list(dict.fromkeys(row["why"] for row in found if row["why"]))
    marks = {reason: f"[{number}]" for number, reason in enumerate(reasons, start=1)}
    readable = frame.with_columns(
        memory=pl.Series([_memory(row) for row in found]),
        mark=pl.Series([marks.get(row["why"]) for row in found], dtype=pl.String),
    )
    title = f"Study {study.name} on {system.name}" + (f": {study.title}" if study.title else "")
    text = table(readable, _columns(found), format.value, title=title)
    return text + "".join(f"{mark} {reason}\n" for reason, mark in marks.items())


def _memory(row: dict[str, Any]) -> str:
    """GiB of the fullest rank; > where the prompts' length is not known."""
    from perfkit.report.tables import MISSING, significant

    if row["predicted_memory_bytes"] is None:
        return MISSING
    bound = "> " if row["predicted_memory_is_lower_bound"] else ""
    return bound + significant(row["predicted_memory_bytes"] / 2**30)


def _columns(found: list[dict[str, Any]]) -> "list[Column]":
    from perfkit.report.tables import Column

    columns = [Column(name="point", title="point", kind="text")]
    columns += [
        Column(name=n, title=n, kind="integer") for n in ("nodes", "tasks", "tp", "pp", "batch")
    ]
    columns += [
        Column(name="memory", title="predicted GiB/rank", kind="figure"),
        Column(name="predicted_fits", title="fits", kind="text"),
        Column(name="predicted_pass_s", title="predicted pass s"),
        Column(name="state", title="state", kind="text"),
        Column(name="action", title="action", kind="text"),
        Column(name="job_id", title="job", kind="figure"),
    ]
    if any(row["why"] for row in found):
        columns.append(Column(name="mark", title="why", kind="text"))
    return columns


def closing_line(root: Path, study: str, out: Path | None, jobs: dict[str, str]) -> None:
    """What was written, and how to follow it."""
    follow = shlex.join(["perfkit", "status", str(out) if out else study])
    closing(root if jobs else None, follow)
