"""Scaling as tables: the users' own columns, or the form that PRACE and EuroHPC calls ask for."""

from collections.abc import Iterator, Sequence

import polars as pl

from perfkit.report.tables import Column, markdown, render, terminal
from perfkit.report.tables import cell as as_cell

FORMS = ("users", "prace")
WORK = ("model", "device", "dtype", "decode", "prompt_tokens", "new_tokens", "inside")
USERS = (
    Column(name="nodes", title="nodes", kind="integer"),
    Column(name="gpus", title="GPUs", kind="integer"),
    Column(name="tp", title="TP", kind="integer"),
    Column(name="pp", title="PP", kind="integer"),
    Column(name="microbatches", title="in flight", kind="integer"),
    Column(name="prompts", title="prompts", kind="integer"),
    Column(name="batch", title="batch", kind="integer"),
    Column(name="runs_count", title="runs", kind="integer"),
    Column(name="wall_s", title="wall s"),
    Column(name="spread", title="spread", kind="percent"),
    Column(name="predicted_wall_s", title="predicted s"),
    Column(name="tokens_per_s", title="tokens/s"),
)
STRONG = (
    Column(name="speedup", title="speed-up"),
    Column(name="ideal", title="ideal"),
    Column(name="predicted_speedup", title="predicted"),
    Column(name="predicted_band", title="90 % band", kind="text"),
    Column(name="efficiency", title="efficiency", kind="percent"),
)
WEAK = (
    Column(name="efficiency", title="efficiency", kind="percent"),
    Column(name="predicted_efficiency", title="predicted", kind="percent"),
)
PARTS = (
    *(column for column in USERS if column.name in ("gpus", "tp", "pp", "prompts")),
    Column(name="busy", title="GPU busy", kind="percent"),
    Column(name="load_s", title="load s"),
    Column(name="comm_s", title="comm s"),
    Column(name="wait_s", title="of it waiting s"),
    Column(name="preprocess_s", title="preprocess s"),
)
NOTE = Column(name="note_mark", title="note", kind="text")
PRACE_STRONG = (
    Column(name="gpus", title="Number of cores (GPUs)", kind="integer"),
    Column(name="wall_s", title="Wall clock time"),
    Column(name="speedup", title="Speed-up vs the first one"),
    Column(name="nodes", title="Number of nodes", kind="integer"),
    Column(name="processes", title="Number of processes", kind="integer"),
)
PRACE_WEAK = tuple(column for column in PRACE_STRONG if column.name != "speedup")
WHERE = "Where its time went: loading, and one captured pass, the mean of its GPUs"
HEADINGS = {"strong": "Strong scaling", "weak": "Weak scaling", None: "In no series"}


def render_scaling(frame: pl.DataFrame, form: str, fmt: str) -> str:
    """SCALING (compare/scaling.py) as text; JSON and CSV carry its own names and base units."""
    if fmt == "json":
        return render(frame, (), fmt)
    if fmt == "csv":
        return render(frame.with_columns(pl.col("runs").list.join(" ")), (), fmt)
    return "\n".join(_tables(frame, form, fmt))


def series(frame: pl.DataFrame) -> Iterator[tuple[str | None, pl.DataFrame]]:
    """(strong, weak or None, rows) of each series, and of each work that is in none."""
    for part in frame.partition_by("kind", "series", *WORK, maintain_order=True):
        yield part["kind"][0], part


def columns_of(kind: str | None, form: str) -> tuple[Column, ...]:
    """What a table of that kind shows; a PRACE form has no table for what is in no series."""
    if form == "prace":
        return {"strong": PRACE_STRONG, "weak": PRACE_WEAK}.get(kind or "", ())
    return (*USERS, *{"strong": STRONG, "weak": WEAK}.get(kind or "", ()), NOTE)


def shown(part: pl.DataFrame) -> pl.DataFrame:
    """With the columns that tables make of others."""
    bands = zip(part["predicted_speedup_p05"], part["predicted_speedup_p95"], strict=True)
    marks = iter(range(1, part.height + 1))
    return part.with_columns(
        # A microbatch is what passes the model at once.
        batch=(pl.col("prompts") / pl.col("microbatches")).ceil(),
        runs_count=pl.when(pl.col("wall_s").is_null()).then(0).otherwise(pl.col("runs").list.len()),
        processes=pl.col("gpus"),
        predicted_band=pl.Series([_band(low, high) for low, high in bands], dtype=pl.String),
        note_mark=pl.Series(
            [f"[{next(marks)}]" if note else None for note in part["note"]], dtype=pl.String
        ),
    )


def title(kind: str | None, part: pl.DataFrame) -> str:
    """What all rows share, and what the first of a series is."""
    row = part.row(0, named=True)
    work = (
        f"{HEADINGS[kind]}: {row['model']}, {row['device'] or 'device not recorded'}, "
        f"{row['dtype']}, {row['decode']} steps, "
        f"prompt {row['prompt_tokens'] or '?'} + {row['new_tokens']} new"
    )
    inside = f", timed inside {row['inside']}" if row["inside"] else ""
    if kind is None:
        return work + inside
    first = part.filter("first").row(0, named=True)
    each = f", batch {row['prompts']}" if kind == "strong" else ", the same batch for each GPU"
    layout = f"TP{first['tp']} PP{first['pp']}"
    return f"{work}{each}{inside}; against {first['gpus']} GPU ({layout})"


def notes(part: pl.DataFrame) -> list[str]:
    """Footnotes of a table, numbered as `shown` marks them."""
    told = [note for note in part["note"] if note]
    return [f"[{mark}] {note}" for mark, note in enumerate(told, start=1)]


def _tables(frame: pl.DataFrame, form: str, fmt: str) -> Iterator[str]:
    for kind, part in series(frame):
        columns = columns_of(kind, form)
        if not columns:
            continue
        table = shown(part)
        used = [c for c in columns if c is not NOTE or table["note_mark"].count()]
        yield _text(table, used, fmt, title(kind, part))
        if form == "users":
            yield "".join(f"{note}\n" for note in notes(part))
            yield _text(table, PARTS, fmt, WHERE)


def _text(table: pl.DataFrame, columns: Sequence[Column], fmt: str, title: str) -> str:
    cells = [[as_cell(row[c.name], c) for c in columns] for row in table.to_dicts()]
    if fmt == "md":
        return f"**{title}**\n\n{markdown(cells, columns)}"
    return terminal(cells, columns, title)


def _band(low: float | None, high: float | None) -> str | None:
    return None if low is None or high is None else f"{low:.2f} - {high:.2f}"
