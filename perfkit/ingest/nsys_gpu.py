"""What the GPUs did in an nsys export: kernels, copies, memsets and replayed graphs.

With --cuda-graph-trace=graph, nsys's default, the kernels inside a replayed graph are absent: the
graph is then one activity, busy, and of unknown class.
"""

from collections.abc import Callable, Mapping

import polars as pl

from perfkit.ingest.classes import classified
from perfkit.ingest.frames import CLASSES, KINDS
from perfkit.ingest.nsys_source import COPIES, GRAPHS, KERNELS, MEMSETS, Columns, Source

# CUPTI's memcpy kinds, from 1; source: ENUM_CUDA_MEMCPY_OPER in an export.
COPY_KINDS = ("HtoD", "DtoH", "HtoA", "AtoH", "AtoA", "AtoD", "DtoA", "DtoD", "HtoH", "PtoP")
UNIFIED_KINDS = ("unified HtoD", "unified DtoH", "unified DtoD")
COPY_NAMES = [f"Memcpy {kind}" for kind in ("of unknown kind", *COPY_KINDS, *UNIFIED_KINDS)]
# Stands for the process of a row that does not name it.
NO_PROCESS = 0
NO_DEVICE = -1
# What GPU activities are called: a kernel's label is the id of its name, the others are below zero.
NO_NAME, FIRST_COPY, MEMSET, FIRST_GRAPH = -1, -100, -200, -1000
# The kernel's name, the most telling form first.
NAME_IDS = ("demangledName", "shortName", "mangledName")

PLACE: Columns = {
    "start": pl.Int64(),
    "end": pl.Int64(),
    "deviceId": pl.Int32(),
    "streamId": pl.Int64(),
    "globalPid": pl.Int64(),
    "correlationId": pl.Int64(),
}

# One GPU activity of a process; times by the clock of the file.
ROWS: Columns = {
    "device": pl.Int32(),  # counts within the process
    "stream": pl.Int64(),
    "start": pl.Int64(),
    "end": pl.Int64(),
    "correlation": pl.Int64(),  # counts within the process
    "label": pl.Int32(),  # what it is called, see LABELS
    "bytes": pl.Int64(),
}
LABELS = pl.Schema(
    {
        "label": pl.Int32(),
        "kind": KINDS,
        "name": pl.String(),
        "class": CLASSES,
        "family": pl.String(),
        "op": pl.String(),
    }
)
Labelled = tuple[pl.DataFrame, Mapping[int, str]]
"""Rows with their label, and the names of the labels"""


def is_kernel() -> pl.Expr:
    """Of a row in ROWS: a kernel, or a graph, which is busy with kernels."""
    return (pl.col("label") >= NO_NAME) | (pl.col("label") <= FIRST_GRAPH)


def process_of(column: str) -> pl.Expr:
    """The process of a globalPid or globalTid: hardware << 56 | vm << 48 | pid << 24 | thread."""
    return pl.col(column) // (1 << 24)


def pid_of(process: int) -> int:
    """The operating system's number of a process."""
    return process & 0xFFFFFF


def gpu_rows(source: Source, launches: bool) -> tuple[dict[int, pl.DataFrame], pl.DataFrame, int]:
    """GPU activities of each process (ROWS), what they are called (LABELS), how many are broken.

    Correlations, which lead to the launches, are read only when `launches` are wanted.
    """
    place = PLACE if launches else {n: t for n, t in PLACE.items() if n != "correlationId"}
    found: dict[int, list[pl.DataFrame]] = {}
    labels = [pl.DataFrame(schema=LABELS)]
    broken = 0
    for kind, reader in READERS.items():
        part, names = reader(source, place)
        part, without_end = whole_rows(part)
        broken += without_end
        labels.append(labelled(kind, names))
        for process, own in _by_process(part).items():
            found.setdefault(process, []).append(own)
    rows = {process: pl.concat(parts) for process, parts in found.items()}
    return rows, pl.concat(labels), broken


