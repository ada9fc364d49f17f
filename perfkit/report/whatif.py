"""A replay as text or JSON: the step before and after, and what its critical path is made of."""

from typing import Any

import polars as pl

from perfkit.report.tables import Column, as_json, render
from perfkit.timeline.replay import Change, Replay

MS = 1e-6
PATH = (
    Column(name="what", title="on the critical path", kind="text"),
    Column(name="measured_ns", title="measured ms", scale=MS),
    Column(name="changed_ns", title="changed ms", scale=MS),
)
TOP = (
    Column(name="what", title="longest on the changed path", kind="text"),
    Column(name="name", title="name", kind="text"),
    Column(name="ns", title="ms", scale=MS),
)
NAME_WIDTH, TOP_ROWS = 60, 8


def printed(before: Replay, after: Replay, change: Change, fmt: str) -> str:
    """Both replays in one of the formats that every reading command has."""
    if fmt == "json":
        return as_json(document(before, after, change))
    path = path_frame(before, after)
    if fmt == "csv":
        return path.write_csv()
    top = pl.DataFrame(
        [(what, name[:NAME_WIDTH], ns) for what, name, ns in after.path[:TOP_ROWS]],
        schema={"what": pl.String, "name": pl.String, "ns": pl.Float64},
        orient="row",
    )
    return "\n".join(
        [*sentences(before, after), "", render(path, PATH, fmt), render(top, TOP, fmt)]
    )


def sentences(before: Replay, after: Replay) -> list[str]:
    """The step before and after the change, and how well the replay reproduces the measurement."""
    return [
        f"measured step {MS * before.measured_ns:,.2f} ms; replayed unchanged "
        f"{MS * before.replayed_ns:,.2f} ms ({100 * (before.ratio - 1):+.1f} %)",
        f"with the change {MS * after.replayed_ns:,.2f} ms: "
        f"{after.replayed_ns / before.replayed_ns:.3g} times the step (replayed, not measured)",
    ]


def path_frame(before: Replay, after: Replay) -> pl.DataFrame:
    """What the critical path is made of, before and after."""
    kinds = list(dict.fromkeys([*before.path_ns, *after.path_ns]))
    rows = [(kind, before.path_ns.get(kind, 0.0), after.path_ns.get(kind, 0.0)) for kind in kinds]
    schema = {"what": pl.String, "measured_ns": pl.Float64, "changed_ns": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def document(before: Replay, after: Replay, change: Change) -> dict[str, Any]:
    """The JSON document; as_json adds schema_version."""
    return {
        "change": {
            "comm": change.comm,
            "launch": change.launch,
            "copy": change.copy,
            "kernels": dict(change.kernels),
        },
        "measured_ns": before.measured_ns,
        "replayed_unchanged_ns": before.replayed_ns,
        "replayed_ns": after.replayed_ns,
        "critical_path_ns": {"unchanged": dict(before.path_ns), "changed": dict(after.path_ns)},
        "longest": [
            {"what": what, "name": name, "ns": ns} for what, name, ns in after.path[:TOP_ROWS]
        ],
    }
