"""The verdict on a run: figures against limits, each with its reason.

The limits are in fidelity_gates.toml, with where they come from.
"""

import functools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GATES_FILE = Path(__file__).with_name("fidelity_gates.toml")
VERDICTS = ("healthy", "suspicious", "broken")

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Limits of one figure."""

    name: str
    title: str
    higher_is_better: bool
    of_all: bool
    """only where all places were compared"""
    floor: float
    times: tuple[float, float] | None
    """of the noise; None where a repeat says nothing"""
    limits: Mapping[str, tuple[float, float]]
    """by precision"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """All gates, and where their limits come from."""

    source: str
    gates: tuple[Gate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """One figure, its limits, and what follows."""

    name: str
    title: str
    value: float | None
    noise: float | None
    """the repeat's"""
    suspicious: float | None
    broken: float | None
    higher_is_better: bool
    verdict: str | None
    """None where there is no value or no limit"""

    @property
    def reason(self) -> str:
        limit = self.broken if self.verdict == "broken" else self.suspicious
        side = "below" if self.higher_is_better else "above"
        return f"{self.title} is {self.value:.3g}, {side} {limit:.3g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The verdict, and every reason for it."""

    verdict: str
    reasons: tuple[str, ...]
    precision: str
    source: str
    results: tuple[GateResult, ...]


@functools.cache
def read_gates(path: Path = GATES_FILE) -> Gates:
    """The gates of a file in the form of fidelity_gates.toml."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    gates = tuple(_gate(name, entry) for name, entry in content["gates"].items())
    return Gates(source=content["source"], gates=gates)


def _gate(name: str, entry: Mapping[str, Any]) -> Gate:
    pairs = {precision: (low, high) for precision, (low, high) in entry["limits"].items()}
    return Gate(
        name=name,
        title=entry["title"],
        higher_is_better=entry["better"] == "higher",
        of_all=entry.get("of_all", False),
        floor=entry.get("floor", 0.0),
        times=tuple(entry["times"]) if "times" in entry else None,
        limits=pairs,
    )


def judge(gates: Gates, precision: str, figures: Figures, noise: Figures | None) -> Judged:
    """The worst of all gates; `noise` has the figures of a run that is known to be good."""
    whole = figures["places"] >= figures["new_tokens"]
    results = tuple(
        _result(gate, precision, figures, noise) for gate in gates.gates if whole or not gate.of_all
    )
    reasons = [(result.verdict, result.reason) for result in results if result.verdict]
    reasons += _other_reasons(figures)
    reasons.sort(key=lambda one: -VERDICTS.index(one[0]))
    return Judged(
        verdict=reasons[0][0] if reasons else "healthy",
        reasons=tuple(f"{verdict}: {why}" for verdict, why in reasons if verdict != "healthy"),
        precision=precision,
        source=gates.source,
        results=results,
    )


def _result(gate: Gate, precision: str, figures: Figures, noise: Figures | None) -> GateResult:
    measured = None if noise is None else noise[gate.name]
    limits: Sequence[float] | None = gate.limits.get(precision)
    if measured is not None and gate.times is not None:
        limits = from_noise(gate, measured)
    value = figures[gate.name]
    return GateResult(
        name=gate.name,
        title=gate.title,
        value=value,
        noise=measured,
        suspicious=limits[0] if limits else None,
        broken=limits[1] if limits else None,
        higher_is_better=gate.higher_is_better,
        verdict=None if value is None or not limits else _verdict(gate, value, limits),
    )


def from_noise(gate: Gate, measured: float) -> tuple[float, float]:
    """Limits as multiples of what a good run shows; of what is left to 1 where higher is better."""
    assert gate.times is not None
    noise = max(1 - measured if gate.higher_is_better else measured, gate.floor)
    low, high = (times * noise for times in gate.times)
    return (1 - low, 1 - high) if gate.higher_is_better else (low, high)


def _verdict(gate: Gate, value: float, limits: Sequence[float]) -> str:
    def beyond(limit: float) -> bool:
        return value < limit if gate.higher_is_better else value > limit

    return VERDICTS[sum(beyond(limit) for limit in limits)]


def _other_reasons(figures: Figures) -> Iterator[tuple[str, str]]:
    """What no limit can say."""
    if figures["not_numbers"]:
        yield "broken", f"in {figures['not_numbers']} places a side computed no number"
    if figures["kl_mean"] is None and figures["equal"] < figures["prompts"]:
        different = figures["prompts"] - figures["equal"]
        yield (
            "suspicious",
            f"{different} of {figures['prompts']} answers differ, and without log probabilities "
            "nothing tells rounding from damage",
        )
