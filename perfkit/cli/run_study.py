"""`perfkit run STUDY`: the points of a study on this machine, one after another."""

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from perfkit.cli.output import Format, closing, result, story, terminal_width
from perfkit.cli.study_plan import render, row_of
from perfkit.errors import ConfigError

if TYPE_CHECKING:
    from perfkit.study.file import Study
    from perfkit.submit.plan import Planned, Setting, Wishes
    from perfkit.submit.run_here import Ended, Outcome

OF_A_STUDY = ("only", "stale", "force_points", "dry_run")
"""options of `perfkit run` that only a study has"""
TAKEN = (*OF_A_STUDY, "out", "models_dir")


def is_study(name: str, models_dir: Path | None) -> bool:
    """A TOML file, or the name of a shipped study that no model has."""
    if name.endswith(".toml"):
        return True
    from perfkit.study.file import study_names

    if name not in study_names():
        return False
    from perfkit.engine.models import find_model

    try:
        find_model(name, models_dir, weights=False)
    except ConfigError:
        return True
    return False


def check_options(given: list[str], *, study: bool) -> None:
    """ConfigError for options of a model with a study, and the other way round."""
    if not study:
        if ours := [name for name in given if name in OF_A_STUDY]:
            raise ConfigError(
                f"{option(ours[0])} belongs to a study: perfkit run STUDY, a TOML file or the name "
                "of a shipped one."
            )
        return
    if foreign := [name for name in given if name not in TAKEN and name != "model"]:
        raise ConfigError(
            f"{option(foreign[0])} is an option of one run. In a study it stands in the file, "
            f"under [run] or [axes]; with a study go {', '.join(map(option, TAKEN))}."
        )


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def run_study(
    name: str,
    *,
    out: Path | None,
    only: str | None,
    stale: bool,
    force_points: bool,
    dry_run: bool,
    models_dir: Path | None,
) -> None:
    """Show the plan, run what is not finished, and say at the end what failed."""
    from perfkit.study.file import load_study
    from perfkit.submit.here import check_here, skip_missing_collectors
    from perfkit.submit.plan import Wishes, make_plan
    from perfkit.submit.run_here import run_points

    study = load_study(name, models_dir)
    wishes = Wishes(
        root=(out or Path("runs") / study.name).resolve(),
        only=only,
        stale=stale,
        force_points=force_points,
        dry_run=dry_run,
    )
    setting = setting_here(study, wishes, models_dir)
    check_here(setting)
    plan, problems = make_plan(setting)
    plan = skip_missing_collectors(study, plan)
    tell(setting, plan, problems)
    again = shlex.join(["perfkit", "run", name, *(["--out", str(out)] if out else [])])
    if dry_run:
        result(shown(setting, plan, {}))
        closing(None, again)
        return
    story(shown(setting, plan, {}))
    ended = run_points(setting, plan, PointProgress())
    if ended.outcomes:
        result(shown(setting, plan, ended.outcomes))
    else:
        result(str(wishes.root))
    conclude(setting, plan, ended, again)


def setting_here(study: "Study", wishes: "Wishes", models_dir: Path | None) -> "Setting":
    """The study on this machine."""
    from perfkit.collect.facts import host_facts
    from perfkit.study.model import load_model
    from perfkit.submit.here import device_here, place_here, target_here, this_machine
    from perfkit.submit.plan import Setting

    facts = host_facts()
    machine = this_machine(facts)
    return Setting(
        study=study,
        system=machine,
        model=load_model(study.model, models_dir),
        wishes=wishes,
        target=target_here(machine, device_here(study, machine), models_dir, facts),
        place=place_here,
    )


