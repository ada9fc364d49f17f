"""`perfkit analyze` of a large nsys export, against sqlite3 counting the kernels of the same file.

    python tests/benchmarks/nsys_speed.py [FOLDER] [MILLIONS]

Makes an export of 5 million kernels on 8 GPUs, 5 million runtime calls and 0.36 million NVTX ranges
(about 1 GB, in FOLDER or a temporary one, deleted at the end), and prints one JSON line: seconds
and peak memory of the whole command, process start to printed split, and how many times the anchor
`select count(*), sum(end - start)` that is; the same tables as a parquetdir; what pandas takes for
`read_sql` and an interval sweep, in an environment of its own (null where that cannot be made); and
an export of 0.1 million kernels. Exit code 3 when that is more than the goals allow.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

MILLIONS, GPUS, CHUNK = 5, 8, 100_000
REPEATS = 3
GIB = 2**30
CHECK_FAILED = 3
# Times the anchor, and GiB.
GOALS = {"whole": (9.0, 1.2), "phases": (16.0, 2.2)}
SMALL_KERNELS, SMALL_S = 100_000, 1.0
PANDAS_GOAL, FOLDER_GOAL = 8.0, 2.0
# The kernels as pandas users split them: sorted, the reach of what came before, gaps and overlaps.
PANDAS = """
import sqlite3, sys
import pandas as pd
query = (
    'select start, "end", deviceId, globalPid, streamId, shortName '
    "from CUPTI_ACTIVITY_KIND_KERNEL"
)
kernels = pd.read_sql(query, sqlite3.connect(sys.argv[1]))
names = pd.read_sql("select id, value from StringIds", sqlite3.connect(sys.argv[1]))
communication = set(names[names["value"].str.startswith("nccl")]["id"])
kernels["comm"] = kernels["shortName"].isin(communication)
for key, mine in kernels.groupby(["globalPid", "deviceId"]):
    for rows in (mine, mine[mine["comm"]], mine[~mine["comm"]]):
        rows = rows.sort_values("start")
        reach = rows["end"].cummax().shift(fill_value=0)
        begin = rows["start"].where(rows["start"] > reach, reach)
        print(key, (rows["end"] - begin).clip(lower=0).sum())
"""

# Columns of nsys 2026.1 (schema 3.25), NOT NULL where nsys says so.
KERNEL = """start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL,
 contextId INTEGER NOT NULL, greenContextId INTEGER, streamId INTEGER NOT NULL,
 correlationId INTEGER, globalPid INTEGER, demangledName INTEGER NOT NULL,
 shortName INTEGER NOT NULL, mangledName INTEGER, launchType INTEGER, cacheConfig INTEGER,
 registersPerThread INTEGER NOT NULL, gridX INTEGER NOT NULL, gridY INTEGER NOT NULL,
 gridZ INTEGER NOT NULL, blockX INTEGER NOT NULL, blockY INTEGER NOT NULL, blockZ INTEGER NOT NULL,
 staticSharedMemory INTEGER NOT NULL, dynamicSharedMemory INTEGER NOT NULL,
 localMemoryPerThread INTEGER NOT NULL, localMemoryTotal INTEGER NOT NULL, gridId INTEGER NOT NULL,
 sharedMemoryExecuted INTEGER, graphNodeId INTEGER, graphId INTEGER,
 sharedMemoryLimitConfig INTEGER, clusterX INTEGER, clusterY INTEGER, clusterZ INTEGER,
 clusterSchedulingPolicy INTEGER, maxPotentialClusterSize INTEGER, maxActiveClusters INTEGER,
 qmdVersion INTEGER, qmdBulkReleaseState INTEGER, qmdGlobalSharing INTEGER, qmdSmConfig INTEGER,
 qmdOther INTEGER"""
RUNTIME = """start INTEGER NOT NULL, end INTEGER NOT NULL, eventClass INTEGER NOT NULL,
 globalTid INTEGER, correlationId INTEGER, nameId INTEGER NOT NULL, returnValue INTEGER NOT NULL,
 callchainId INTEGER"""
NVTX = """start INTEGER NOT NULL, end INTEGER, eventType INTEGER NOT NULL, rangeId INTEGER,
 category INTEGER, color INTEGER, text TEXT, globalTid INTEGER, endGlobalTid INTEGER,
 textId INTEGER, domainId INTEGER"""
TABLES = {
    "CUPTI_ACTIVITY_KIND_KERNEL": KERNEL,
    "CUPTI_ACTIVITY_KIND_RUNTIME": RUNTIME,
    "NVTX_EVENTS": NVTX,
    "StringIds": "id INTEGER NOT NULL PRIMARY KEY, value TEXT",
    "TARGET_INFO_SESSION_START_TIME": "utcEpochNs INTEGER, utcTime TEXT, localTime TEXT",
}
LAUNCH, SYNC, DECODE = 1, 2, 3
KERNELS = [
    *(f"void cutlass::Kernel2<cutlass_80_tensorop_bf16_gemm_{n}>(Params)" for n in range(200)),
    *(f"void at::native::vectorized_elementwise_kernel<4, op_{n}>(int)" for n in range(80)),
    "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096>)",
]
FIRST_KERNEL = 100
NS_A_KERNEL = 8_000
KERNELS_A_STEP, KERNELS_A_LAYER = 420, 14

Columns = Sequence[NDArray[np.int64] | int | str | None]


def make_export(path: Path, num_kernels: int) -> None:
    """Write the file: kernels of all GPUs interleaved, as they end."""
    with closing(sqlite3.connect(path)) as file:
        file.execute("pragma journal_mode = off")
        file.execute("pragma synchronous = off")
        for name, columns in TABLES.items():
            file.execute(f'create table "{name}" ({columns})')
        file.execute(
            "insert into TARGET_INFO_SESSION_START_TIME values (1790000000000000000, '', '')"
        )
        names = {LAUNCH: "cudaLaunchKernel_v7000", SYNC: "cudaStreamSynchronize_v3020"}
        names |= {DECODE: "decode", **dict(enumerate(KERNELS, FIRST_KERNEL))}
        file.executemany("insert into StringIds values (?, ?)", names.items())
        for first in range(0, num_kernels, CHUNK):
            number = np.arange(first, min(num_kernels, first + CHUNK))
            insert(file, "CUPTI_ACTIVITY_KIND_KERNEL", kernels(number))
            insert(file, "CUPTI_ACTIVITY_KIND_RUNTIME", calls(number))
        for ranges in nvtx_ranges(num_kernels // GPUS):
            insert(file, "NVTX_EVENTS", ranges)
        file.commit()


def insert(file: sqlite3.Connection, table: str, columns: Columns) -> None:
    """Rows of one chunk; a column that is no array has the same value in all of them."""
    count = next(len(column) for column in columns if isinstance(column, np.ndarray))
    lists = [c.tolist() if isinstance(c, np.ndarray) else [c] * count for c in columns]
    places = ", ".join("?" * len(columns))
    file.executemany(f'insert into "{table}" values ({places})', zip(*lists, strict=True))


def starts(number: NDArray[np.int64]) -> NDArray[np.int64]:
    """When a GPU's n-th kernel starts: some touch the one before, some leave a gap."""
    return 5_000_000_000 + number * NS_A_KERNEL + number * 7919 % 2000


