"""What an nsys export says about itself: version, clock, GPUs, ranks, and what was lost.

Only the named columns and keys are read. META_DATA_CAPTURE and TARGET_INFO_SYSTEM_ENV, which hold
the environment of every process, never are.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from perfkit.ingest.frames import DEVICES, finding
from perfkit.ingest.nsys_gpu import pid_of
from perfkit.ingest.nsys_source import CALLS, RANGES, Source, text_of
from perfkit.secrets import without_secrets

# Until 2023.2, and from 2023.3 on.
EXPORT_TABLES = ("EXPORT_META_DATA", "META_DATA_EXPORT")
VERSION_KEY = "EXPORT_PRODUCT_VERSION"
# Times of an export with --ts-normalize are UTC already; a session lasts no ten years.
UTC_NS = 10**18
LOST = re.compile(r"(?i)\b(lost|dropped|discarded|missed|not all|incomplete|overflow)")
PATHS = re.compile(r"\S*/\S*")

Findings = list[dict[str, Any]]


def version(source: Source) -> str | None:
    """Of the nsys that exported the file; None before 2022, which did not say."""
    for table in EXPORT_TABLES:
        for key, value in source.values(table, ("name", "value"), "name"):
            if key == VERSION_KEY:
                return text_of(value)
    return None


def start_ns(source: Source, firsts: Sequence[Any]) -> tuple[int, Findings]:
    """What to add to the file's times to have UNIX time; `firsts` are some of its times."""
    if any(first is not None and first > UTC_NS for first in firsts):
        return 0, []
    rows = source.values("TARGET_INFO_SESSION_START_TIME", ("utcEpochNs",), "utcEpochNs")
    if rows and isinstance(rows[0][0], int):
        return rows[0][0], []
    text = (
        f"{source.path.name} does not say when it was recorded: its times count from the start of "
        "the recording and cannot be set beside those of other files"
    )
    return 0, [finding("no-start-time", text, severity="info")]


def not_traced(source: Source, any_gpu: bool, phases: bool) -> Findings:
    """What the file cannot say because it was not recorded, and how to record it."""
    name, found = source.path.name, []
    if not any_gpu:
        called = bool(source.columns(CALLS))
        text = (
            f"{name} has no GPU activity: "
            + ("CUDA was called, but nothing ran on a GPU" if called else "no CUDA was traced")
            + " while nsys recorded. The split is not measured; on a GPU, capture with --trace=cuda"
        )
        found.append(finding("no-gpu-activity", text))
    elif phases and not source.columns(CALLS):
        text = (
            f"{name} has no CUDA calls: when work was launched is not known, so no phase has GPU "
            "time and idle time has no cause. Capture with --trace=cuda,nvtx"
        )
        found.append(finding("no-cuda-calls", text))
    if phases and not source.columns(RANGES):
        text = f"{name} has no NVTX ranges: no phases. Mark them, and capture with --trace=nvtx"
        found.append(finding("no-nvtx", text, severity="info"))
    return found


def lost_events(source: Source) -> Findings:
    """What nsys itself says it did not record."""
    rows = source.values("DIAGNOSTIC_EVENT", ("text",), "text")
    texts = [str(text_of(row[0])) for row in rows]
    lost = [without_secrets(PATHS.sub("...", text)) for text in texts if LOST.search(text)]
    return [
        finding("events-lost", f"nsys says: {text}", count=lost.count(text))
        for text in dict.fromkeys(lost)
    ]


def devices_table(
    source: Source, rank: int, process: int, names: Mapping[int, str]
) -> pl.DataFrame:
    """DEVICES of one process, whose device numbers are called `names`.

    Which GPU of the node a device is, only newer versions say; before, the name is given where all
    GPUs have the same.
    """
    columns = ("id", "name", "totalMemory")
    gpus = {row[0]: row[1:] for row in source.values("TARGET_INFO_GPU", columns, "id")}
    mapped = gpu_numbers(source, process)
    same = next(iter(gpus.values())) if len(set(gpus.values())) == 1 else (None, None)
    rows = []
    for device, name in names.items():
        model, memory = gpus.get(mapped.get(device), same)
        row = (rank, name, None if model is None else text_of(model), memory, mapped.get(device))
        rows.append(row)
    return pl.DataFrame(rows, schema=DEVICES, orient="row")


def gpu_numbers(source: Source, process: int) -> dict[int, int]:
    """Which GPU of the node each device of a process is; empty where the file does not say."""
    table, columns = "TARGET_INFO_CUDA_DEVICE", ("cudaId", "gpuId")
    pairs = source.values(table, columns, "cudaId", {"pid": [pid_of(process)]})
    return {int(device): int(gpu) for device, gpu in pairs if gpu is not None}


def mpi_ranks(source: Source) -> dict[int, int]:
    """process -> rank, where MPI was traced."""
    rows = source.values("MPI_RANKS", ("globalTid", "rank"), "rank")
    return {int(thread) >> 24: int(rank) for thread, rank in rows}