def tell(setting: "Setting", plan: "list[Planned]", problems: tuple[str, ...]) -> None:
    """What a user should know before anything starts."""
    from perfkit.submit.here import notes_here

    story(f"This machine: {setting.system.title}.")
    ranks = [one.point.tp * one.point.pp for one in plan if one.todo]
    notes = dict.fromkeys(one.point.note for one in plan if one.point.note)
    for note in [*notes_here(setting.study, setting.system, ranks), *notes]:
        story(f"note: {note}")
    for problem in problems:
        story(f"warning: {problem}")
    story(f"{len(ranks)} point(s) to run{duration(plan)}." if ranks else "Nothing to run.")


def duration(plan: "list[Planned]") -> str:
    """How long the passes of all points will take, where that is predicted for each."""
    from perfkit.report.tables import significant

    seconds = [one.forecast.passes_s for one in plan if one.todo and one.forecast]
    known = [value for value in seconds if value is not None]
    if len(known) < len(seconds):
        return ", one after another"
    return f", one after another: predicted {significant(sum(known))} s of passes, besides loading"


def shown(setting: "Setting", plan: "list[Planned]", outcomes: "Mapping[str, Outcome]") -> str:
    """The plan, or what came of it."""
    rows = [_row(one, outcomes.get(one.point.name), bool(outcomes)) for one in plan]
    return render(rows, setting.study, setting.system, Format.table)


def _row(one: "Planned", outcome: "Outcome | None", ended: bool) -> dict[str, Any]:
    row = row_of(one, "to run" if one.todo else None)
    if not ended:
        return row
    row["took_s"] = outcome.took_s if outcome else None
    if outcome is None:
        return {**row, "action": "not run" if one.todo else None}
    told = {"state": outcome.state.name, "why": outcome.state.cause, "action": "run"}
    number = len(one.record.jobs) + 1 if one.record else 1
    return {**row, **told, "job_id": f"local-{number}"}


def conclude(setting: "Setting", plan: "list[Planned]", ended: "Ended", again: str) -> None:
    """What failed, what was written, the next command; exit code 1 when a point has failed."""
    failed = [name for name, one in ended.outcomes.items() if one.state.name != "finished"]
    root = setting.wishes.root
    left = sum(one.todo for one in plan) - len(ended.outcomes)
    if failed:
        story(f"perfkit: failed: {', '.join(failed)}. What each printed: {root}/POINT/local-*.out")
    if left:
        story(f"perfkit: stopped, {left} point(s) were not run. The same command goes on.")
    written = root if ended.outcomes else None
    scaling = (setting.study.kind or "").endswith("scaling")
    read = f"perfkit {'scaling' if scaling else 'status'} {_short(root)}"
    closing(written, again if failed or left else read)
    if ended.received is not None:
        raise typer.Exit(128 + ended.received)
    if failed:
        raise typer.Exit(1)


def _short(root: Path) -> str:
    """Relative to where the user is, when that is shorter to read."""
    here = Path.cwd()
    return shlex.quote(str(root.relative_to(here) if root.is_relative_to(here) else root))


class PointProgress:
    """One line that is rewritten on a terminal; in a log each point's start, passes and end."""

    STAMPED = re.compile(r"\[ *[\d.]+ s\] (.+)")

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()

    def begin(self, point: str, number: int, count: int) -> None:
        story(f"point {number} of {count}: {point}")

    def line(self, text: str) -> None:
        """A line that `perfkit run` printed: `[   3.2 s] timed pass 1 of 3`."""
        found = self.STAMPED.fullmatch(text)
        if found is None:
            return
        if found[1].startswith("TTFT"):
            self._clear()
            story(f"  {text}")
        elif self.terminal:
            self._clear()
            sys.stderr.write(f"  {text}"[: terminal_width() - 1])
            sys.stderr.flush()

    def end(self, outcome: "Outcome") -> None:
        self._clear()
        cause = f": {outcome.state.cause}" if outcome.state.cause else ""
        story(f"  {outcome.state.name} after {outcome.took_s:.1f} s{cause}")

    def _clear(self) -> None:
        if self.terminal:
            sys.stderr.write("\r\x1b[K")
