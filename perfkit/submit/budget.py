"""What the jobs of a plan may cost, at most: nodes times their time limit, in the site's unit."""

from collections.abc import Sequence
from dataclasses import dataclass

from perfkit.study.points import Point
from perfkit.study.systems import System
from perfkit.submit.plan import Planned


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """An upper bound: jobs that end before their limit cost less."""

    jobs: int
    node_hours: float
    """a part of a node counted as a whole one"""
    charge: float | None
    """in the site's unit; None where its billing is not known"""


def budget(plan: Sequence[Planned], system: System, time_limit_s: int) -> Budget:
    """Of the points that are to be submitted."""
    chosen = [one.point for one in plan if one.todo]
    charges = [charge(point, system, time_limit_s) for point in chosen]
    return Budget(
        jobs=len(chosen),
        node_hours=sum(node_hours(point, time_limit_s) for point in chosen),
        charge=sum(c for c in charges if c is not None) if system.billing else None,
    )


def node_hours(point: Point, time_limit_s: int) -> float:
    """Nodes times the hours of the time limit."""
    return point.placement.nodes * time_limit_s / 3600 if point.placement else 0.0


def charge(point: Point, system: System, time_limit_s: int) -> float | None:
    """Units of the site. A part of a node costs its share where nodes are shared."""
    billing, place = system.billing, point.placement
    if billing is None or place is None:
        return None
    part = place.tasks_per_node / (system.ranks_per_node or 1)
    shared = billing.whole_nodes is False and not place.exclusive
    return node_hours(point, time_limit_s) * billing.per_node_hour * (part if shared else 1)
