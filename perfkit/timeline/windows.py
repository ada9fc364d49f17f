"""Which stretches of a device's time belong to the whole and to each phase.

On a CPU a phase is its range on the main thread. A GPU runs later than its host: there an instance
of a phase is from the start of the first to the end of the last activity that was launched inside
the range, and a phase that launched nothing has no window. The whole is the `request` range (with
what it launched, should that end later), so that ranks are compared over the same time; in a trace
without one it is first start to last end.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perfkit.timeline.intervals import Ns, union

WHOLE = "whole"
REQUEST = "request"

Windows = tuple[Ns, Ns]


def windows_of(activities: pl.DataFrame, ranges: pl.DataFrame) -> dict[str, Windows]:
    """Windows of one device, `whole` first, then phases in the order of their first instance."""
    gpu = on_gpu(activities)
    found = {WHOLE: whole(activities, ranges, gpu)}
    for (phase,), instances in ranges.group_by("phase", maintain_order=True):
        if phase == REQUEST:
            continue
        windows = projected(activities, *host(instances)) if gpu else host(instances)
        if len(windows[0]):
            found[str(phase)] = windows
    return found


def on_gpu(activities: pl.DataFrame) -> bool:
    """Whether one device's activities are those of a GPU."""
    return str(activities["device"][0]).startswith("cuda")


def whole(activities: pl.DataFrame, ranges: pl.DataFrame, gpu: bool) -> Windows:
    requests = host(ranges.filter(pl.col("phase") == REQUEST))
    if not len(requests[0]):
        first, last = activities["start_ns"].min(), activities["end_ns"].max()
        return np.array([first], dtype=np.int64), np.array([last], dtype=np.int64)
    if not gpu:
        return requests
    return requests[0], np.array([_end(activities, *r) for r in zip(*requests, strict=True)])


def _end(activities: pl.DataFrame, start: int, end: int) -> int:
    """End of a request: of its range, or of the last activity launched in it."""
    _starts, ends = projected(activities, np.array([start]), np.array([end]))
    return max(int(end), *(int(last) for last in ends)) if len(ends) else int(end)


def host(ranges: pl.DataFrame) -> Windows:
    return ranges["start_ns"].to_numpy(), ranges["end_ns"].to_numpy()


def projected(activities: pl.DataFrame, starts: Ns, ends: Ns) -> Windows:
    """Host ranges -> the device's windows; ranges that launched nothing are left out."""
    columns = activities.select("launch_ns", "start_ns", "end_ns")
    launched = columns.drop_nulls("launch_ns").sort("launch_ns")
    times = launched["launch_ns"].to_numpy()
    low = np.searchsorted(times, starts, side="left")
    high = np.searchsorted(times, ends, side="left")
    some = high > low
    pairs = np.stack([low[some], high[some]], axis=1).ravel()
    if not len(pairs):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    # reduceat wants every index inside the array: one neutral element beyond the end.
    big = np.iinfo(np.int64).max
    first = np.minimum.reduceat(np.append(launched["start_ns"].to_numpy(), big), pairs)[::2]
    last = np.maximum.reduceat(np.append(launched["end_ns"].to_numpy(), -big), pairs)[::2]
    return first, last


def inside_whole(activities: pl.DataFrame, ranges: pl.DataFrame) -> pl.DataFrame:
    """The activities that start inside their rank's `whole` window."""
    kept = [activities.clear()]
    for mine in by_device(activities):
        own = ranges.filter(pl.col("rank") == mine["rank"][0])
        inside = starts_inside(mine, *whole(mine, own, on_gpu(mine)))
        kept.append(mine if inside.all() else mine.filter(pl.Series(inside)))
    return pl.concat(kept)


def by_device(activities: pl.DataFrame) -> list[pl.DataFrame]:
    """The activities of each device of each rank; not copied when they are of one."""
    if activities.is_empty():
        return []
    one = activities["rank"].n_unique() == 1 and activities["device"].n_unique() == 1
    return [activities] if one else activities.partition_by("rank", "device", maintain_order=True)


def starts_inside(activities: pl.DataFrame, starts: Ns, ends: Ns) -> NDArray[np.bool_]:
    """For each activity, whether it starts in one of the windows."""
    begins, covered = activities["start_ns"].to_numpy(), union(starts, ends)
    if not len(covered.starts):
        return np.zeros(len(begins), dtype=bool)
    index = np.searchsorted(covered.starts, begins, side="right") - 1
    inside: NDArray[np.bool_] = (index >= 0) & (begins < covered.ends[np.maximum(index, 0)])
    return inside
