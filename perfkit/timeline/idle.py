"""Why a device was idle: the host had not launched, the host was waiting, or it cannot be told.

An idle gap ends when the next activity starts. If that was launched only after the gap had begun,
the host was late:

    synchronising   the part of the gap, up to that launch, in which the host stood in a call that
                    waits for the device (cudaStreamSynchronize and the like): it could not launch
    launch-bound    the rest of such a gap: the host was busy with something else, in eager PyTorch
                    with getting from one operation to the next

If it had been launched before, or its launch is not in the trace, the cause is unknown: it waited
for another stream or an event, or it is the latency of a launch. On a CPU nothing is launched.

    launch_bound + synchronising + unknown = idle, exactly, in whole ns
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from perfkit.timeline.intervals import Ns, Union, meet, union

# Stands in for the launch of an activity that has none.
NO_LAUNCH = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class IdleCauses:
    """Idle time of one device by cause, ready to be cut by any number of windows."""

    launch_bound: Union
    synchronising: Union

    def within(self, starts: Ns, ends: Ns) -> dict[str, int]:
        """ns by cause in the windows; what is left of their idle time is unknown."""
        return {
            "launch_bound_ns": int(self.launch_bound.within(starts, ends).sum()),
            "synchronising_ns": int(self.synchronising.within(starts, ends).sum()),
        }


def idle_causes(mine: pl.DataFrame, busy: Union, syncs: pl.DataFrame) -> IdleCauses:
    """The gaps of one device (ACTIVITIES) by cause; `syncs` are its rank's (SYNCS)."""
    starts, ends, launches = late_gaps(mine, busy)
    late = union(starts, ends)
    waiting = union(syncs["start_ns"].to_numpy(), syncs["end_ns"].to_numpy())
    before_launch = union(starts, np.minimum(launches, ends))
    synchronising = meet(before_launch, waiting)
    return IdleCauses(launch_bound=without(late, synchronising), synchronising=synchronising)


def late_gaps(mine: pl.DataFrame, busy: Union) -> tuple[Ns, Ns, Ns]:
    """(start, end, launch of the next activity) of the gaps that began before that launch."""
    starts, ends = busy.ends[:-1], busy.starts[1:]
    rows = mine.select("start_ns", "end_ns", pl.col("launch_ns").fill_null(NO_LAUNCH))
    ordered = rows.filter(pl.col("end_ns") > pl.col("start_ns")).sort("start_ns")
    known, first = np.unique(ordered["start_ns"].to_numpy(), return_index=True)
    launches = ordered["launch_ns"].to_numpy()
    launches = np.minimum.reduceat(launches, first) if len(first) else launches
    launches = np.where(launches == NO_LAUNCH, np.iinfo(np.int64).min, launches)
    launched = launches[np.searchsorted(known, ends)] if len(ends) else ends
    late = launched > starts
    return starts[late], ends[late], launched[late]


def without(a: Union, b: Union) -> Union:
    """What is in a and not in b, where b lies inside a."""
    edges_in = np.concatenate([a.starts, b.ends])
    edges_out = np.concatenate([a.ends, b.starts])
    return union(np.sort(edges_in), np.sort(edges_out))


def any_launches(mine: pl.DataFrame) -> bool:
    """False on a CPU, and for a trace without runtime calls: no cause can be told there."""
    return mine["launch_ns"].null_count() < mine.height
