"""Predicted beside measured, as text in one of the formats that every reading command has."""

from collections.abc import Iterator

import polars as pl

from perfkit.compare.run import Comparison
from perfkit.report.ending import first_lines
from perfkit.report.tables import Column, as_json, render
from perfkit.report.time_split import MEASURES, headline, warning_lines

HEADLINE = (
    Column(name="title", title="", kind="text"),
    Column(name="predicted", title="predicted"),
    Column(name="predicted_p05", title="p05"),
    Column(name="predicted_p95", title="p95"),
    Column(name="measured", title="measured"),
    Column(name="measured_min", title="min"),
    Column(name="measured_max", title="max"),
    Column(name="error", title="error", kind="signed"),
    Column(name="within", title="in 90 % interval", kind="text"),
)
SPLIT = (
    Column(name="rank", title="rank", kind="integer"),
    Column(name="phase", title="phase", kind="text"),
    Column(name="predicted_compute_s", title="predicted compute [ms]", scale=1e3),
    Column(name="measured_compute_s", title="measured", scale=1e3),
    Column(name="predicted_comm_s", title="predicted comm [ms]", scale=1e3),
    Column(name="measured_comm_s", title="measured + wait", scale=1e3),
)
MEMORY = (
    Column(name="rank", title="rank", kind="integer"),
    Column(name="predicted_weights_bytes", title="predicted weights [MiB]", scale=2**-20),
    Column(name="measured_weights_bytes", title="measured", scale=2**-20),
    Column(name="predicted_allocated_bytes", title="predicted allocated [MiB]", scale=2**-20),
    Column(name="measured_allocated_bytes", title="measured", scale=2**-20),
    Column(name="predicted_total_bytes", title="predicted in use [MiB]", scale=2**-20),
    Column(name="measured_total_bytes", title="measured", scale=2**-20),
)
CLASSES = (
    Column(name="rank", title="rank", kind="integer"),
    Column(name="phase", title="one pass of", kind="text"),
    Column(name="class", title="kernels", kind="text"),
    Column(name="predicted_s", title="predicted [ms]", scale=1e3),
    Column(name="measured_s", title="traced", scale=1e3),
    Column(name="error", title="error", kind="signed"),
)
CLASSES_NOTE = (
    "predicted kernels have the gap before each in them, 0.3 to 2.5 us, traced ones do not: many "
    "short ones look overpredicted"
)
SPLIT_NOTE = (
    "measured compute is from the captured pass, which the profiler slows; measured communication "
    "has the waiting for other ranks in it, predicted communication has none"
)


def printed(comparison: Comparison, fmt: str) -> str:
    """One document: exact values in json and csv, rounded ones with units in table and md."""
    if fmt == "json":
        return as_json(document(comparison))
    if fmt == "csv":
        return comparison.headline.write_csv()
    return "\n".join(_sections(comparison, fmt))


def document(comparison: Comparison) -> dict[str, object]:
    """The JSON document of a comparison."""
    run = comparison.analysis.run
    return {
        "run": run.get("id"),
        "state": run.get("state"),
        "failure": run.get("failure"),
        "ending": first_lines(comparison.analysis),
        "rates": {
            "source": comparison.rates_source,
            "provenance": dict(comparison.rates.provenance),
        },
        "headline": comparison.headline.to_dicts(),
        "split": comparison.split.to_dicts(),
        "memory": comparison.memory.to_dicts(),
        "classes": comparison.classes.to_dicts(),
        "experts": comparison.experts,
        "warnings": comparison.warnings,
    }


def readable(headline: pl.DataFrame) -> pl.DataFrame:
    """The headline in the units of its titles: milliseconds, tokens per second."""
    scale = pl.col("measure").replace_strict({k: v[1] for k, v in MEASURES.items()})
    title = pl.col("measure").replace_strict({k: v[0] for k, v in MEASURES.items()})
    ends = ("predicted_p05", "predicted_p95", "measured_min", "measured_max")
    within = pl.when("covered").then(pl.lit("yes")).when(~pl.col("covered")).then(pl.lit("no"))
    return headline.with_columns(
        title.alias("title"),
        *(pl.col(value) * scale for value in ("predicted", "measured", *ends)),
        within=within,
    )


def _sections(comparison: Comparison, fmt: str) -> Iterator[str]:
    yield headline(comparison.analysis)
    yield from first_lines(comparison.analysis)
    yield f"predicted from {comparison.rates_source}"
    if comparison.experts is not None:
        yield comparison.experts
    yield ""
    yield render(readable(comparison.headline), HEADLINE, fmt)
    yield render(comparison.split, SPLIT, fmt)
    yield f"{SPLIT_NOTE}\n"
    if not comparison.classes.is_empty():
        yield render(comparison.classes, CLASSES, fmt)
        yield f"{CLASSES_NOTE}\n"
    yield render(comparison.memory, MEMORY, fmt)
    yield from warning_lines(comparison.warnings, fmt)
