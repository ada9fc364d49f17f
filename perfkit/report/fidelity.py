"""Whether a run still answers as its baseline, as text, JSON or CSV."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from perfkit.baseline.answers import Answers
from perfkit.compare.fidelity import Fidelity
from perfkit.compare.fidelity_gates import GateResult
from perfkit.report.tables import MISSING, Column, as_json, render, significant

FIGURES = (
    Column(name="title", title="", kind="text"),
    Column(name="value", title="value", kind="figure"),
    Column(name="noise", title="good repeat", kind="figure"),
    Column(name="suspicious", title="suspicious", kind="figure"),
    Column(name="broken", title="broken", kind="figure"),
    Column(name="verdict", title="", kind="text"),
)
DIVERGENCES = (
    Column(name="prompt_id", title="prompt", kind="text"),
    Column(name="place", title="place", kind="integer"),
    Column(name="baseline_token_id", title="baseline's token", kind="figure"),
    Column(name="run_token_id", title="run's", kind="figure"),
    Column(name="margin", title="margin [nats]", kind="figure"),
    Column(name="in_top", title="each in the other's top", kind="text"),
)
SHOWN = 5
PERCENT, COUNTS = ("top1", "overlap"), ("outside_top",)
FIRST_LINE = {
    "healthy": "{run} answers as {baseline}: healthy",
    "suspicious": "{run} may not answer as {baseline}: suspicious",
    "broken": "{run} does not answer as {baseline}: broken",
}


def printed(found: Fidelity, fmt: str) -> str:
    """One of the formats that every reading command has."""
    if fmt == "json":
        return as_json(document(found))
    if fmt == "csv":
        return pl.DataFrame(
            [{**asdict(result)} for result in found.judged.results], infer_schema_length=None
        ).write_csv()
    return "\n".join(_sections(found, fmt))


def document(found: Fidelity) -> dict[str, Any]:
    """The JSON document; as_json adds schema_version."""
    return {
        "verdict": found.judged.verdict,
        "reasons": list(found.judged.reasons),
        "baseline": _side(found.baseline),
        "run": _side(found.run),
        "precision": found.judged.precision,
        "kl": {
            "kind": found.kl,
            "direction": "KL(baseline || run)",
            "unit": "nats",
            "tokens_listed": [found.baseline.top, found.run.top],
            "vocabulary": found.vocabulary,
        },
        "figures": asdict(found.figures),
        "gates": [asdict(result) for result in found.judged.results],
        "limits_from": _limits_from(found),
        "repeat": None if found.noise is None else asdict(found.noise),
        "divergences": found.divergences.to_dicts(),
        "notes": list(found.notes),
    }


def _side(side: Answers) -> dict[str, Any]:
    return {
        "source": str(side.source),
        "kind": side.kind,
        "model": side.model_id,
        "settings": dict(side.settings),
    }


def _sections(found: Fidelity, fmt: str) -> Iterator[str]:
    names = {"run": found.run.source.name, "baseline": found.baseline.source.name}
    yield FIRST_LINE[found.judged.verdict].format(**names)
    yield from (f"  {reason}" for reason in found.judged.reasons)
    yield ""
    yield f"baseline  {told(found.baseline)}"
    yield f"run       {told(found.run)}"
    yield f"compared  {compared(found)}"
    yield ""
    yield figures(found, fmt)
    yield from kl_lines(found)
    yield f"limits: {_limits_from(found)}"
    if not found.divergences.is_empty():
        yield ""
        yield divergences(found, fmt)
    if found.notes:
        yield ""
    yield from (f"note: {note}" for note in found.notes)


def told(side: Answers) -> str:
    """One line on a side: what it is, of which model, and how it computed."""
    s = side.settings
    if side.kind == "endpoint":
        return f"{side.source}: {side.model_id} at {s['endpoint']}, asked {s['asked_at']}"
    quantised = f", {s['quantize']} weights" if s.get("quantize", "none") != "none" else ""
    return (
        f"{side.source}: {side.model_id}, {s['dtype']}{quantised}, TP {s['tp']} x PP {s['pp']}, "
        f"{s.get('decode', 'eager')}, {s['device']}"
    )


def compared(found: Fidelity) -> str:
    """How much of both was set side by side."""
    f = found.figures
    if not f.places:
        return f"{f.prompts} prompt(s), their answers only"
    whole = "each fed the same tokens" if f.places >= f.new_tokens else "as far as both agree"
    return f"{f.prompts} prompt(s), {f.places} of {f.new_tokens} places, {whole}"


def figures(found: Fidelity, fmt: str) -> str:
    """Each figure beside its limits."""
    f = found.figures
    frame = figure_rows(f.equal, f.prompts, found.judged.results)
    columns = [c for c in FIGURES if c.name != "noise" or found.noise is not None]
    return render(frame, columns, fmt)


def figure_rows(equal: int, prompts: int, results: Sequence[GateResult]) -> pl.DataFrame:
    """FIGURES: how many answers are equal, then what was judged."""
    rows: list[dict[str, str | None]] = [
        {"title": "answers equal", "value": f"{equal} of {prompts}"}
    ]
    rows += [_row(result) for result in results if result.value is not None]
    return pl.DataFrame(rows, schema={c.name: pl.String for c in FIGURES})


def _row(result: GateResult) -> dict[str, str | None]:
    sign = "<" if result.higher_is_better else ">"
    values = {name: getattr(result, name) for name in ("value", "noise", "suspicious", "broken")}
    texts = {name: _text(result.name, value) for name, value in values.items()}
    for name in ("suspicious", "broken"):
        if texts[name] is not None:
            texts[name] = f"{sign} {texts[name]}"
    return {"title": result.title, "verdict": result.verdict, **texts}


def _text(name: str, value: float | None) -> str | None:
    if value is None:
        return None
    if name in COUNTS:
        return str(value)
    return f"{100 * value:.1f} %" if name in PERCENT else significant(value)


def kl_lines(found: Fidelity) -> Iterator[str]:
    """Which KL stands in the table, and for an endpoint the one that is usual there."""
    f = found.figures
    if f.kl_mean is None:
        return
    if found.kl == "exact":
        yield f"KL(baseline || run) over all {found.vocabulary:,} tokens of the vocabulary"
    else:
        tops = " and ".join(str(n) for n in sorted({found.baseline.top, found.run.top}))
        yield (
            f"KL(baseline || run) is a lower bound: from the {tops} most likely tokens of each "
            "place, all others together"
        )
    if found.baseline.kind == "endpoint" and f.truncated_kl_mean is not None:
        yield (
            f"truncated KL (tokens that both list, renormalised): mean "
            f"{significant(f.truncated_kl_mean)}, p99 {significant(f.truncated_kl_p99 or 0)}; they "
            f"cover {100 * (f.covered_mean or 0):.1f} % of the baseline's probability, "
            f"{100 * (f.covered_min or 0):.1f} % where least"
        )


def _limits_from(found: Fidelity) -> str:
    if found.repeat is not None:
        return f"what the good run {found.repeat} shows, times the factors in fidelity_gates.toml"
    return f"{found.judged.source}, for {found.judged.precision}"


def divergences(found: Fidelity, fmt: str) -> str:
    """The first places in which answers part, those that no rounding explains first."""
    worst = found.divergences.sort("margin_nats", descending=True, nulls_last=True).head(SHOWN)
    rows = [
        {**row, "margin": _margin(row), "in_top": _yes_no(row["in_each_others_top"])}
        for row in worst.to_dicts()
    ]
    title = f"where answers part, {len(rows)} of {found.divergences.height}, largest margin first"
    return title + "\n" + render(pl.DataFrame(rows), DIVERGENCES, fmt).rstrip("\n")


def _margin(row: dict[str, Any]) -> str:
    if row["margin_nats"] is None:
        return MISSING
    return ("> " if row["margin_at_least"] else "") + significant(row["margin_nats"])


def _yes_no(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"
