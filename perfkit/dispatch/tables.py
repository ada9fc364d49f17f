"""What `perfkit dispatch` prints: replicas, CPU workers, a summary and what they say in words."""

import textwrap

import polars as pl

from perfkit.dispatch.measure import Measured
from perfkit.dispatch.words import sentences
from perfkit.report.tables import Column, as_json, render

LINE = 96
"""characters of a line of words"""
REPLICA = Column(name="replica", title="replica", kind="integer")
REPLICA_COLUMNS = (
    REPLICA,
    Column(name="host", title="host", kind="text"),
    Column(name="batches", title="batches", kind="integer"),
    Column(name="prompts", title="prompts", kind="integer"),
    Column(name="new_tokens", title="new tokens", kind="integer"),
    Column(name="wall_s", title="wall [s]"),
    Column(name="busy_s", title="busy [s]"),
    Column(name="idle", title="idle", kind="percent"),
    Column(name="deaths", title="deaths", kind="integer"),
)
IDLE_COLUMNS = (
    REPLICA,
    Column(name="idle_s", title="idle [s]"),
    Column(name="starved_s", title="no batch ready"),
    Column(name="hand_over_s", title="hand-over"),
    Column(name="start_up_s", title="start-up"),
    Column(name="drained_s", title="at the end"),
    Column(name="lost_s", title="lost"),
)
CPU_COLUMNS = (
    Column(name="cpu_worker", title="CPU worker", kind="integer"),
    Column(name="host", title="host", kind="text"),
    Column(name="prompts", title="prompts", kind="integer"),
    Column(name="tokens", title="tokens", kind="integer"),
    Column(name="ms_per_prompt", title="ms/prompt"),
    Column(name="busy_s", title="busy [s]"),
    Column(name="read_s", title="reading [s]"),
    Column(name="busy", title="busy", kind="percent"),
    Column(name="deaths", title="deaths", kind="integer"),
)
SUMMARY_COLUMNS = (
    Column(name="words", title="measured", kind="text"),
    Column(name="value", title="value"),
    Column(name="unit", title="unit", kind="text"),
)
SUMMARY_WORDS = {
    "throughput": "throughput",
    "preprocessing": "preprocessing",
    "preprocessing_per_prompt": "preprocessing",
    "preprocessing_share": "preprocessing, of all busy time",
    "queue_wait_mean": "queue wait, mean",
    "queue_wait_p50": "queue wait, median",
    "queue_wait_p90": "queue wait, p90",
    "queue_wait_p99": "queue wait, p99",
    "queue_wait_max": "queue wait, longest",
    "replica_idle": "replicas idle",
    "padding": "padding, of the prompts' positions",
    "clock_bound": "clocks of workers known to within",
}


def as_text(measured: Measured, format: str) -> str:
    """All of it as a table, md or json; csv has the replicas."""
    if format == "json":
        return as_json(
            {
                "summary": measured.summary.to_dicts(),
                "replicas": measured.replicas.to_dicts(),
                "cpu_workers": measured.cpu_workers.to_dicts(),
                "parts": measured.parts,
                "missing": list(measured.missing),
                "words": list(sentences(measured)),
            }
        )
    if format == "csv":
        return measured.replicas.write_csv()
    frames = (
        (measured.replicas, REPLICA_COLUMNS),
        (measured.replicas, IDLE_COLUMNS),
        (measured.cpu_workers, CPU_COLUMNS),
        (readable(measured), SUMMARY_COLUMNS),
    )
    blocks = [render(frame, columns, format) for frame, columns in frames if not frame.is_empty()]
    lines = list(sentences(measured))
    if format == "table":
        lines = [textwrap.fill(line, LINE, subsequent_indent="  ") for line in lines]
        return "\n".join([*blocks, "".join(f"{line}\n" for line in lines)])
    return "\n".join([*blocks, "".join(f"- {line}\n" for line in lines)])


def readable(measured: Measured) -> pl.DataFrame:
    """The summary in words; ratios in percent."""
    ratio = pl.col("unit") == "ratio"
    return (
        measured.summary.filter(pl.col("measure").is_in(list(SUMMARY_WORDS)))
        .with_columns(
            words=pl.col("measure").replace_strict(SUMMARY_WORDS, return_dtype=pl.String),
            value=pl.when(ratio).then(100 * pl.col("value")).otherwise(pl.col("value")),
        )
        .with_columns(unit=pl.when(ratio).then(pl.lit("%")).otherwise(pl.col("unit")))
    )
