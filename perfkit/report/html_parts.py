"""The sentences, tables and facts of the HTML report, from what is known of a run."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.measures import memory_in_use
from perfkit.predict.memory import GIB, MIB
from perfkit.report.tables import MISSING, Column, cell, significant
from perfkit.report.time_split import SPLIT_COLUMNS, readable_split
from perfkit.schema import RunFolder, read_json
from perfkit.timeline.analysis import Analysis

TOP_OPERATIONS = 15
HEADLINE = (
    Column(name="title", title="measure", kind="text"),
    Column(name="predicted", title="predicted"),
    Column(name="measured", title="measured median"),
    Column(name="range", title="measured min - max", kind="figure"),
    Column(name="count", title="timed passes", kind="integer"),
    Column(name="error", title="error of the prediction", kind="signed"),
)
OPERATIONS = (
    Column(name="name", title="operation", kind="text"),
    Column(name="class", title="class", kind="text"),
    Column(name="family", title="family", kind="text"),
    Column(name="ranks", title="ranks", kind="integer"),
    Column(name="calls", title="calls", kind="integer"),
    Column(name="total_ns", title="total [ms]", scale=1e-6),
    Column(name="mean_ns", title="mean [us]", scale=1e-3),
    Column(name="share", title="share", kind="percent"),
)
# Parts of a prediction, by the names that people read.
MEMORY_PARTS = {
    "weights": "weights_bytes",
    "KV cache": "kv_bytes",
    "activations": "activation_bytes",
    "overhead": "overhead_bytes",
}
MEMORY_FACTS = {
    "measured parameters": "parameter_bytes",
    "measured in use": "device_used_bytes",
    "capacity": "device_total_bytes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What is read, and what is sorted by; no value where nothing was measured."""

    text: str
    value: float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows as the template prints them."""

    name: str
    columns: Sequence[Column]
    rows: list[list[Cell]]


def table(name: str, frame: pl.DataFrame, columns: Sequence[Column]) -> Table:
    """A frame as its columns say."""
    rows = [
        [Cell(text=cell(row[c.name], c), value=row[c.name]) for c in columns]
        for row in frame.to_dicts()
    ]
    return Table(name=name, columns=columns, rows=rows)


def state_sentence(analysis: Analysis) -> str:
    """The page's first line: how the run ended, and whether anything was measured."""
    return f"Run {analysis.run.get('id', analysis.source.name)}: {ended(analysis)}"


def ended(analysis: Analysis) -> str:
    """finished, or FAILED because of rank 2; then what was measured."""
    run = analysis.run
    state, failure = run.get("state", "of unknown state"), run.get("failure") or {}
    if state == "finished":
        how = "finished"
    else:
        who = f" because of rank {failure['rank']}" if "rank" in failure else ""
        how = f"{state.upper()}{who}"
    return f"{how}, {measured_words(analysis)}"


def measured_words(analysis: Analysis) -> str:
    timed = timed_passes(analysis)
    if not timed and analysis.split.is_empty():
        return "NO MEASUREMENT"
    speed = f"speed measured in {timed} timed pass{'es' * (timed > 1)}" if timed else ""
    traced = len(analysis.ranks) - len(analysis.missing_traces)
    split = f"time split measured on {traced} of {len(analysis.ranks)} ranks" if traced else ""
    words = (speed or "speed NOT measured", split or "time split NOT measured")
    return ", ".join(words)


def timed_passes(analysis: Analysis) -> int:
    return analysis.measures.filter(pl.col("kind") == "timed").height


def run_sentence(analysis: Analysis) -> str:
    """What was run, in words."""
    config = analysis.run.get("config")
    if not config:
        return "What was to be run is not recorded: run.json has no config."
    hosts = {place["host"] for place in analysis.run.get("layout", []) if place.get("host")}
    on_hosts = f" on {len(hosts)} host{'s' * (len(hosts) > 1)}" if hosts else ""
    if "program" in config:
        return f"{shlex.join(config['program'])}, {len(analysis.ranks)} rank(s){on_hosts}."
    prompt = config.get("prompt_tokens")
    prompts = f"{prompt} prompt tokens" if prompt else "prompts from a file"
    parts = (
        f"{config.get('model_id', 'a model')}, {len(analysis.ranks)} rank(s){on_hosts}",
        f"TP {config.get('tp', '?')} x PP {config.get('pp', '?')}",
        f"batch {config.get('batch', '?')} in {config.get('microbatches', '?')} microbatch(es)",
        f"{prompts} and {config.get('new_tokens', '?')} new tokens a sequence",
        f"{config.get('dtype', '?')} on {config.get('device', '?')}",
    )
    return ", ".join(parts) + "."


def headline_rows(readable: pl.DataFrame, analysis: Analysis) -> pl.DataFrame:
    """The comparison's headline with the range as one text and the number of passes."""
    rows = readable.join(analysis.summary.select("measure", "count"), on="measure", how="left")
    ranges = [
        None if low is None else f"{significant(low)} - {significant(high)}"
        for low, high in rows.select("measured_min", "measured_max").rows()
    ]
    return rows.with_columns(pl.Series("range", ranges, dtype=pl.String))


