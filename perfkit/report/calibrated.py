"""What traces said about a GPU's curves: the factors, and the classes that they rest on."""

import math

import polars as pl

from perfkit.calibrate.from_traces import FromTraces
from perfkit.report.tables import Column, as_json, render

FACTORS = (
    Column(name="curve", title="curve", kind="text"),
    Column(name="factor", title="times as long"),
    Column(name="runs", title="from", kind="text"),
)
CLASSES = (
    Column(name="run", title="run", kind="text"),
    Column(name="phase", title="phase", kind="text"),
    Column(name="rank", title="rank", kind="integer"),
    Column(name="class", title="class", kind="text"),
    Column(name="before", title="error before", kind="signed"),
    Column(name="after", title="error after", kind="signed"),
)


def render_stretches(found: FromTraces, fmt: str) -> str:
    """Both tables, and the host's rate. JSON is the tables of the file beside them; CSV has the
    classes only."""
    factors = [
        {
            "curve": one.name,
            "factor": one.factor if one.runs else None,
            "runs": ", ".join(one.runs) or "not seen: as before",
        }
        for one in found.fit.factors
    ]
    classes = [
        {
            **dict(zip(("run", "phase", "rank", "class"), label, strict=True)),
            "before": math.expm1(before),
            "after": math.expm1(after),
        }
        for label, before, after in zip(
            found.fit.labels, found.fit.before, found.fit.after, strict=True
        )
    ]
    if fmt == "json":
        return as_json({"tables": found.tables, "factors": factors, "classes": classes})
    if fmt == "csv":
        return render(pl.DataFrame(classes), CLASSES, fmt)
    title = f"{found.tables['gpu']}, {found.tables['dtype']}: kernels against what was known"
    host = found.tables["host"]
    return "\n".join(
        (
            render(pl.DataFrame(factors), FACTORS, fmt, title=title),
            render(pl.DataFrame(classes), CLASSES, fmt, title="Classes of kernels, one pass"),
            f"host: {1e6 * host['dispatch_s']:.1f} us a dispatch ({host['source']})",
        )
    )
