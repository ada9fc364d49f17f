"""A study's plan as people read it: what `perfkit submit` and `perfkit run STUDY` both print."""

from typing import TYPE_CHECKING, Any

from perfkit.cli.output import Format

if TYPE_CHECKING:
    from perfkit.report.tables import Column
    from perfkit.study.file import Study
    from perfkit.study.systems import System
    from perfkit.submit.plan import Planned


def row_of(one: "Planned", action: str | None, job_id: str | None = None) -> dict[str, Any]:
    """One row a point: layout, forecast, state and what is done with it."""
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
        "predicted_passes_s": needs.passes_s if needs else None,
        "not_predicted": needs.no_time if needs else None,
        "state": one.state,
        "action": action,
        "job_id": job_id or earlier,
        "hash": one.hash,
        "why": one.why,
    }


def title_of(study: "Study", system: "System") -> str:
    kind = f", {study.kind}" if study.kind else ""
    return f"Study {study.name}{kind} on {system.name}" + (
        f": {study.title}" if study.title else ""
    )


def render(found: list[dict[str, Any]], study: "Study", system: "System", format: Format) -> str:
    """The plan; reasons stand below the table, once each, because they are long."""
    import polars as pl

    from perfkit.report.tables import render as table

    frame = pl.DataFrame(found, infer_schema_length=None)
    if format in (Format.json, Format.csv):
        return table(frame, [], format.value, extra={"study": study.name, "kind": study.kind})
    reasons = list(dict.fromkeys(row["why"] for row in found if row["why"]))
    marks = {reason: f"[{number}]" for number, reason in enumerate(reasons, start=1)}
    readable = frame.with_columns(
        memory=pl.Series([memory(row) for row in found]),
        mark=pl.Series([marks.get(row["why"]) for row in found], dtype=pl.String),
    )
    text = table(readable, columns(found), format.value, title=title_of(study, system))
    text += "".join(f"{mark} {reason}\n" for reason, mark in marks.items())
    untimed = dict.fromkeys(row["not_predicted"] for row in found if row["not_predicted"])
    return text + "".join(f"No predicted time: {reason}.\n" for reason in untimed)


def memory(row: dict[str, Any]) -> str:
    """GiB of the fullest rank; > where the prompts' length is not known."""
    from perfkit.report.tables import MISSING, significant

    if row["predicted_memory_bytes"] is None:
        return MISSING
    bound = "> " if row["predicted_memory_is_lower_bound"] else ""
    return bound + significant(row["predicted_memory_bytes"] / 2**30)


def columns(found: list[dict[str, Any]]) -> "list[Column]":
    from perfkit.report.tables import Column

    shown = [Column(name="point", title="point", kind="text")]
    several = any((row["nodes"] or 0) > 1 for row in found)
    counts = [*(["nodes"] if several else []), "tasks", "tp", "pp", "batch"]
    shown += [Column(name=name, title=name, kind="integer") for name in counts]
    shown += [
        Column(name="memory", title="predicted GiB/rank", kind="figure"),
        Column(name="predicted_fits", title="fits", kind="text"),
        Column(name="predicted_pass_s", title="predicted pass s"),
        Column(name="predicted_passes_s", title="all passes s"),
    ]
    if any("took_s" in row for row in found):
        shown.append(Column(name="took_s", title="took s"))
    shown += [
        Column(name="state", title="state", kind="text"),
        Column(name="action", title="action", kind="text"),
        Column(name="job_id", title="job", kind="figure"),
    ]
    if any(row["why"] for row in found):
        shown.append(Column(name="mark", title="why", kind="text"))
    return shown
