"""One part of a dispatch, from a start of the dispatcher to its end, on the dispatcher's clock.

Times of a worker are moved to that clock where the two differ by more than can be told.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from perfkit.dispatch.idle import Interval, Life, Supply

KINDS = ("part", "born", "ready", "gone", "window", "batch", "end")
THEIR_OWN = ("received_ns", "gone_ns", "clock_offset_ns", "clock_bound_ns")
"""by the dispatcher's clock already, or no moments"""


class Part:
    """Its events by kind, and what follows from several of them."""

    def __init__(self, events: Sequence[dict[str, Any]]) -> None:
        of_kind = {kind: [one for one in events if one["kind"] == kind] for kind in KINDS}
        self.shift = {one["name"]: _shift(one) for one in of_kind["ready"]}
        self.born, self.ready = self._moved(of_kind["born"]), self._moved(of_kind["ready"])
        self.windows, self.batches = self._moved(of_kind["window"]), self._moved(of_kind["batch"])
        self.gone = {one["name"]: one["gone_ns"] for one in of_kind["gone"]}
        self.bounds = [one["clock_bound_ns"] for one in of_kind["ready"] if one["clock_bound_ns"]]
        self.ended = bool(of_kind["end"])
        self.expected = of_kind["part"][0]["workers"]
        self.span = self._span(of_kind["part"][0]["start_ns"], of_kind["end"])
        done = any(one["left"] == 0 for one in of_kind["end"])
        self.supply = Supply(
            [one["ready_ns"] for one in self.batches],
            [one["start_ns"] for one in self.batches],
            None if done else self.span[1],
        )

    def _span(self, start: int, ends: Sequence[Mapping[str, Any]]) -> Interval:
        """Without an end (the dispatcher was killed) until the last thing that it wrote."""
        moments = [one["received_ns"] for one in self.batches]
        moments += [one["born_ns"] for one in self.born] + [one["ready_ns"] for one in self.ready]
        return start, max([start, *moments, *(one["end_ns"] for one in ends)])

    def _moved(self, events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Events with each time on the dispatcher's clock."""
        return [{key: self._time(one, key) for key in one} for one in events]

    def _time(self, event: Mapping[str, Any], key: str) -> Any:
        if not key.endswith("_ns") or key in THEIR_OWN:
            return event[key]
        # A batch was ready by the clock of the CPU worker that had prepared it.
        whose = event["prepared_by"] if (event["kind"], key) == ("batch", "ready_ns") else None
        return event[key] - self.shift.get(whose or event.get("worker") or event["name"], 0)

    def names(self, role: str) -> list[str]:
        return [one["name"] for one in self.born if one["role"] == role]

    def lives(self, name: str) -> list[Life]:
        ready = {one["pid"]: one["ready_ns"] for one in self.ready if one["name"] == name}
        born = [one for one in self.born if one["name"] == name]
        return [Life(one["born_ns"], ready.get(one["pid"])) for one in born]

    def host(self, name: str) -> str | None:
        return next((one["host"] for one in self.born if one["name"] == name), None)

    def answered_by(self, name: str) -> list[dict[str, Any]]:
        return [one for one in self.batches if one["worker"] == name]

    def prepared_by(self, name: str) -> list[dict[str, Any]]:
        return [one for one in self.windows if one["worker"] == name]


def _shift(ready: Mapping[str, Any]) -> int:
    """What a worker's clock is ahead, where that is more than its measurement's own bound."""
    offset, bound = ready["clock_offset_ns"], ready["clock_bound_ns"]
    return offset if offset is not None and abs(offset) > bound else 0
