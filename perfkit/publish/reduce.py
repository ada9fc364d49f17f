"""A smaller Kineto trace that is analysed to the same tables: only the events that are read.

With GPU activities in it the CPU's operations are left out, which are most of a trace, and of every
event's arguments only those that the readers take.
"""

import json
from typing import Any

GPU = ("kernel", "gpu_memcpy", "gpu_memset")
HOST = ("cuda_runtime", "cuda_driver")
CPU = ("cpu_op",)
RANGES = ("user_annotation",)

KEPT_ARGS = (
    "device",
    "stream",
    "correlation",
    "bytes",
    "Collective name",
    "In msg nelems",
    "Out msg nelems",
    "dtype",
    "Process Group Name",
    "Process Group Ranks",
    "Group size",
    "Input Dims",
    "Input type",
)
KEPT_KEYS = ("ph", "cat", "name", "pid", "tid", "ts", "dur")
KEPT_FACTS = ("schemaVersion", "distributedInfo", "baseTimeNanoseconds", "deviceProperties")


def reduced(text: str) -> str:
    """The trace as JSON text, without what no reader needs; other JSON is returned as it is."""
    document = json.loads(text)
    if not isinstance(document, dict) or "traceEvents" not in document:
        return text
    events = document["traceEvents"]
    on_gpus = any(event.get("cat") in GPU for event in events)
    kept = {*GPU, *HOST, *RANGES, *(() if on_gpus else CPU)}
    facts = {key: document[key] for key in KEPT_FACTS if key in document}
    smaller = [_event(event) for event in events if event.get("cat") in kept]
    return json.dumps({**facts, "traceEvents": smaller}, separators=(",", ":"))


def _event(event: dict[str, Any]) -> dict[str, Any]:
    args = {key: value for key, value in event.get("args", {}).items() if key in KEPT_ARGS}
    found = {key: event[key] for key in KEPT_KEYS if key in event}
    return {**found, "args": args} if args else found
