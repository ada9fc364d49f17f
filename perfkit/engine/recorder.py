"""Marks and times the engine's phases: an NVTX range always, a timer line always, a
record_function only while the PyTorch profiler records (it costs about 11 us a range)."""

import json
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch

from perfkit.schema import SCHEMA_VERSION

try:
    import nvtx

    _push, _pop = nvtx.push_range, nvtx.pop_range
except ImportError:  # NVTX is a mark for Nsight Systems, never a reason to fail.

    def _push(message: str, **_ignored: Any) -> None: ...

    def _pop(**_ignored: Any) -> None: ...


DOMAIN = "perfkit"


class Recorder:
    """Collects the phases of one pass in memory and writes them to timers.jsonl at its end."""

    def __init__(self, path: Path, *, rank: int, tp_rank: int, pp_rank: int, gpu: bool) -> None:
        self.profiling = False
        self.gpu = gpu
        self.kind, self.number = "warmup", 0
        self.phases: list[Phase] = []
        self._file: IO[str] = path.open("w", encoding="utf-8")
        header = {
            "schema_version": SCHEMA_VERSION,
            "rank": rank,
            "tp_rank": tp_rank,
            "pp_rank": pp_rank,
            "host": socket.gethostname(),
            "clock": "monotonic",
            "unix_minus_monotonic_ns": time.time_ns() - time.perf_counter_ns(),
        }
        self._write(header)

    def begin_pass(self, kind: str, number: int) -> None:
        """What follows belongs to pass `number`, of kind warmup, timed or captured."""
        self.kind, self.number = kind, number

    def phase(self, name: str, step: int = 0, microbatch: int = 0, tokens: int = 0) -> "Phase":
        """A context manager around one phase."""
        return Phase(self, name, step, microbatch, tokens)

    def keep(self, phase: "Phase") -> None:
        self.phases.append(phase)

    def end_pass(self) -> None:
        """Write the pass; on a GPU this is where its device times are read."""
        if self.gpu:
            torch.cuda.synchronize()
        for phase in self.phases:
            self._write(
                {
                    "pass": self.number,
                    "kind": self.kind,
                    "phase": phase.name,
                    "step": phase.step,
                    "microbatch": phase.microbatch,
                    "start_ns": phase.start_ns,
                    "end_ns": phase.end_ns,
                    "tokens": phase.tokens,
                    "device_ns": phase.device_ns(),
                }
            )
        self.phases.clear()
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, content: dict[str, Any]) -> None:
        self._file.write(json.dumps(content, separators=(",", ":")) + "\n")


class Phase:
    """One phase of one microbatch in one step: host times, and device time of a forward."""

    __slots__ = (
        "end_event",
        "end_ns",
        "marker",
        "microbatch",
        "name",
        "recorder",
        "start_event",
        "start_ns",
        "step",
        "tokens",
    )

    TIMED_ON_DEVICE = ("prefill", "decode")

    def __init__(
        self, recorder: Recorder, name: str, step: int, microbatch: int, tokens: int
    ) -> None:
        self.recorder, self.name = recorder, name
        self.step, self.microbatch, self.tokens = step, microbatch, tokens
        self.marker: Any = None
        self.start_event: Any = None
        self.end_event: Any = None

    def __enter__(self) -> "Phase":
        _push(self.name, domain=DOMAIN)
        if self.recorder.profiling:
            self.marker = torch.profiler.record_function(self.name)
            self.marker.__enter__()
        if self.recorder.gpu and self.name in self.TIMED_ON_DEVICE:
            self.start_event, self.end_event = _events()
            self.start_event.record()
        self.start_ns = time.perf_counter_ns()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end_ns = time.perf_counter_ns()
        if self.end_event is not None:
            self.end_event.record()
        if self.marker is not None:
            self.marker.__exit__(kind, error, trace)
        _pop(domain=DOMAIN)
        self.recorder.keep(self)

    def device_ns(self) -> int | None:
        """Device time between the forward's first and last kernel; None on a CPU."""
        if self.start_event is None:
            return None
        milliseconds: float = self.start_event.elapsed_time(self.end_event)
        return round(1e6 * milliseconds)


def _events() -> tuple[Any, Any]:
    event: Any = torch.cuda.Event
    return event(enable_timing=True), event(enable_timing=True)
