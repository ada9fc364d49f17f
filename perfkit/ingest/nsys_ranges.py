"""NVTX ranges in an nsys export, and which of them are phases of the program."""

import re
from typing import Any

import polars as pl

from perfkit.ingest.frames import finding
from perfkit.ingest.kineto import NO_PHASE
from perfkit.ingest.nsys_gpu import NO_PROCESS, process_of
from perfkit.ingest.nsys_source import RANGES, Columns, Source, text_of

# Push/pop and start/end ranges; the last two as the NVTXT file format brings them.
RANGE_TYPES, DOMAIN_TYPE = (59, 60, 70, 71), 75
ACROSS_THREADS = (60, 71)

COLUMNS: Columns = {
    "rowid": pl.Int64(),
    "start": pl.Int64(),
    "end": pl.Int64(),
    "eventType": pl.Int32(),
    "globalTid": pl.Int64(),
    "textId": pl.Int32(),
    "domainId": pl.Int64(),
}

# One NVTX range that has ended; times by the clock of the file.
NVTX = pl.Schema(
    {
        "rowid": pl.Int64,
        "process": pl.Int64,
        "thread": pl.Int64,  # globalTid; null for a range that may end on another thread
        "domain": pl.String,  # empty: the default one
        "name": pl.String,
        "start": pl.Int64,
        "end": pl.Int64,
    }
)

# perfkit's engine marks its phases in a domain of its own: then nothing else is a phase.
OWN_DOMAIN = "perfkit"
# Domains in which libraries mark their own calls.
LIBRARIES = re.compile(r"(?i)^(nccl|cub|cccl|thrust|cu(blas|dnn|fft|solver|sparse|tensor)|nvshmem)")
NCCL = "NCCL"
# "step 12", "iteration=3", "ProfilerStep#7", "aten::mm, seq = 5": instances of one phase.
INSTANCE = r"(#\d+.*|, (seq|op_id) ?=.*|[ _:=-]+\d+)$"
# Names beyond this number are no phases that anybody would read.
MOST_PHASES = 100


def read_ranges(source: Source) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Every range that ended (NVTX), and a finding about those that did not."""
    rows = source.integers(RANGES, COLUMNS, {"eventType": RANGE_TYPES})
    whole = rows.drop_nulls(["start", "end"]).filter(pl.col("end") >= pl.col("start"))
    ids = whole["textId"].unique().drop_nulls()
    own = source.values(RANGES, ("rowid", "text"), "text", {"eventType": RANGE_TYPES})
    texts = pl.DataFrame(
        [(number, text) for number, text in own if isinstance(text, str)],
        schema={"rowid": pl.Int64, "text": pl.String},
        orient="row",
    )
    registered = source.strings(ids)
    string = pl.col("textId").replace_strict(registered, default=None, return_dtype=pl.String)
    named = whole.join(texts, on="rowid", how="left", maintain_order="left").with_columns(
        process=process_of("globalTid").fill_null(NO_PROCESS),
        name=pl.coalesce("text", string).fill_null(""),
    )
    named = named.join(domains(source), on=["process", "domainId"], how="left")
    across = pl.col("eventType").is_in(ACROSS_THREADS)
    frame = named.with_columns(
        thread=pl.when(~across).then("globalTid"), domain=pl.col("domain").fill_null("")
    )
    lost = rows.height - whole.height
    found = []
    if lost:
        text = f"{lost} NVTX ranges had not ended when the recording stopped: they are left out"
        found.append(finding("open-ranges", text, count=lost, severity="info"))
    return frame.select(pl.col(n).cast(t) for n, t in NVTX.items()).sort("start"), found


def domains(source: Source) -> pl.DataFrame:
    """process, domainId, domain: how each process calls its domains."""
    columns = ("globalTid", "domainId", "text", "textId")
    rows = source.values(RANGES, columns, "domainId", {"eventType": (DOMAIN_TYPE,)})
    names = source.strings(row[3] for row in rows if row[3] is not None)
    found = {(row[0], row[1]): text_of(row[2]) or names.get(row[3], "") for row in rows}
    frame = pl.DataFrame(
        [
            (tid, domain, name)
            for (tid, domain), name in found.items()
            if isinstance(tid, int) and isinstance(domain, int)
        ],
        schema={"globalTid": pl.Int64, "domainId": pl.Int64, "domain": pl.String},
        orient="row",
    )
    named = frame.select("domainId", "domain", process=process_of("globalTid"))
    return named.unique(["process", "domainId"], maintain_order=True)


def phases_of(nvtx: pl.DataFrame) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """phase, start, end of one process's ranges that are phases, with what was left out.

    A program's main thread opens its phases; ranges that may cross threads belong to them, too.
    """
    own = nvtx.filter(pl.col("domain") == OWN_DOMAIN)
    library = pl.col("domain").str.contains(LIBRARIES.pattern)
    ranges = (
        own if own.height else nvtx.filter(~library, ~pl.col("name").str.contains(NO_PHASE.pattern))
    )
    on_main = pl.col("thread").is_null() | (pl.col("thread") == main_thread(ranges))
    mine = ranges.filter(on_main).with_columns(phase=pl.col("name").str.replace(INSTANCE, ""))
    found = _left_out(ranges.height - mine.height, "on other threads than the main one")
    if mine["phase"].n_unique() > MOST_PHASES:
        top = outermost(mine)
        found += _left_out(mine.height - top.height, "inside others, with too many names to list")
        mine = top
    return mine.select("phase", "start", "end"), found


def main_thread(ranges: pl.DataFrame) -> int:
    """The thread that opened a request, else the one that opened most ranges."""
    threads = ranges.drop_nulls("thread")
    requests = threads.filter(pl.col("name") == "request")
    counts = (requests if requests.height else threads).group_by("thread").len()
    ordered = counts.sort(["len", "thread"], descending=[True, False])
    return int(ordered["thread"][0]) if ordered.height else -1


def outermost(ranges: pl.DataFrame) -> pl.DataFrame:
    """Ranges that are inside no other."""
    ordered = ranges.sort(["start", "end"], descending=[False, True])
    reach = pl.col("end").cum_max().shift(1)
    return ordered.filter(reach.is_null() | (pl.col("end") > reach))


def _left_out(count: int, which: str) -> list[dict[str, Any]]:
    if not count:
        return []
    text = f"{count} NVTX ranges {which} are no phases here"
    return [finding("other-ranges", text, count=count, severity="info")]