def kernels(number: NDArray[np.int64]) -> Columns:
    gpu, own = number % GPUS, number // GPUS
    start = starts(own)
    name = FIRST_KERNEL + own * 31 % len(KERNELS)
    core: Columns = [start, start + 3000 + own * 104_729 % 5000, 0, 1, 0, 7, own + 1, process(gpu)]
    shape: Columns = [name, name, name, 1, 0, 64, 1056, 1, 1, 256, 1, 1, 0, 49152, 0, 250_871_808]
    return [*core, *shape, own, 65536, None, None, 0, *[0] * 6, *[None] * 5]


def calls(number: NDArray[np.int64]) -> Columns:
    gpu, own = number % GPUS, number // GPUS
    start = starts(own) - 40_000
    name = np.where(own % 100 == 99, SYNC, LAUNCH)
    return [start, start + 4000, 0, process(gpu) + 1 + gpu, own + 1, name, 0, None]


def nvtx_ranges(kernels_a_gpu: int) -> Iterator[Columns]:
    """decode steps by registered text, the layers in them by their own text."""
    step = np.arange(0, kernels_a_gpu - KERNELS_A_STEP, KERNELS_A_STEP)
    layer = np.arange(0, kernels_a_gpu - KERNELS_A_LAYER, KERNELS_A_LAYER)
    for gpu in range(GPUS):
        thread = int(process(np.array([gpu]))[0]) + 1 + gpu
        for first, length, text, text_id in (
            (step, KERNELS_A_STEP, None, DECODE),
            (layer, KERNELS_A_LAYER, "layer", None),
        ):
            start, end = starts(first) - 42_000, starts(first + length) - 44_000
            yield [start, end, 59, None, None, None, text, thread, None, text_id, 0]


def process(gpu: NDArray[np.int64]) -> NDArray[np.int64]:
    """globalPid of the process of each GPU."""
    return (1 << 48) + ((1000 + gpu) << 24)


