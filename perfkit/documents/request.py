"""The resource request: what jobs are to run, how long each takes, what the site charges.

Each line is rounded up to a tenth of a node-hour, then summed: the printed lines, reserve and
request add up exactly. Where a line's hours come from is said beside it and never mixed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from perfkit.allocation.units import Amount, amount
from perfkit.documents.request_lines import TENTH, Basis, Line, lines_of
from perfkit.documents.settings import Request
from perfkit.study.systems import System


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """The request in node-hours; `amount` has the other units."""

    lines: tuple[Line, ...]
    reserve_share: float
    system: System
    notes: tuple[str, ...]
    """what was left out, and doubts"""

    @property
    def subtotal(self) -> Decimal:
        return sum((line.node_hours for line in self.lines), Decimal(0))

    @property
    def reserve(self) -> Decimal:
        exact = self.subtotal * Decimal(repr(self.reserve_share))
        return exact.quantize(TENTH, rounding=ROUND_CEILING)

    @property
    def total(self) -> Decimal:
        return self.subtotal + self.reserve

    @property
    def amount(self) -> Amount:
        return amount(float(self.total), self.system)


def compute(request: Request, basis: Basis, reserve: float | None = None) -> Computed:
    """Every phase as lines; ConfigError for a study that is not there."""
    found = [lines_of(phase, basis) for phase in request.phases]
    notes = [note for _lines, of_phase in found for note in of_phase]
    return Computed(
        lines=tuple(line for of_phase, _notes in found for line in of_phase),
        reserve_share=request.reserve if reserve is None else reserve,
        system=basis.system,
        notes=tuple(dict.fromkeys(notes)),
    )


def check_limits(computed: Computed) -> list[str]:
    """Jobs that the partition would refuse."""
    system, found = computed.system, []
    for line in computed.lines:
        if system.max_nodes and line.nodes > system.max_nodes:
            found.append(
                f"{line.phase}: {line.nodes} nodes, {system.name} gives {system.max_nodes}"
            )
        limit = (system.max_walltime_s or math.inf) / 3600
        if line.hours_per_run > limit:
            found.append(
                f"{line.phase}: {line.hours_per_run:.3g} h a run, {system.name} gives {limit:.3g} h"
            )
    return found


def as_data(computed: Computed) -> Mapping[str, object]:
    """The request in exact numbers, for provenance.json."""
    units = computed.amount
    return {
        "system": computed.system.name,
        "node_hours": str(computed.total),
        "gpu_hours": units.gpu_hours,
        "local": units.local,
        "unit": units.unit,
        "reserve_share": computed.reserve_share,
        "lines": [
            {
                "phase": line.phase,
                "nodes": line.nodes,
                "part_of_a_node": line.part,
                "hours_per_run": line.hours_per_run,
                "runs": line.runs,
                "node_hours": str(line.node_hours),
                "basis": line.basis,
                "source": line.source,
                "of_runs": list(line.of_runs),
            }
            for line in computed.lines
        ],
        "notes": list(computed.notes),
    }
