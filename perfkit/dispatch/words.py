"""What the measurement says about the number of CPU workers, in words, and how that is computed.

One CPU worker prepares p prompts/s while it is busy, one replica answers a prompts/s while it is
busy; R replicas that never wait take R a, and n = R a / p CPU workers, rounded up, prepare as many.
Both rates are this run's own: its prompts, its batch, its number of workers side by side. What more
workers would do follows from them and is said to be computed; it is said only where replicas
starved while CPU workers were busy, and the rates agree that they were too few.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from perfkit.dispatch.measure import Measured
from perfkit.dispatch.summary import total
from perfkit.report.tables import significant

WORTH_SAYING = 0.05
"""share of the replicas' time"""
WORTH_NAMING = 0.01
"""share of a replica's time that is one cause"""
BUSY = 0.8
"""share of its time from which a CPU worker counts as what the others wait for"""
CAUSES = {
    "starved": "without a batch ready",
    "start_up": "starting up",
    "hand_over": "while a batch was on its way",
    "drained": "after the last prompt",
    "lost": "lost to its death",
}


@dataclass(frozen=True, slots=True)
class Need:
    """CPU workers that would prepare as fast as these replicas answer."""

    prepared_per_s: float
    """prompts, by one CPU worker while it is busy"""
    answered_per_s: float
    """prompts, by one replica while it is busy"""
    exact: float
    workers: int


def need(measured: Measured) -> Need | None:
    """None where either rate was not measured."""
    cpu, replicas = measured.cpu_workers, measured.replicas
    cpu_s, replica_s = total(cpu, "busy_s"), total(replicas, "busy_s")
    prompts = total(replicas, "prompts")
    if not cpu_s or not replica_s or not prompts:
        return None
    prepared, answered = total(cpu, "prompts") / cpu_s, prompts / replica_s
    exact = replicas.height * answered / prepared
    return Need(prepared, answered, exact, max(1, math.ceil(exact)))


def sentences(measured: Measured) -> Iterator[str]:
    """What is missing, why each replica was idle, and how many CPU workers it takes."""
    yield from (f"missing: {words}" for words in measured.missing)
    for row in measured.replicas.iter_rows(named=True):
        if not row["wall_s"]:
            continue
        shares = {words: row[f"{cause}_s"] / row["wall_s"] for cause, words in CAUSES.items()}
        said = [f"{100 * v:.0f} % {words}" for words, v in shares.items() if v >= WORTH_NAMING]
        idle = f"replica {row['replica']} was idle {100 * row['idle']:.0f} % of its time"
        yield f"{idle}: {', '.join(said)}." if said else f"{idle}."
    found = need(measured)
    if found is not None:
        yield f"{_rates(measured, found)}. {_advice(measured, found)}"


def _rates(measured: Measured, found: Need) -> str:
    replicas, there = measured.replicas.height, measured.cpu_workers.height
    return (
        f"Measured: a CPU worker prepares {significant(found.prepared_per_s)} prompts/s while it "
        f"is busy, a replica answers {significant(found.answered_per_s)}, so {replicas} "
        f"replica(s) take what {significant(found.exact)} CPU worker(s) prepare; there were {there}"
    )


def _advice(measured: Measured, found: Need) -> str:
    there = measured.cpu_workers.height
    starved = total(measured.replicas, "starved_s") / total(measured.replicas, "wall_s")
    waited = f"Replicas waited {100 * starved:.1f} % of their time for prompts"
    computed = "Computed from these rates, not measured:"
    more = found.workers - there
    if starved < WORTH_SAYING:
        if more > 0:
            return (
                f"{waited}: CPU workers had prepared while replicas started. {computed} a longer "
                f"file would take {more} more."
            )
        return f"{waited}. {computed} {found.workers} would do." if more else f"{waited}."
    busy = total(measured.cpu_workers, "busy_while_starved") / there
    waited += f", while CPU workers were {100 * busy:.0f} % busy"
    if busy < BUSY:
        return f"{waited}: more of them would not help. {_uneven(measured)}".rstrip()
    if more > 0:
        return f"{waited}. {computed} {more} more would prepare as fast as replicas answer."
    first = _first(measured)
    return f"{waited}, {first} of it before their first batch. By these rates they are enough."


def _uneven(measured: Measured) -> str:
    """Fewer windows than CPU workers leave some without any."""
    windows, there = total(measured.cpu_workers, "windows"), measured.cpu_workers.height
    if windows >= 2 * there:
        return ""
    return (
        f"The prompts made {windows:.0f} window(s) for {there} CPU workers: a smaller --window "
        "divides them more finely."
    )


def _first(measured: Measured) -> str:
    replicas = measured.replicas
    return f"{100 * total(replicas, 'first_starved_s') / total(replicas, 'starved_s'):.0f} %"