def anchor_s(path: Path) -> float:
    """sqlite3's count and sum over the kernels, the fastest of some."""
    query = 'select count(*), sum("end" - start) from CUPTI_ACTIVITY_KIND_KERNEL'
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        subprocess.run(["sqlite3", f"file:{path}?mode=ro", query], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def analyze(path: Path, *options: str) -> tuple[float, float]:
    """(seconds, peak GiB) of the whole command, the fastest of some."""
    command = [sys.executable, "-m", "perfkit", "analyze", str(path), *options]
    best = (float("inf"), 0.0)
    for _ in range(REPEATS):
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _pid, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        best = min(best, (time.perf_counter() - start, usage.ru_maxrss * 1024 / GIB))
    return best


def make_folder(folder: Path, num_kernels: int) -> None:
    """The same tables as `nsys export --type parquetdir` lays them out."""
    folder.mkdir()
    number = np.arange(num_kernels)
    names = {LAUNCH: "cudaLaunchKernel_v7000", SYNC: "cudaStreamSynchronize_v3020"}
    names |= {DECODE: "decode", **dict(enumerate(KERNELS, FIRST_KERNEL))}
    tables = {
        "CUPTI_ACTIVITY_KIND_KERNEL": table(KERNEL, kernels(number)),
        "CUPTI_ACTIVITY_KIND_RUNTIME": table(RUNTIME, calls(number)),
        "NVTX_EVENTS": pl.concat(
            table(NVTX, ranges) for ranges in nvtx_ranges(num_kernels // GPUS)
        ),
        "StringIds": pl.DataFrame({"id": list(names), "value": list(names.values())}),
        "TARGET_INFO_SESSION_START_TIME": pl.DataFrame({"utcEpochNs": [1790000000000000000]}),
    }
    for name, frame in tables.items():
        frame.write_parquet(folder / f"{name}.parquet", compression="snappy")


def table(declared: str, columns: Columns) -> pl.DataFrame:
    names = [part.split()[0] for part in declared.split(",")]
    count = next(len(column) for column in columns if isinstance(column, np.ndarray))
    texts = {name for name, part in zip(names, declared.split(","), strict=True) if "TEXT" in part}
    return pl.DataFrame(
        [
            pl.Series(name, column)
            if isinstance(column, np.ndarray)
            else pl.Series(name, [column] * count, dtype=pl.String if name in texts else pl.Int64)
            for name, column in zip(names, columns, strict=True)
        ]
    )


def pandas_s(path: Path, folder: Path) -> float | None:
    """Seconds of pandas for the whole, once; None where it cannot be installed."""
    home = folder / "pandas"
    python = home / "bin" / "python"
    try:
        venv.create(home, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "pandas"]
        subprocess.run(install, check=True, capture_output=True, timeout=300)
    except (OSError, subprocess.SubprocessError):
        return None
    start = time.perf_counter()
    subprocess.run([str(python), "-c", PANDAS, str(path)], check=True, capture_output=True)
    return time.perf_counter() - start


def kernels_of(millions: float) -> int:
    return round(millions * 1e6)


def measure(folder: Path, millions: float) -> dict[str, Any]:
    path = folder / "synthetic.sqlite"
    try:
        make_export(path, kernels_of(millions))
        anchor = anchor_s(path)
        runs = {"whole": analyze(path, "--no-phases"), "phases": analyze(path)}
        size, pandas = path.stat().st_size, pandas_s(path, folder)
        tables = folder / "synthetic_pqtdir"
        # A child counts what its parent held as its own peak: the tables are made in another.
        maker = get_context("spawn").Process(
            target=make_folder, args=(tables, kernels_of(millions))
        )
        maker.start()
        maker.join()
        runs["folder"] = analyze(tables, "--no-phases")
        path.unlink()
        make_export(path, SMALL_KERNELS)
        runs["small"] = analyze(path)
        whole = runs["whole"][0]
        return {
            "kernels": kernels_of(millions),
            "file_gib": round(size / GIB, 2),
            "anchor_s": round(anchor, 3),
            **{f"{name}_s": round(seconds, 2) for name, (seconds, _peak) in runs.items()},
            **{f"{name}_ratio": round(s / anchor, 1) for name, (s, _peak) in runs.items()},
            **{f"{name}_peak_gib": round(peak, 2) for name, (_s, peak) in runs.items()},
            "pandas_s": None if pandas is None else round(pandas, 1),
            "pandas_over_whole": None if pandas is None else round(pandas / whole, 1),
            "whole_over_folder": round(whole / runs["folder"][0], 1),
        }
    finally:
        path.unlink(missing_ok=True)
        shutil.rmtree(folder / "synthetic_pqtdir", ignore_errors=True)
        shutil.rmtree(folder / "pandas", ignore_errors=True)


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    millions = float(sys.argv[2]) if len(sys.argv) > 2 else MILLIONS
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(folder or Path(temporary), millions)
    print(json.dumps(found))
    good = all(
        found[f"{name}_ratio"] <= ratio and found[f"{name}_peak_gib"] <= peak
        for name, (ratio, peak) in GOALS.items()
    )
    good &= (found["pandas_over_whole"] or PANDAS_GOAL) >= PANDAS_GOAL
    good &= found["whole_over_folder"] >= FOLDER_GOAL and found["small_s"] <= SMALL_S
    return 0 if good else CHECK_FAILED


if __name__ == "__main__":
    sys.exit(main())
