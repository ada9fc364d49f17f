"""What the jobs of a plan may cost, at most: nodes times their time limit, in the site's unit."""

from collections.abc import Sequence
from dataclasses import dataclass

from perfkit.submit.plan import Planned
from perfkit.submit.systems import System


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """An upper bound: jobs that end before their limit cost less."""

    jobs: int
    node_hours: float
    """a part of a node counted as a whole one"""
    charge: float | None
    """in the site's unit; None where its billing is not known"""


def budget(plan: Sequence[Planned], system: System) -> Budget:
    """Of the points that are to be submitted."""
    chosen = [one for one in plan if one.job]
    charges = [charge(one, system) for one in chosen]
    return Budget(
        jobs=len(chosen),
        node_hours=sum(map(node_hours, chosen)),
        charge=sum(c for c in charges if c is not None) if system.billing else None,
    )


def node_hours(one: Planned) -> float:
    """Nodes times the hours of the time limit."""
    if one.job is None or one.point.placement is None:
        return 0.0
    return one.point.placement.nodes * one.job.time_limit_s / 3600


def charge(one: Planned, system: System) -> float | None:
    """Units of the site. A part of a node costs its share where nodes are shared."""
    billing, place = system.billing, one.point.placement
    if billing is None or place is None or one.job is None:
        return None
    part = place.tasks_per_node / (system.ranks_per_node or 1)
    shared = billing.whole_nodes is False and not place.exclusive
    return node_hours(one) * billing.per_node_hour * (part if shared else 1)
