"""Which workers are there: they are born, die, come back, or are gone for good."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfkit.dispatch.clocks import measure_clock
from perfkit.dispatch.cluster import ALLOWED_DEATHS, ENDINGS
from perfkit.dispatch.journal import Journal
from perfkit.dispatch.step import ARRIVE_S, CPU, REPLICA, ROLES, rank_of
from perfkit.errors import ConfigError, PerfkitError
from perfkit.schema import RunFolder

if TYPE_CHECKING:
    from perfkit.dispatch.run import Story

GONE_S = 15.0
"""A nanny has started its worker again long before that."""
WORDS = {CPU: "CPU worker", REPLICA: "replica"}


@dataclass(slots=True)
class Seen:
    """What is known of one worker, by name, over all its lives."""

    role: str
    host: str
    pid: int
    deaths: int = 0
    """since it last finished something"""
    absent_since: float | None = None
    gone: bool = False


@dataclass(slots=True)
class Attendance:
    """Everybody who has come, of `expected` workers."""

    expected: int
    folder: Path
    journal: Journal
    client: Any
    story: "Story"
    seen: dict[str, Seen] = field(default_factory=dict)
    lonely_since: dict[str, float] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.seen) == self.expected

    def hear(self, event: dict[str, Any]) -> None:
        """A worker is born, perhaps again, or has loaded what it needs."""
        name, address = event["name"], event["address"]
        facts = {key: event[key] for key in event if key not in ("kind", "worker", "address")}
        if event["kind"] == "ready":
            self.journal.event("ready", **facts, **measure_clock(self.client, address))
            return
        self.journal.event("born", **facts)
        if name in self.seen:
            self.reborn(name, event["pid"])
            return
        self.seen[name] = Seen(event["role"], event["host"], event["pid"])
        self.check_roles()

    def reborn(self, name: str, pid: int) -> None:
        """PerfkitError for one that dies again and again."""
        seen = self.seen[name]
        words = f"{WORDS[seen.role]} {name} on {seen.host} {ENDINGS.get(seen.pid, 'died')}"
        seen.pid, seen.deaths, seen.absent_since = pid, seen.deaths + 1, None
        if seen.deaths >= ALLOWED_DEATHS:
            raise PerfkitError(
                f"{words}, {seen.deaths} times without finishing anything. {self.hint(name)}"
            )
        self.story.tell(f"{words} and was started again: what it had is run again")

    def check_roles(self) -> None:
        """ConfigError when everybody has come, and all are of one kind."""
        there = {seen.role for seen in self.seen.values()}
        if not self.complete or len(there) == len(ROLES):
            return
        missing = next(role for role in ROLES if role not in there)
        raise ConfigError(
            f"all {self.expected + 1} tasks have come, and none is a {WORDS[missing]}: the first "
            "task dispatches, each other --role cpu tokenises, each --role replica answers. Start "
            f"at least one more --role {missing} task."
        )

    def alive(self, name: str) -> None:
        """It has finished something."""
        if name in self.seen:
            self.seen[name].deaths = 0

    def look(self, now: float, gone_after_s: float = GONE_S) -> None:
        """Who is there at this moment; PerfkitError when a kind has been missing for long."""
        there = self.client.run_on_scheduler(names_there)
        for name, seen in self.seen.items():
            if name in there:
                seen.absent_since, seen.gone = None, False
            else:
                self.miss(name, seen, now, gone_after_s)
        for role in ROLES:
            if any(name.startswith(f"{role}-") for name in there):
                self.lonely_since.pop(role, None)
            elif now - self.lonely_since.setdefault(role, now) > ARRIVE_S:
                raise PerfkitError(
                    f"there has been no {WORDS[role]} for {ARRIVE_S:.0f} s. The logs under "
                    f"{self.folder / 'ranks'} may say why, under Slurm also sacct.",
                )

    def miss(self, name: str, seen: Seen, now: float, gone_after_s: float) -> None:
        """Note one that has left for good, its nanny with it."""
        if seen.absent_since is None:
            seen.absent_since = now
        absent_s = now - seen.absent_since
        if not seen.gone and absent_s >= gone_after_s:
            seen.gone = True
            gone_ns = time.time_ns() - int(1e9 * absent_s)
            self.journal.event("gone", name=name, gone_ns=gone_ns)
            self.story.tell(
                f"{WORDS[seen.role]} {name} on {seen.host} is gone: what it had is run again"
            )

    def hint(self, name: str) -> str:
        """What a worker that died said last, and what to do."""
        log = RunFolder(self.folder).rank_file(rank_of(name), "log.txt")
        return (
            f"Its log is {log}. Too little memory is the usual cause: use a smaller --batch, or "
            "ask Slurm for more (--mem). What was answered is kept, and the same command goes on."
        )


def names_there(dask_scheduler: Any) -> set[str]:
    """Runs in the scheduler: its workers at this moment."""
    return {str(worker.name) for worker in dask_scheduler.workers.values()}
