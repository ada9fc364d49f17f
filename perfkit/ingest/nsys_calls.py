"""CUDA calls in an nsys export: when each activity was launched, and where the host waited."""

import re

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perfkit.ingest.frames import SYNC_CALLS
from perfkit.ingest.nsys_gpu import process_of
from perfkit.ingest.nsys_source import CALLS, SYNCHRONISATIONS, Columns, Source

COLUMNS: Columns = {
    "start": pl.Int64(),
    "end": pl.Int64(),
    "globalTid": pl.Int64(),
    "correlationId": pl.Int64(),
    "nameId": pl.Int32(),
}
# A call in which a host waited; times by the clock of the file.
SYNC_ROWS = pl.Schema({"process": pl.Int64, "name": pl.String, "start": pl.Int64, "end": pl.Int64})
# CUPTI's kinds of synchronisation in which a host waits; in the others only a stream does.
HOST_WAITS = {1: "cudaEventSynchronize", 3: "cudaStreamSynchronize", 4: "cudaCtxSynchronize"}
NO_LAUNCH = np.iinfo(np.int64).min

# Stands at the end of the correlations: what is searched always has a place.
LAST = np.iinfo(np.int64).max

Launches = dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]]
"""process -> correlations in order, and the start of the first call with each"""


def read_calls(source: Source) -> tuple[Launches, pl.DataFrame]:
    """Launches by process, and the calls in which a host waited (SYNC_ROWS).

    Runtime and driver calls stand in one table, and several calls can share a correlation: the
    first of them began the launch.
    """
    calls = source.integers(CALLS, COLUMNS).drop_nulls(["start", "globalTid"])
    names = source.strings(calls["nameId"].unique().drop_nulls())
    waiting = {number: name for number, name in names.items() if re.match(SYNC_CALLS, name)}
    syncs = calls.filter(pl.col("nameId").is_in(list(waiting))).select(
        process=process_of("globalTid"),
        name=pl.col("nameId").replace_strict(waiting, default=None, return_dtype=pl.String),
        start="start",
        end="end",
    )
    if syncs.is_empty() and not source.columns(CALLS):
        syncs = _synchronisations(source)
    return _launches(calls), syncs.drop_nulls("end")


def _synchronisations(source: Source) -> pl.DataFrame:
    """The same from CUPTI's own records, in an export without calls."""
    columns = {n: pl.Int64() for n in ("start", "end", "globalPid", "syncType")}
    rows = source.integers(SYNCHRONISATIONS, columns, {"syncType": HOST_WAITS})
    return rows.select(
        process=process_of("globalPid"),
        name=pl.col("syncType").replace_strict(HOST_WAITS, default=None, return_dtype=pl.String),
        start="start",
        end="end",
    )


def _launches(calls: pl.DataFrame) -> Launches:
    by_process = (
        calls.select("start", process=process_of("globalTid"), correlation="correlationId")
        .filter(pl.col("correlation") > 0)
        .partition_by("process", as_dict=True, include_key=False)
    )
    found = {}
    for (process,), mine in by_process.items():
        starts, correlations = mine["start"].to_numpy(), mine["correlation"].to_numpy()
        order = np.lexsort((starts, correlations))
        found[process] = (
            np.append(correlations[order], LAST),
            np.append(starts[order], NO_LAUNCH),
        )
    return found


def launch_times(correlations: pl.Series, launches: Launches, process: int) -> pl.Series:
    """When each activity of a process was launched; null where no call says."""
    nothing = (np.array([LAST]), np.array([NO_LAUNCH]))
    known, starts = launches.get(process, nothing)
    wanted = correlations.fill_null(0).to_numpy()
    index = np.searchsorted(known, wanted)
    series = pl.Series(np.where(known[index] == wanted, starts[index], NO_LAUNCH))
    return series.set(series == NO_LAUNCH, None)
