"""Small Kineto files for tests: `a_trace(path, kernels=[kernel("gemm", 0, 10)])`; times in us."""

import json
from pathlib import Path
from typing import Any

BASE_NS = 1_790_857_026_000_000_000
MAIN, GLOO_THREAD = 100, 200


def event(
    cat: str, name: str, start_us: float, end_us: float, tid: int = MAIN, **args: Any
) -> dict[str, Any]:
    """One complete event, with the fields that torch 2.13 writes."""
    duration = round(end_us - start_us, 3)
    return {
        "ph": "X",
        "cat": cat,
        "name": name,
        "pid": 1,
        "tid": tid,
        "ts": start_us,
        "dur": duration,
        "args": args,
    }


def operation(name: str, start_us: float, end_us: float, tid: int = MAIN) -> dict[str, Any]:
    return event("cpu_op", name, start_us, end_us, tid)


def phase(name: str, start_us: float, end_us: float, tid: int = MAIN) -> dict[str, Any]:
    return event("user_annotation", name, start_us, end_us, tid)


def gloo(
    name: str, start_us: float, end_us: float, tid: int = GLOO_THREAD, **args: Any
) -> dict[str, Any]:
    return event("user_annotation", f"gloo:{name}", start_us, end_us, tid, **args)


def kernel(
    name: str,
    start_us: float,
    end_us: float,
    *,
    launch_us: float | None = None,
    correlation: int = 0,
    device: int = 0,
    stream: int = 7,
    cat: str = "kernel",
    **args: Any,
) -> list[dict[str, Any]]:
    """A GPU activity, and its launch when there is one."""
    args |= {"device": device, "stream": stream, "correlation": correlation}
    found = [event(cat, name, start_us, end_us, stream, **args)]
    if launch_us is not None:
        launched = {"correlation": correlation, "External id": 1}
        found.append(
            event("cuda_runtime", "cudaLaunchKernel", launch_us, launch_us + 1, MAIN, **launched)
        )
    return found


def a_trace(path: Path, *parts: Any, rank: int | None = 0, world_size: int = 2) -> Path:
    """Write events (or lists of them) as a Kineto file and return its path."""
    events = [e for part in parts for e in (part if isinstance(part, list) else [part])]
    info = {"backend": "gloo", "rank": rank, "world_size": world_size}
    document: dict[str, Any] = {
        "schemaVersion": 1,
        "deviceProperties": [],
        "baseTimeNanoseconds": BASE_NS,
        "traceEvents": events,
    }
    if rank is not None:
        document["distributedInfo"] = info
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path
