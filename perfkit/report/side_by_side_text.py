"""Runs side by side in words: the Markdown for a README, and what each run is called."""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from perfkit.predict.memory import GIB
from perfkit.report.side_by_side import GROUP, groups
from perfkit.report.tables import MISSING, Column, markdown, significant

MD_COLUMNS = (
    Column(name="run", title="run", kind="text"),
    Column(name="layout", title="layout, decode", kind="text"),
    Column(name="batch", title="batch"),
    Column(name="tokens", title="prompt + new"),
    Column(name="ttft", title="TTFT [ms]"),
    Column(name="tpot", title="TPOT [ms]"),
    Column(name="speed", title="tokens/s"),
    Column(name="predicted", title="predicted TPOT [ms]"),
    Column(name="step", title="compute / transfer / wait / idle [%]"),
    Column(name="slowed", title="slowed"),
    Column(name="memory", title="GPU memory [GiB]"),
)
NOT_RECORDED = "not recorded"
NOTE = (
    "TTFT, TPOT (fastest - slowest pass) and tokens/s are medians of timed passes without a "
    "profiler. Predicted {predicted}. The shares are of one decode step in the captured pass, the "
    "mean of its GPUs: compute, NCCL moving data, NCCL waiting for another rank, and idle. "
    "Slowed is how many times as long the profiler made that step, nearly all of it idle time and "
    "waiting. GPU memory is the most in use on any rank's GPU. A dash is what was not recorded."
)


def as_markdown(runs: pl.DataFrame) -> str:
    """A table for each model and device, and how to read them (GitHub's Markdown)."""
    texts = [text for group in groups(runs) for text in group_text(group)]
    return "\n".join([*texts, note(runs)]) + "\n"


def note(runs: pl.DataFrame) -> str:
    """How to read the columns."""
    rates = " or ".join(runs["rates"].drop_nulls().unique(maintain_order=True))
    predicted = f"from {rates}, from none of the run's times" if rates else "for none of the runs"
    return NOTE.format(predicted=predicted)


def group_text(group: pl.DataFrame) -> Iterator[str]:
    """The heading and the table of one model on one kind of device."""
    rows = [readable(row) for row in group.to_dicts()]
    cells = [[row[column.name] for column in MD_COLUMNS] for row in rows]
    yield f"**{group_title(group.row(0, named=True))}** ({group_facts(group)})\n"
    yield markdown(cells, MD_COLUMNS)


def group_title(row: Mapping[str, Any]) -> str:
    return ", ".join(str(row[name]) for name in GROUP if row[name]) or "not known"


def group_facts(group: pl.DataFrame) -> str:
    """Load, machine, versions and dates of a group's runs."""
    loads = ["random weights"] if group["load"].to_list() == ["dummy"] * group.height else []
    hosts = [f"{count} GPUs a host" for count in values(group, "gpus_of_host")]
    versions = [
        f"{name} {' and '.join(found)}"
        for name in ("driver", "torch", "nccl", "perfkit")
        if (found := values(group, name))
    ]
    dates = values(group, "date")
    days = [" to ".join(dict.fromkeys((dates[0], dates[-1])))] if dates else []
    return ", ".join([*loads, *hosts, *versions, *days])


def values(group: pl.DataFrame, name: str) -> list[str]:
    return [str(value) for value in group[name].drop_nulls().unique().sort()]


def readable(row: Mapping[str, Any]) -> dict[str, str]:
    """One run as the Markdown's cells."""
    low, high = row["tpot_min_s"], row["tpot_max_s"]
    spread = "" if low is None else f" ({number(low, 1e3)} - {number(high, 1e3)})"
    error = "" if row["error"] is None else f" ({100 * row['error']:+.0f} %)"
    return {
        "run": row["run"],
        "layout": layout(row) + (f" over {row['link']}" if row["link"] else ""),
        "batch": number(row["batch"]),
        "tokens": tokens(row),
        "ttft": number(row["ttft_s"], 1e3),
        "tpot": number(row["tpot_s"], 1e3) + spread,
        "speed": number(row["tokens_per_s"]),
        "predicted": number(row["predicted_tpot_s"], 1e3) + error,
        "step": step_shares(row),
        "slowed": MISSING if row["slowed"] is None else f"{row['slowed']:.2f}",
        "memory": number(row["peak_gpu_bytes"], 1 / GIB),
    }


def number(value: float | None, scale: float = 1.0) -> str:
    if value is None:
        return MISSING
    return f"{value:,}" if isinstance(value, int) else significant(value * scale)


def tokens(row: Mapping[str, Any]) -> str:
    """Prompt and new tokens of a sequence."""
    if row["new_tokens"] is None:
        return MISSING
    return f"{row['prompt_tokens'] or 'file'} + {row['new_tokens']}"


def layout(row: Mapping[str, Any]) -> str:
    """TP2 PP2 M2 graph, and whatever else is not as usual."""
    ranks = f"{row['ranks']} ranks" if row["ranks"] else MISSING
    words = [
        f"TP{row['tp']} PP{row['pp']}" if row["tp"] and row["pp"] else ranks,
        f"M{row['microbatches']}" if (row["microbatches"] or 1) > 1 else "",
        f"on {row['hosts']} hosts" if (row["hosts"] or 1) > 1 else "",
        row["sharding"] if row["sharding"] not in (None, "autotp") else "",
        f"split {row['split']}" if row["split"] else "",
        row["decode"] or "",
    ]
    return " ".join(word for word in words if word)


def step_shares(row: Mapping[str, Any]) -> str:
    """12 / 1 / 0 / 87; communication as one number where it cannot be told apart."""
    if row["step_ns"] is None:
        return NOT_RECORDED
    idle = (row["launch_bound_ns"] or 0) + row["other_ns"]
    if row["transfer_ns"] is None:
        parts = [row["compute_ns"], row["untold_comm_ns"], idle]
        compute, comm, rest = (share(part, row) for part in parts)
        words = f"{compute} / NCCL {comm} / {rest}"
    else:
        parts = [row["compute_ns"], row["transfer_ns"], row["wait_ns"], idle]
        words = " / ".join(share(part, row) for part in parts)
    return words + partly(row)


def partly(row: Mapping[str, Any]) -> str:
    """How many ranks the step is of, where it is not of all; nothing otherwise."""
    known, ranks = row["traced_ranks"], row["ranks"]
    return f" ({known} of {ranks} ranks)" if known < ranks else ""


def share(part_ns: float, row: Mapping[str, Any]) -> str:
    """In whole percent; `<1` for what is there and rounds to nothing."""
    percent = 100 * part_ns / row["step_ns"]
    return "<1" if 0 < percent < 0.5 else f"{percent:.0f}"
