"""F8, the work plan over months, and F9, the burn-down of an allocation."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from perfkit.allocation.burn import Grant, burn_down, pace, pace_words, used_in_units
from perfkit.documents.allocation_tables import NO_SNAPSHOT, SNAPSHOT
from perfkit.documents.figures import HEIGHT, ROW_HEIGHT, DocFigure, not_there
from perfkit.documents.settings import Package
from perfkit.documents.tables import NOT_GIVEN
from perfkit.report.charts import IDEAL, MEASURED, PREDICTED, fixed, inline
from perfkit.report.tables import significant
from perfkit.study.systems import System

LINES = {"planned": IDEAL, "used": MEASURED, "needed from now": PREDICTED}


def gantt(packages: Sequence[Package]) -> DocFigure:
    """F8: a bar a work package, a diamond at the end of it where it has a milestone."""
    caption = "Work plan; diamonds are milestones"
    if not packages:
        why = "no work package is given"
        return not_there("F8", caption, why, "[[work_packages]] in proposal.toml", NOT_GIVEN)
    rows = [
        {
            "package": f"{one.id} {one.title}",
            "start": one.start_month - 1,
            "end": one.end_month,
            "milestone": bool(one.milestone),
        }
        for one in packages
    ]
    months = max(one.end_month for one in packages)
    y = alt.Y(
        "package:N",
        title=None,
        sort=[f"{one.id} {one.title}" for one in packages],
        axis=alt.Axis(labelLimit=0, ticks=False),
    )
    x = alt.X(
        "start:Q",
        title="month",
        scale=alt.Scale(domain=[0, months], nice=False),
        axis=alt.Axis(values=list(range(months + 1)), format="d"),
    )
    bars = alt.Chart(inline(rows)).mark_bar(color=MEASURED, height=9).encode(y=y, x=x, x2="end:Q")
    marks = (
        alt.Chart(inline([row for row in rows if row["milestone"]]))
        .mark_point(shape="diamond", size=70, filled=True, color=PREDICTED, opacity=1)
        .encode(y=y, x=alt.X("end:Q"))
    )
    layers = [bars, marks] if any(row["milestone"] for row in rows) else [bars]
    spec = alt.layer(*layers).properties(width=250, height=(ROW_HEIGHT + 3) * len(rows)).to_dict()
    words = "; ".join(f"{one.id} months {one.start_month} to {one.end_month}" for one in packages)
    return DocFigure(id="F8", caption=caption, alt=f"Work plan: {words}.", spec=spec)


def burn_figure(
    document: Mapping[str, Any] | None, grant: Grant | None, system: System | None
) -> DocFigure:
    """F9: planned and used so far at the end of each month, and the way to go from now."""
    caption = "Allocation: planned, used, and the rate that the rest needs"
    if document is None:
        return not_there("F9", caption, NO_SNAPSHOT, SNAPSHOT, NOT_GIVEN)
    used, unit = used_in_units(document, system)
    rows = burn_down(used, grant, document["taken_at"])
    if rows.is_empty():
        return not_there("F9", caption, "no job ran in the snapshot's window", SNAPSHOT)
    points = list(_points(rows, grant, document["taken_at"][:7]))
    chart = (
        alt.Chart(inline(points))
        .mark_line(point=True)
        .encode(
            x=alt.X("month:O", title="end of the month", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("so_far:Q", title=unit),
            color=fixed("what:N", LINES, alt.Color, alt.Legend(title=None, orient="top")),
            strokeDash=fixed("what:N", _DASHES, alt.StrokeDash),
        )
    )
    spec = chart.properties(width=340, height=HEIGHT).to_dict()
    spent = f"{significant(sum(used.values()))} {unit} used by {document['taken_at'][:10]}"
    more = f" {pace_words(pace(used, grant, document['taken_at']), unit)}" if grant else ""
    return DocFigure(
        id="F9",
        caption=caption,
        alt=f"{spent}.{more}",
        spec=spec,
        runs=("allocation snapshot",),
        query="snapshot: sacct",
    )


_DASHES: dict[str, Any] = {"planned": [4, 3], "used": [1, 0], "needed from now": [1, 2]}


def _points(rows: pl.DataFrame, grant: Grant | None, now: str) -> Any:
    for row in rows.to_dicts():
        for what, key in (("planned", "planned_so_far"), ("used", "used_so_far")):
            if row[key] is not None:
                yield {"month": row["month"], "what": what, "so_far": row[key]}
    if grant is None:
        return
    used = rows.filter(month=now)["used_so_far"].to_list()
    last = rows["month"].to_list()[-1]
    if used and now < last:
        yield {"month": now, "what": "needed from now", "so_far": used[0]}
        yield {"month": last, "what": "needed from now", "so_far": grant.granted}