def whole_rows(part: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """The rows that have a start and an end that is not before it, and how many have not."""
    good = (pl.col("end") >= pl.col("start")).fill_null(False)
    count = int(part.select((~good).sum()).item())
    return (part.filter(good) if count else part), count


def _kernels(source: Source, place: Columns) -> Labelled:
    known = source.columns(KERNELS)
    name_id = next((name for name in NAME_IDS if name in known), NAME_IDS[0])
    kernels = source.integers(KERNELS, {**place, name_id: pl.Int32()})
    ids = kernels[name_id].unique().drop_nulls().to_list()
    texts = source.strings(ids)
    names = {number: texts.get(number, f"kernel without a name, {number}") for number in ids}
    rows = kernels.with_columns(pl.col(name_id).fill_null(NO_NAME).alias("label"))
    return rows, {NO_NAME: "kernel", **names}


def _copies(source: Source, place: Columns) -> Labelled:
    copies = source.integers(COPIES, {**place, "bytes": pl.Int64(), "copyKind": pl.Int32()})
    kind = pl.col("copyKind").fill_null(0)
    known = pl.when(kind.is_between(0, len(COPY_NAMES) - 1)).then(kind).otherwise(0)
    names = {FIRST_COPY - number: name for number, name in enumerate(COPY_NAMES)}
    return copies.with_columns(label=FIRST_COPY - known), names


def _memsets(source: Source, place: Columns) -> Labelled:
    memsets = source.integers(MEMSETS, {**place, "bytes": pl.Int64()})
    return memsets.with_columns(label=pl.lit(MEMSET)), {MEMSET: "Memset"}


def _graphs(source: Source, place: Columns) -> Labelled:
    graphs = source.integers(GRAPHS, {**place, "graphId": pl.Int64()})
    ids = graphs["graphId"].fill_null(0).unique().sort()
    label = FIRST_GRAPH - pl.lit(ids).search_sorted(pl.col("graphId").fill_null(0)).cast(pl.Int64)
    names = {FIRST_GRAPH - place: f"CUDA graph {number}" for place, number in enumerate(ids)}
    return graphs.with_columns(label=label), names


READERS: dict[str, Callable[[Source, Columns], Labelled]] = {
    "kernel": _kernels,
    "memcpy": _copies,
    "memset": _memsets,
    "graph": _graphs,
}


def _by_process(part: pl.DataFrame) -> dict[int, pl.DataFrame]:
    """ROWS of each process; what the table does not have is null."""
    named = part.rename(
        {"deviceId": "device", "streamId": "stream", "correlationId": "correlation"}, strict=False
    )
    columns = [
        (pl.col(name) if name in named.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in ROWS.items()
    ]
    process = process_of("globalPid").fill_null(NO_PROCESS).alias("process")
    known = pl.col("device").fill_null(NO_DEVICE)
    parts = (
        named.select(process, *columns)
        .with_columns(known)
        .partition_by("process", as_dict=True, include_key=False, maintain_order=True)
    )
    return {int(process): rows for (process,), rows in parts.items()}


def labelled(kind: str, names: Mapping[int, str]) -> pl.DataFrame:
    """What the labels of one kind of activity stand for (LABELS)."""
    schema = {"label": LABELS["label"], "name": LABELS["name"]}
    frame = pl.DataFrame(list(names.items()), schema=schema, orient="row")
    classes = frame.join(classified(names.values()), on="name", how="left", maintain_order="left")
    fixed = {"memcpy": "copy", "memset": "copy", "graph": "unknown"}
    columns = {
        "label": pl.col("label"),
        "kind": pl.lit(kind),
        "name": pl.col("name"),
        "class": pl.lit(fixed[kind]) if kind in fixed else pl.col("class"),
        "family": pl.lit("graph") if kind == "graph" else pl.col("family"),
        "op": pl.col("kernel_op") if kind == "kernel" else pl.lit(None),
    }
    return classes.select(column.cast(LABELS[n]).alias(n) for n, column in columns.items())
