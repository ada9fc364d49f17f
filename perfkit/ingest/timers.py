"""timers.jsonl of every rank -> one table, and the measures of each pass.

Wall-clock figures come from the timed passes only; the captured pass gives the profiler ratio.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from perfkit import measures
from perfkit.ingest.frames import finding
from perfkit.schema import SCHEMA_VERSION

KINDS = ("warmup", "timed", "captured")
PASSES = pl.Enum(KINDS)

TIMERS = pl.Schema(
    {
        "rank": pl.Int32(),
        "pp_rank": pl.Int32(),  # pipeline stage
        "tp_rank": pl.Int32(),
        "host": pl.String(),
        "kind": PASSES,  # what the pass was for
        "pass": pl.Int32(),  # counts from 0 in each kind
        "phase": pl.String(),  # request spans the pass; prefill and decode are one forward each
        "step": pl.Int32(),  # 0 makes the first token
        "microbatch": pl.Int32(),
        "start_ns": pl.Int64(),  # monotonic clock of the host: compare within a host only
        "end_ns": pl.Int64(),
        "tokens": pl.Int64(),  # tokens fed by a forward, tokens made by a sample
        "device_ns": pl.Int64(),  # first to last kernel of a forward, by CUDA events; null on a CPU
        "unix_ns": pl.Int64(),  # start on the UNIX clock, to compare hosts roughly
    }
)

MEASURES = pl.Schema(
    {
        "kind": PASSES,  # timed or captured
        "pass": pl.Int32(),
        "ttft_s": pl.Float64(),  # to the last microbatch's first token
        "ttft_first_s": pl.Float64(),  # to the first microbatch's first token
        "tpot_s": pl.Float64(),  # per token of a sequence after the first; null with one token
        "e2e_s": pl.Float64(),  # to the last token of the batch
        "tokens_per_s": pl.Float64(),  # new tokens of all sequences / e2e
        "tokens": pl.Int64(),  # new tokens of all sequences
        "new_tokens": pl.Int32(),  # of one sequence
        "rank": pl.Int32(),  # the last-stage rank that had the tokens last: its clock is used
    }
)

SUMMARY = pl.Schema(
    {
        "measure": pl.String(),  # ttft_s, ttft_first_s, tpot_s, e2e_s, tokens_per_s
        "median": pl.Float64(),  # of the timed passes
        "min": pl.Float64(),
        "max": pl.Float64(),
        "count": pl.Int32(),  # timed passes
        "captured": pl.Float64(),  # the captured pass, with the profiler's cost in it
    }
)

SUMMARISED = ("ttft_s", "ttft_first_s", "tpot_s", "e2e_s", "tokens_per_s")


class Header(msgspec.Struct):
    """First line of timers.jsonl."""

    schema_version: int
    rank: int
    tp_rank: int
    pp_rank: int
    host: str
    unix_minus_monotonic_ns: int = 0


class Line(msgspec.Struct, rename={"number": "pass"}):
    """Every other line."""

    number: int
    kind: str
    phase: str
    step: int
    microbatch: int
    start_ns: int
    end_ns: int
    tokens: int | None = None
    device_ns: int | None = None


HEADER = msgspec.json.Decoder(Header)
LINE = msgspec.json.Decoder(Line)


def read_timers(path: Path, rank: int) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """One rank's timers and what was wrong with them; whole lines of a cut-off file are kept."""
    source = f"ranks/{rank:04d}/{path.name}"
    head, *rest = path.read_bytes().splitlines() or [b""]
    try:
        header = HEADER.decode(head)
    except msgspec.DecodeError as error:
        text = f"{source} has no readable header ({error}): its timers are not used"
        return empty(), [finding("timers-header", text, rank=rank, source=source)]
    if header.schema_version != SCHEMA_VERSION:
        text = f"{source} has schema_version {header.schema_version}: its timers are not used"
        return empty(), [finding("timers-version", text, rank=rank, source=source)]
    lines = [line for line in map(_line, rest) if line is not None]
    lost = sum(1 for text in rest if text.strip()) - len(lines)
    return _frame(header, lines), _lost(lost, rank, source)


def empty() -> pl.DataFrame:
    return pl.DataFrame(schema=TIMERS)


def _line(text: bytes) -> Line | None:
    try:
        line = LINE.decode(text)
    except msgspec.DecodeError:
        return None
    return line if line.kind in KINDS else None


