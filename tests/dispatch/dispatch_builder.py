"""The journal of a dispatch, event by event, in seconds from its start."""

import json
from pathlib import Path
from typing import Any

from perfkit.schema import RunFolder, write_json

NS = 1_000_000_000
START_S = 1_000


def ns(second: float) -> int:
    return round((START_S + second) * NS)


class Journaled:
    """Writes run.json and dispatch.jsonl; every method adds one event."""

    def __init__(self, root: Path, state: str = "finished", **record: Any) -> None:
        self.folder = RunFolder(root)
        write_json(self.folder.run_json, {"task": "dispatch", "state": state, **record})
        self.part = -1

    def add(self, kind: str, **facts: Any) -> "Journaled":
        with (self.folder.root / "dispatch.jsonl").open("a") as file:
            file.write(json.dumps({"kind": kind, "part": self.part, **facts}) + "\n")
        return self

    def begin(self, at: float, workers: int) -> "Journaled":
        self.part += 1
        return self.add("part", start_ns=ns(at), workers=workers)

    def born(self, name: str, at: float, pid: int = 1, ahead: float = 0) -> "Journaled":
        role = name.partition("-")[0]
        return self.add("born", name=name, role=role, host="node1", pid=pid, born_ns=ns(at + ahead))

    def ready(self, name: str, at: float, pid: int = 1, ahead: float = 0) -> "Journaled":
        """`ahead`: the seconds by which this worker's clock is ahead, measured to 1 ms."""
        clock = {"clock_offset_ns": round(ahead * NS), "clock_bound_ns": 1_000_000}
        return self.add("ready", name=name, pid=pid, ready_ns=ns(at + ahead), **clock)

    def worker(self, name: str, born: float, ready: float, ahead: float = 0) -> "Journaled":
        return self.born(name, born, ahead=ahead).ready(name, ready, ahead=ahead)

    def window(self, name: str, number: int, start: float, end: float, **facts: int) -> "Journaled":
        """A tenth of it is reading."""
        return self.add(
            "window",
            window=number,
            worker=name,
            start_ns=ns(start),
            read_ns=ns(start + (end - start) / 10),
            end_ns=ns(end),
            **{"batches": 1, "prompts": 8, "tokens": 80, **facts},
        )

    def batch(
        self, name: str, by: str, ready: float, start: float, end: float, **facts: int
    ) -> "Journaled":
        return self.add(
            "batch",
            worker=name,
            prepared_by=by,
            ready_ns=ns(ready),
            start_ns=ns(start),
            end_ns=ns(end),
            received_ns=ns(end),
            **{
                "prompts": 8,
                "prompt_tokens": 80,
                "padded_tokens": 100,
                "new_tokens": 160,
                **facts,
            },
        )

    def end(self, at: float, left: int = 0) -> "Journaled":
        return self.add("end", end_ns=ns(at), left=left)


def a_starved_dispatch(root: Path) -> Journaled:
    """One CPU worker prepares a window in 4 s, one replica answers it in 1 s; four windows."""
    journal = Journaled(root).begin(0, workers=2)
    journal.worker("cpu-1", 0.5, 1).worker("replica-2", 0.5, 2)
    for number in range(4):
        ready = 5.0 + 4 * number
        journal.window("cpu-1", number, ready - 4, ready)
        journal.batch("replica-2", "cpu-1", ready, ready + 0.25, ready + 1.25)
    return journal.end(20)