def rank_labels(analysis: Analysis) -> dict[tuple[int, str], str]:
    """How each rank's device is called on axes: the device only where a rank has several."""
    keys = analysis.split.select("rank", "device").unique(maintain_order=True).rows()
    ranks = [rank for rank, _device in keys]
    return {
        (rank, device): f"rank {rank}" if ranks.count(rank) == 1 else f"rank {rank} {device}"
        for rank, device in keys
    }


def split_shares(analysis: Analysis, phase: str) -> pl.DataFrame:
    """label, and each part's share of the phase; null for a rank without a trace."""
    labels = rank_labels(analysis)
    rows = readable_split(analysis).filter((pl.col("phase") == phase) | pl.col("phase").is_null())
    names = [
        labels.get((rank, device), f"rank {rank}: no trace")
        for rank, device in rows.select("rank", "device").rows()
    ]
    return rows.select(
        pl.Series("label", names, dtype=pl.String),
        "compute",
        pl.col("exposed_comm").alias("exposed communication"),
        "copy",
        "idle",
    )


def split_table(analysis: Analysis) -> Table:
    return table("split", readable_split(analysis), SPLIT_COLUMNS)


def memory_rows(
    analysis: Analysis, path: Path, prediction: Mapping[str, Any] | None
) -> tuple[pl.DataFrame, str]:
    """One row a rank in MiB or GiB, whichever suits the largest, and that unit."""
    folder, rows = RunFolder(path), []
    predicted = {rank["rank"]: rank for rank in (prediction or {}).get("ranks", [])}
    for rank in analysis.ranks:
        file = folder.rank_file(rank, "engine.json")
        facts = read_json(file) if file.is_file() else {}
        parts = {name: predicted.get(rank, {}).get(key) for name, key in MEMORY_PARTS.items()}
        known = [size for size in parts.values() if size is not None]
        total = sum(known) if known else None
        facts = {**facts, **memory_in_use(facts)}
        found = {name: facts.get(key) for name, key in MEMORY_FACTS.items()}
        rows.append({"rank": rank, **parts, "predicted total": total, **found})
    sizes = (*MEMORY_PARTS, "predicted total", *MEMORY_FACTS)
    frame = pl.DataFrame(rows, schema={"rank": pl.Int32, **dict.fromkeys(sizes, pl.Float64)})
    # The capacity is left out: beside it a small model's parts would all be 0.00 something.
    largest = frame.select(pl.max_horizontal(pl.col(sizes[:-1]).max())).item() or 0
    unit, size = ("GiB", GIB) if largest >= GIB else ("MiB", MIB)
    return frame.with_columns(pl.col(sizes) / size), unit


def memory_table(rows: pl.DataFrame, unit: str) -> Table:
    def title(name: str) -> str:
        return f"predicted {name} [{unit}]" if name in MEMORY_PARTS else f"{name} [{unit}]"

    columns = [Column(name=n, title=title(n)) for n in rows.columns if n != "rank"]
    rank = Column(name="rank", title="rank", kind="integer")
    return table("memory", rows, [rank, *columns])


def longest_operations(operations: pl.DataFrame, top: int = TOP_OPERATIONS) -> pl.DataFrame:
    """The longest operations of each class, summed over ranks; share is of all classes' time."""
    sums = operations.group_by("name", "class", "family").agg(
        pl.col("rank").n_unique().alias("ranks"),
        pl.col("calls").sum(),
        pl.col("total_ns").sum(),
    )
    everything = operations["total_ns"].sum()
    longest = sums.sort("total_ns", "name", descending=[True, False]).group_by(
        "class", maintain_order=True
    )
    return (
        longest.head(top)
        .with_columns(
            mean_ns=pl.col("total_ns") / pl.col("calls"),
            share=pl.col("total_ns") / everything if everything else None,
        )
        .sort("total_ns", "name", descending=[True, False])
    )


def facts(analysis: Analysis, rates: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    """Where every number comes from: groups of names and values."""
    run = analysis.run
    yield (
        "Run",
        {
            "id": _text(run.get("id")),
            "folder": str(analysis.source),
            "state": _text(run.get("state")),
            "started": _text(run.get("started_at")),
            "ended": _text(run.get("ended_at")),
            "command": command(analysis),
        },
    )
    yield "Configuration", _texts(run.get("config") or {})
    yield "Versions", _texts(run.get("versions") or {})
    yield "Hardware", _texts(run.get("hardware") or {})
    yield "Slurm", _texts(run.get("slurm") or {})
    yield "Rates of the prediction", _texts(rates)
    ranks = [dict(place) for place in run.get("layout", [])]
    yield "Ranks", {str(place.pop("rank")): _text(place) for place in ranks}


def command(analysis: Analysis) -> str:
    return shlex.join(str(word) for word in analysis.run.get("command") or []) or MISSING


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): _text(value) for name, value in values.items()}


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(_text(inner) for inner in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)
