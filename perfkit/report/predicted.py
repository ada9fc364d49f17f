"""A prediction's rows as people read them, and what must be said beside them."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import polars.selectors as cs

from perfkit import __version__
from perfkit.collect.supervise import now
from perfkit.errors import ConfigError
from perfkit.predict.gpus import Gpu
from perfkit.predict.memory import GIB
from perfkit.predict.rates import MICROBENCHMARK, Rates
from perfkit.report.tables import Column, render

COUNTS = {
    "batch": "batch",
    "microbatches": "in flight",
    "prompt_tokens": "prompt",
    "new_tokens": "new",
}
SHARES_OF_SEVERAL = (
    Column(name="comm_share", title="comm", kind="percent"),
    Column(name="wait_share", title="wait", kind="percent"),
)
BUBBLE = (Column(name="bubble", title="bubble", kind="percent"),)


def write_parquet(frame: pl.DataFrame, out: Path) -> None:
    """Words as plain strings: every reader of parquet knows those."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        frame.with_columns(cs.enum().cast(pl.String)).write_parquet(out)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}.") from error


def told(rates: Rates, gpu: Gpu | None, frame: pl.DataFrame) -> Iterator[str]:
    """Where the rates come from, what is assumed, and why rows were refused."""
    if gpu and rates.link_bytes_per_s is not None:
        if rates.summary == MICROBENCHMARK:
            file = f"models/calibrations/{gpu.id}-{rates.dtype}.toml"
            yield f"rates: curves measured on {gpu.id} ({file})."
        else:
            yield f"rates: data sheet of {gpu.id} ({gpu.source}), times what H100 and H200 reach."
            yield f"note: nobody measured {gpu.id} yet: `perfkit calibrate` on one does."
        if rates.network is None:
            yield "note: every pair of ranks has the GPU's own link. Over nodes, give --system, or"
            yield "      --gpus-per-node and --network."
        else:
            yield f"note: between nodes {rates.network.bytes_per_s / 1e9:g} GB/s a GPU and"
            yield f"      {1e6 * rates.network.latency_s:g} us, assumed: no such run was measured."
        if gpu.unverified:
            yield f"note: {gpu.id}: unverified: {', '.join(gpu.unverified)}"
    else:
        yield f"rates: measured on {rates.name} ({rates.summary})."
    for note in frame["note"].drop_nulls().unique(maintain_order=True):
        yield f"note: {note}"
    for mark, reason in enumerate(_reasons(frame), start=1):
        yield f"refused [{mark}]: {reason}"


def _reasons(frame: pl.DataFrame) -> list[str]:
    """Every reason of refusal once, in order."""
    return frame["refused"].drop_nulls().unique(maintain_order=True).to_list()


def rendered(frame: pl.DataFrame, rates: Rates, fmt: str) -> str:
    columns = _columns(frame)
    if fmt in ("table", "md"):
        marks = {reason: f"[{mark}]" for mark, reason in enumerate(_reasons(frame), start=1)}
        frame = frame.with_columns(pl.col("refused").replace(marks))
    extra = {
        "kind": "predicted",
        "made_at": now(),
        "perfkit": __version__,
        "provenance": dict(rates.provenance),
    }
    title = ", ".join(
        (f"Predicted, {rates.name}, {rates.dtype}, rates: {rates.summary}", *_shared(frame))
    )
    return render(frame, columns, fmt, title=title, extra=extra)


def _shared(frame: pl.DataFrame) -> list[str]:
    """Inputs that are the same in every row: said once, above the table."""
    first = frame.row(0, named=True)
    words = [f"{title} {first[name]:,}" for name, title in COUNTS.items() if _same(frame, name)]
    return [*words, f"{first['decode']} steps"] if _same(frame, "decode") else words


def _same(frame: pl.DataFrame, name: str) -> bool:
    return frame[name].n_unique() == 1


def _columns(frame: pl.DataFrame) -> list[Column]:
    """Layout, inputs that vary, results, memory; `refused` only where there is one."""
    columns = [Column(name=name, title=name, kind="integer") for name in ("tp", "pp")]
    columns += [
        Column(name=name, title=title, kind="integer")
        for name, title in COUNTS.items()
        if not _same(frame, name)
    ]
    if not _same(frame, "decode"):
        columns.append(Column(name="decode", title="decode", kind="text"))
    over_ranks = frame["num_gpus"].max() != 1
    columns += [
        Column(name="ttft_ms", title="TTFT ms"),
        Column(name="tpot_ms", title="TPOT ms"),
        Column(name="tpot_p05_ms", title="p05"),
        Column(name="tpot_p95_ms", title="p95"),
        Column(name="tokens_per_s", title="tokens/s"),
        Column(name="compute_share", title="compute", kind="percent"),
        *(SHARES_OF_SEVERAL if over_ranks else ()),
        Column(name="host_share", title="host", kind="percent"),
        *(BUBBLE if frame["pp"].max() != 1 else ()),
        Column(name="bottleneck", title="bottleneck", kind="text"),
        Column(name="total_bytes", title="GiB/rank", scale=1 / GIB),
        Column(name="fits", title="fits", kind="text"),
    ]
    if frame["nodes"].count():
        columns[2:2] = [Column(name="nodes", title="nodes", kind="integer")]
        columns.append(Column(name="node_hours_per_mtok", title="node-h/Mtok"))
    if frame["refused"].count():
        columns.append(Column(name="refused", title="refused", kind="text"))
    return columns