def _lost(count: int, rank: int, source: str) -> list[dict[str, Any]]:
    if not count:
        return []
    text = f"{source}: {count} broken line(s) left out, as after a killed rank; the rest is used"
    return [finding("timers-cut-off", text, rank=rank, source=source, count=count)]


def _frame(header: Header, lines: Sequence[Line]) -> pl.DataFrame:
    frame = pl.DataFrame([msgspec.to_builtins(line) for line in lines], schema=_LINES)
    return frame.select(
        pl.lit(header.rank, pl.Int32).alias("rank"),
        pl.lit(header.pp_rank, pl.Int32).alias("pp_rank"),
        pl.lit(header.tp_rank, pl.Int32).alias("tp_rank"),
        pl.lit(header.host, pl.String).alias("host"),
        *_LINES.names(),
        unix_ns=pl.col("start_ns") + header.unix_minus_monotonic_ns,
    ).select(TIMERS.names())


_LINES = pl.Schema(
    {n: TIMERS[n] for n in TIMERS.names() if n not in Header.__struct_fields__ and n != "unix_ns"}
)


def measure_passes(timers: pl.DataFrame, last_stage: int) -> pl.DataFrame:
    """One row for each whole timed or captured pass (MEASURES).

    The tokens of a batch count as there when the slowest last-stage rank has them; request and
    tokens are taken from that one rank, so that clocks of different hosts never meet. A pass
    without its `request` line (written last) was cut off and is left out.
    """
    stage = timers.filter(pl.col("pp_rank") == last_stage, pl.col("kind") != "warmup")
    per_rank = [
        row
        for _key, group in stage.group_by("kind", "pass", "rank", maintain_order=True)
        if (row := _measure(group)) is not None
    ]
    frame = pl.DataFrame(per_rank, schema=MEASURES).sort("e2e_s", "rank", descending=[True, False])
    return frame.unique(["kind", "pass"], keep="first", maintain_order=True).sort("kind", "pass")


def _measure(group: pl.DataFrame) -> dict[str, Any] | None:
    """The measures of one pass by one rank's clock."""
    request = group.filter(pl.col("phase") == "request")
    samples = group.filter(pl.col("phase") == "sample")
    firsts = samples.filter(pl.col("step") == 0)["end_ns"].to_list()
    if request.is_empty() or not firsts:
        return None
    start = int(request["start_ns"][0])
    ttft, e2e = measures.ttft_s(start, firsts), measures.e2e_s(start, samples["end_ns"].to_list())
    tokens, new_tokens = int(samples["tokens"].sum()), samples["step"].n_unique()
    return {
        **group.select("kind", "pass", "rank").row(0, named=True),
        "ttft_s": ttft,
        "ttft_first_s": measures.ttft_first_s(start, firsts),
        "tpot_s": measures.tpot_s(e2e, ttft, new_tokens),
        "e2e_s": e2e,
        "tokens_per_s": measures.throughput_tokens_per_s(tokens, e2e),
        "tokens": tokens,
        "new_tokens": new_tokens,
    }


def summarise(passes: pl.DataFrame) -> pl.DataFrame:
    """Median and range of each measure over the timed passes (SUMMARY); one row a measure."""
    return pl.DataFrame([_summary(passes, name) for name in SUMMARISED], schema=SUMMARY)


def _summary(passes: pl.DataFrame, name: str) -> dict[str, Any]:
    spread = measures.spread(_values(passes, "timed", name))
    captured = measures.spread(_values(passes, "captured", name))
    return {
        "measure": name,
        "median": spread.median if spread else None,
        "min": spread.min if spread else None,
        "max": spread.max if spread else None,
        "count": spread.count if spread else 0,
        "captured": captured.median if captured else None,
    }


def profiler_ratio(passes: pl.DataFrame) -> float | None:
    """e2e of the captured pass / median e2e of the timed ones; None unless there are both."""
    timed, captured = (_values(passes, kind, "e2e_s") for kind in ("timed", "captured"))
    return measures.profiler_ratio(captured[0], timed) if timed and captured else None


def _values(passes: pl.DataFrame, kind: str, name: str) -> list[float]:
    return passes.filter(pl.col("kind") == kind)[name].drop_nulls().to_list()


def concatenated(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """All ranks' timers."""
    return pl.concat([empty(), *frames])
