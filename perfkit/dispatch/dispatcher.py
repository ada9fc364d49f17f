"""Feeds the workers: windows of prompts to CPU ranks, their batches to replicas, answers to disk.

dask runs again what a dead worker had: its batches go to another one, or to itself once its nanny
has started it again. Only this process writes, and a prompt only once, so none is there twice.
"""

import contextlib
import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from perfkit.dispatch.attendance import Attendance
from perfkit.dispatch.cluster import ALLOWED_DEATHS
from perfkit.dispatch.journal import Journal
from perfkit.dispatch.plan import DispatchPlan
from perfkit.dispatch.prepare import Wanted, num_batches
from perfkit.dispatch.prompt_file import Asked, PromptFile
from perfkit.dispatch.step import CPU, REPLICA
from perfkit.dispatch.worker import TOPIC, answer_batch, prepare_window
from perfkit.errors import PerfkitError

if TYPE_CHECKING:
    from perfkit.dispatch.run import Story

LOOK_S = 1.0


@dataclass(slots=True)
class UnderWay:
    """A window whose batches have not all come back."""

    prepared: Any
    """the future of its tokens, which stay on the workers"""
    left: int


@dataclass(slots=True)
class Dispatcher:
    """One part: from the prompts that are not answered to none."""

    plan: DispatchPlan
    attendance: Attendance
    prompts: PromptFile
    journal: Journal
    client: Any
    story: "Story"
    arrived: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    """futures that are done, and what workers tell"""
    windows: dict[int, UnderWay] = field(default_factory=dict)
    batches: dict[str, Any] = field(default_factory=dict)
    """futures by key: a future that nobody holds is forgotten by the scheduler"""
    written: set[tuple[int, int]] = field(default_factory=set)
    """windows whose preparation is in the journal, by number and start"""
    started: float = field(default_factory=time.monotonic)
    new_tokens: int = 0
    looked: float = 0.0

    def listen(self) -> None:
        """Hear what workers tell, before any has been asked."""
        self.client.subscribe_topic(TOPIC, lambda event: self.arrived.put(event[1]))

    def run(self) -> None:
        """Until every prompt has its answer; PerfkitError when that cannot be."""
        coming = self.asked()
        self.fill(coming)
        while self.windows:
            with contextlib.suppress(queue.Empty):
                self.handle(self.arrived.get(timeout=LOOK_S))
            self.fill(coming)
            self.look()
        # Who is absent at the end has not come back.
        self.attendance.look(time.monotonic(), gone_after_s=0.0)

    def asked(self) -> Iterator[Asked]:
        """The missing prompts, a window at a time, read off only as fast as they are answered."""
        missing = iter(self.journal.missing())
        size = self.plan.window * self.plan.settings.batch
        number = 0
        while indices := tuple(islice(missing, size)):
            yield self.prompts.asked(number, indices)
            number += 1

    def fill(self, coming: Iterator[Asked]) -> None:
        while len(self.windows) < self.plan.windows_under_way:
            asked = next(coming, None)
            if asked is None:
                return
            self.submit(asked)

    def submit(self, asked: Asked) -> None:
        """A window and all its batches: these wait in the scheduler until it is prepared."""
        plan, part = self.plan, self.journal.part
        assert plan.settings.model_folder is not None
        wanted = Wanted(plan.settings.model_folder, plan.settings.batch, plan.longest_prompt)
        prepared = self.client.submit(
            prepare_window,
            asked,
            wanted,
            key=f"window-{part}-{asked.number}",
            resources={CPU: 1},
            priority=-asked.number,
            pure=False,
        )
        count = num_batches(len(asked.indices), plan.settings.batch)
        self.windows[asked.number] = UnderWay(prepared, count)
        for batch in range(count):
            future = self.client.submit(
                answer_batch,
                prepared,
                batch,
                key=f"batch-{part}-{asked.number}-{batch}",
                resources={REPLICA: 1},
                priority=-asked.number,
                pure=False,
            )
            self.batches[future.key] = future
            future.add_done_callback(self.arrived.put)

    def handle(self, arrival: Any) -> None:
        if isinstance(arrival, dict):
            self.attendance.hear(arrival)
            return
        future = self.batches.pop(arrival.key)
        if future.status != "finished":
            raise self.failure(future)
        answered = future.result()
        self.keep(answered.facts, answered.records)

    def keep(self, facts: dict[str, Any], records: tuple[dict[str, Any], ...]) -> None:
        """A batch's answers to disk, and what it took."""
        none_before = not self.journal.refused.count
        new = self.journal.keep(records)
        if none_before and self.journal.refused.count:
            self.story.tell(f"does not fit the model: {self.journal.refused.first[0]}; going on")
        self.new_tokens += facts["new_tokens"]
        prepared = facts.pop("prepared")
        self.attendance.alive(prepared["worker"])
        self.attendance.alive(facts["worker"])
        life = (prepared["window"], prepared["start_ns"])
        if life not in self.written:
            self.written.add(life)
            self.journal.event("window", **prepared)
        # A re-run window's batches were ready when its last preparation ended.
        ready = {"prepared_by": prepared["worker"], "ready_ns": prepared["end_ns"]}
        self.journal.event("batch", **facts, **ready, received_ns=time.time_ns(), written=new)
        under_way = self.windows[facts["window"]]
        under_way.left -= 1
        if not under_way.left:
            del self.windows[facts["window"]]
            self.written.discard(life)

    def failure(self, future: Any) -> PerfkitError:
        """Why a batch cannot be answered, in one message."""
        from distributed import KilledWorker

        error = future.exception()
        if isinstance(error, KilledWorker):
            _, _, window, *batch = str(error.task).split("-")
            what = f"batch {batch[0]} of window {window}" if batch else f"window {window}"
            name = str(error.last_worker.name)
            return PerfkitError(
                f"{what} was given up: {ALLOWED_DEATHS} workers that had it died, the last was "
                f"{name}. {self.attendance.hint(name)}"
            )
        if isinstance(error, PerfkitError):
            return error
        return PerfkitError(f"{future.key} failed: {type(error).__name__}: {error}")

    def look(self) -> None:
        """Once a second: is anybody left, and how far are we?"""
        now = time.monotonic()
        if now - self.looked < LOOK_S:
            return
        self.looked = now
        self.attendance.look(now)
        rate = self.new_tokens / (now - self.started)
        done = f"{self.journal.num_answered:,} of {self.prompts.count:,} prompts"
        self.story.progress(f"{done}, {rate:,.0f} new tokens/s")
