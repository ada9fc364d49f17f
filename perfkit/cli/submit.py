"""`perfkit submit`: a study as one sbatch job a point."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, result, story
from perfkit.cli.study_plan import render, row_of

if TYPE_CHECKING:
    from perfkit.study.systems import System
    from perfkit.submit.plan import Planned, Setting
    from perfkit.submit.script import Job

    Jobs = list[tuple[Planned, Job]]


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
    from perfkit.study.file import load_study
    from perfkit.study.forecast import target_of
    from perfkit.study.model import load_model
    from perfkit.study.systems import load_system, with_overrides
    from perfkit.submit.jobs import check, jobs_of
    from perfkit.submit.plan import Setting, Wishes, make_plan

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
    gpu = load_gpu(site.gpu, models_dir) if site.gpu else None
    setting = Setting(
        study=what,
        system=site,
        model=load_model(what.model, models_dir),
        wishes=wishes,
        target=target_of(site, gpu, models_dir),
    )
    check(setting)
    plan, problems = make_plan(setting)
    jobs = jobs_of(setting, plan)
    tell(setting, plan, problems)
    if dry_run:
        show_scripts(setting, plan, jobs, format)
        closing(None, shlex.join(["perfkit", *(a for a in sys.argv[1:] if a != "--dry-run")]))
        return
    ids = submit(jobs)
    result(render(rows(plan, ids), what, site, format))
    closing_line(wishes.root, study, out, ids)


def submit(jobs: "Jobs") -> dict[str, str]:
    """Job ids by point; each is told as soon as it is recorded."""
    from perfkit.submit.submit import submit_all

    ids = {}
    for one, job_id in submit_all(jobs):
        ids[one.point.name] = job_id
        story(f"{one.point.name}: job {job_id}")
    return ids


def tell(setting: "Setting", plan: "list[Planned]", problems: tuple[str, ...]) -> None:
    """What a user should know before anything is submitted."""
    from perfkit.submit.trust import unverified_values

    system = setting.system
    if marks := unverified_values(system, in_container=setting.wishes.image is not None):
        story(f"warning: nobody checked these values of {system.name} at the site itself:")
        for mark in marks:
            story(f"  {mark}")
    for note in [*system.notes, *dict.fromkeys(p.point.note for p in plan if p.point.note)]:
        story(f"note: {note}")
    for problem in problems:
        story(f"warning: {problem}")
    story(cost(plan, system, setting.study.time_limit_s))


def cost(plan: "list[Planned]", system: "System", time_limit_s: int) -> str:
    """What the jobs may cost, at most."""
    from perfkit.report.tables import significant
    from perfkit.submit.budget import budget

    needed = budget(plan, system, time_limit_s)
    if not needed.jobs:
        return "Nothing to submit."
    text = f"{needed.jobs} job(s), at most {significant(needed.node_hours)} node-hours"
    if needed.charge is not None and system.billing is not None:
        text += f" = {significant(needed.charge)} {system.billing.unit}"
    return f"{text}, if each takes its whole time limit."


def show_scripts(setting: "Setting", plan: "list[Planned]", jobs: "Jobs", format: Format) -> None:
    """Every script that would be submitted; the plan is the story beside it."""
    from perfkit.submit.script import job_script, read_template

    template = read_template()
    texts = {one.point.name: job_script(job, template) for one, job in jobs}
    if format in (Format.json, Format.csv):
        found = [{**row, "script": texts.get(row["point"])} for row in rows(plan, {})]
        result(render(found, setting.study, setting.system, format))
        return
    story(render(rows(plan, {}), setting.study, setting.system, Format.table))
    for one, _job in jobs:
        result(f"# {one.folder.script}\n{texts[one.point.name]}")


def rows(plan: "list[Planned]", ids: dict[str, str]) -> list[dict[str, Any]]:
    """One row a point, with the id of the job that was submitted now or before."""
    return [row_of(one, _action(one, ids), ids.get(one.point.name)) for one in plan]


def _action(one: "Planned", ids: dict[str, str]) -> str | None:
    if not one.todo:
        return None
    return "submitted" if one.point.name in ids else "to submit"


def closing_line(root: Path, study: str, out: Path | None, ids: dict[str, str]) -> None:
    """What was written, and how to follow it."""
    follow = shlex.join(["perfkit", "status", str(out) if out else study])
    closing(root if ids else None, follow)
