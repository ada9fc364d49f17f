"""`perfkit analyze` of a large Kineto trace, against other programs from file to breakdown.

    python tests/benchmarks/kineto_speed.py [FOLDER] [MILLIONS]

Makes a trace of 1.5 million events (about 400 MB, in FOLDER or a temporary one, deleted at the end)
and prints one JSON line: seconds and peak memory of the whole command, process start to printed
split, of the trace and of its .gz, and those of the anchors:

    json       Python's own json.load of the file, which is always there
    hta        Holistic Trace Analysis: TraceAnalysis, get_temporal_breakdown
    tracelens  TraceLens: TreePerfAnalyzer, get_df_gpu_timeline

The last two are installed into virtual environments of their own, deleted at the end, and are null
where that cannot be done. Exit code 3 when a goal does not hold.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from threading import Timer
from typing import Any, NamedTuple

from kineto_made import make_trace

MILLIONS = 1.5
REPEATS = 3
GIB = 2**30
CHECK_FAILED = 3
INSTALL_S, ANCHOR_S = 300, 300
# Ours: a part of json's time; of the others' time and of their memory; gz beside plain.
MOST_OF_JSON, TIMES_FASTER, MOST_OF_MEMORY, GZIP_RATIO = 0.5, 10.0, 0.5, 1.25

JSON = "import json, sys; json.load(open(sys.argv[1]))"
# TraceLens is not on PyPI: the project of that name there is another one.
TOOLS = {
    "hta": (
        "HolisticTraceAnalysis",
        """
import sys
from hta.trace_analysis import TraceAnalysis
print(TraceAnalysis(trace_dir=sys.argv[2]).get_temporal_breakdown(visualize=False))
""",
    ),
    "tracelens": (
        "TraceLens @ git+https://github.com/AMD-AGI/TraceLens.git",
        """
import sys
from TraceLens import TreePerfAnalyzer
print(TreePerfAnalyzer.from_file(sys.argv[1]).get_df_gpu_timeline())
""",
    ),
}


class Cost(NamedTuple):
    """What one program took."""

    wall_s: float
    cpu_s: float
    peak_gib: float
    finished: bool = True
    """False when it was stopped: it would have taken longer"""


def cost(command: Sequence[str], limit_s: float = ANCHOR_S) -> Cost:
    """Run a command to its end or its limit; memory is that of its largest process."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as told:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=told)
        limit = Timer(limit_s, child.kill)
        limit.start()
        _pid, status, usage = os.wait4(child.pid, 0)
        limit.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - start
        finished = wall_s < limit_s
        told.seek(0)
        if finished and child.returncode:
            raise RuntimeError(f"{command[0]} failed: {told.read()[-2000:].decode()}")
    cpu_s = usage.ru_utime + usage.ru_stime
    return Cost(wall_s, cpu_s, usage.ru_maxrss * 1024 / GIB, finished)


def analyze(path: Path, *options: str) -> Cost:
    """The whole command, the fastest of some."""
    command = [sys.executable, "-m", "perfkit", "analyze", str(path), *options]
    return min(cost(command) for _ in range(REPEATS))


def tool_cost(name: str, path: Path, folder: Path) -> Cost | None:
    """What the tool of that name took for the breakdown; None when there is none."""
    package, script = TOOLS[name]
    home = folder / f"venv-{name}"
    python = home / "bin" / "python"
    venv.create(home, with_pip=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--retries", "1", package]
    try:
        subprocess.run(install, check=True, capture_output=True, timeout=INSTALL_S)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"{name} cannot be installed: {error}", file=sys.stderr)
        return None
    try:
        return cost([str(python), "-c", script, str(path), str(path.parent)])
    except RuntimeError as error:
        print(f"{name} cannot read the trace: {error}", file=sys.stderr)
        return None


def described(name: str, found: Cost, ours: Cost) -> dict[str, Any]:
    """An anchor's figures, and how many times ours they are."""
    return {
        f"{name}_s": round(found.wall_s, 2),
        f"{name}_stopped": not found.finished,
        f"{name}_peak_gib": round(found.peak_gib, 2),
        f"{name}_times_slower": round(found.wall_s / ours.wall_s, 1),
        f"{name}_times_memory": round(found.peak_gib / ours.peak_gib, 1),
    }


def measure(folder: Path, millions: float) -> dict[str, Any]:
    """Every figure of the JSON line."""
    traces = Path(tempfile.mkdtemp(prefix="trace-", dir=folder))
    path, packed = traces / "kineto.json", folder / "kineto.json.gz"
    try:
        rows = make_trace(path, round(millions * 1e6))
        with path.open("rb") as plain, gzip.open(packed, "wb", compresslevel=6) as target:
            shutil.copyfileobj(plain, target)
        ours, gz, whole = analyze(path), analyze(packed), analyze(path, "--no-phases")
        found: dict[str, Any] = {
            "gpu_rows": rows,
            "file_gib": round(path.stat().st_size / GIB, 2),
            "load_average": os.getloadavg()[0],
            "ours_s": round(ours.wall_s, 2),
            "ours_cpu_s": round(ours.cpu_s, 2),
            "ours_peak_gib": round(ours.peak_gib, 2),
            "no_phases_s": round(whole.wall_s, 2),
            "gz_s": round(gz.wall_s, 2),
            "gz_ratio": round(gz.wall_s / ours.wall_s, 2),
        }
        found |= described("json", cost([sys.executable, "-c", JSON, str(path)]), ours)
        for name in TOOLS:
            tool = tool_cost(name, path, folder)
            found |= described(name, tool, ours) if tool else {f"{name}_s": None}
        return found
    finally:
        shutil.rmtree(traces)
        packed.unlink(missing_ok=True)
        for name in TOOLS:
            shutil.rmtree(folder / f"venv-{name}", ignore_errors=True)


def goals_hold(found: dict[str, Any]) -> bool:
    """Whether every goal that could be measured holds."""
    good = found["gz_ratio"] <= GZIP_RATIO and found["json_times_slower"] >= 1 / MOST_OF_JSON
    for name in TOOLS:
        if found[f"{name}_s"] is not None:
            good &= found[f"{name}_times_slower"] >= TIMES_FASTER
            good &= found[f"{name}_times_memory"] >= 1 / MOST_OF_MEMORY
    return bool(good)


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    millions = float(sys.argv[2]) if len(sys.argv) > 2 else MILLIONS
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(folder or Path(temporary), millions)
    print(json.dumps(found))
    return 0 if goals_hold(found) else CHECK_FAILED


if __name__ == "__main__":
    sys.exit(main())
