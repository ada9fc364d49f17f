"""Node-hours, GPU-hours and a site's own unit: data of models/systems/*.toml, never code.

A part of a node costs its share of the GPUs where the site shares nodes, else the whole node.
"""

from dataclasses import dataclass

from perfkit.study.systems import System


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """One amount of compute time in every unit; None where the system file does not say."""

    node_hours: float
    """as billed: a shared node counts with its part"""
    gpu_hours: float | None
    local: float | None
    unit: str | None
    """what `local` counts"""


def amount(node_hours: float, system: System) -> Amount:
    """Leonardo: 4,500 node-hours = 18,000 GPU-hours = 144,000 local core-hours."""
    billing, gpus = system.billing, system.gpus_per_node
    return Amount(
        node_hours=node_hours,
        gpu_hours=node_hours * gpus if gpus else None,
        local=node_hours * billing.per_node_hour if billing else None,
        unit=billing.unit if billing else None,
    )


def shares_nodes(system: System) -> bool:
    """True where a job that takes a part of a node pays only for that part."""
    return system.billing is not None and system.billing.whole_nodes is False


def billed_part(system: System, ranks_of_node: float, *, exclusive: bool = False) -> float:
    """Of a node, in 0..1: two of four GPUs of a shared node are 0.5."""
    room = system.ranks_per_node
    if exclusive or not shares_nodes(system) or not room:
        return 1.0
    return min(1.0, ranks_of_node / room)


def conversions(system: System) -> list[tuple[str, float, str]]:
    """(unit, how much of it a node-hour is, from what): the rows of the conversion table."""
    rows = [("node-hour", 1.0, "by definition")]
    if system.gpus_per_node:
        rows.append(("GPU-hour", float(system.gpus_per_node), "GPUs of a node, as Slurm counts"))
    if system.cores_per_node:
        rows.append(("core-hour", float(system.cores_per_node), "cores that a job can have"))
    if system.billing:
        rows.append((system.billing.unit, system.billing.per_node_hour, "the site's own unit"))
    return rows
