"""`perfkit analyze` of a folder of 1, 2, 4, 8 and 16 Kineto files of the same size.

    python tests/benchmarks/many_ranks.py [FOLDER] [THOUSAND_EVENTS]

Prints one JSON line: seconds for each number of files, how much longer 16 take than 8, what part of
all cores' time 16 use, and how much faster that is than on one core. Exit code 3 when the time is
not linear in the number of files, or the cores are not busy.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kineto_made import make_trace

COUNTS = (1, 2, 4, 8, 16)
THOUSAND_EVENTS = 300
LINEAR_GOAL, BUSY_GOAL = 2.3, 0.75
CHECK_FAILED = 3


def analyze(folder: Path, cores: int | None = None) -> tuple[float, float]:
    """(wall, CPU) seconds of the whole command, the faster of two, on all cores or some."""
    command = [sys.executable, "-m", "perfkit", "analyze", str(folder)]
    if cores is not None:
        command = ["taskset", "-c", f"0-{cores - 1}", *command]
    times = []
    for _ in range(2):
        start, before = time.perf_counter(), used_s()
        subprocess.run(command, check=True, capture_output=True)
        times.append((time.perf_counter() - start, used_s() - before))
    return min(times)


def used_s() -> float:
    """CPU seconds of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(folder: Path, thousands: float) -> dict[str, Any]:
    made = folder / "made.json"
    make_trace(made, round(1000 * thousands))
    content, seconds, used = made.read_bytes(), dict[int, float](), 0.0
    for count in COUNTS:
        ranks = folder / f"ranks-{count}"
        ranks.mkdir()
        for rank in range(count):
            own = content.replace(
                b'"rank": 0, "world_size": 1', b'"rank": %d, "world_size": 1' % rank
            )
            (ranks / f"{rank:02d}.json").write_bytes(own)
        seconds[count], used = analyze(ranks)
        if count == COUNTS[-1]:
            alone, _used = analyze(ranks, cores=1)
        shutil.rmtree(ranks)
    cores = len(os.sched_getaffinity(0))
    return {
        "benchmark": "many ranks",
        "file_mb": round(made.stat().st_size / 1e6, 1),
        "cores": cores,
        **{f"files_{count}_s": round(s, 2) for count, s in seconds.items()},
        "sixteen_over_eight": round(seconds[16] / seconds[8], 2),
        "busy": round(used / seconds[16] / cores, 2),
        "one_core_s": round(alone, 2),
        "speed_up_of_cores": round(alone / seconds[16], 2),
    }


def main() -> int:
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    thousands = float(sys.argv[2]) if len(sys.argv) > 2 else THOUSAND_EVENTS
    with tempfile.TemporaryDirectory(dir=given) as temporary:
        found = measure(Path(temporary), thousands)
    print(json.dumps(found))
    good = found["busy"] >= BUSY_GOAL and found["sixteen_over_eight"] <= LINEAR_GOAL
    return 0 if good else CHECK_FAILED


if __name__ == "__main__":
    sys.exit(main())
