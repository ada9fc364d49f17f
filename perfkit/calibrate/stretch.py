"""Curves stretched so that what traces show comes out: each by a factor on its times.

    log t_predicted(class; f) = log t_measured(class) +- CLASS_NOISE      for every class traced
    log f                     = 0                     +- PRIOR            for every factor

Least squares over both: a factor that the classes determine is theirs, one that they say nothing
about stays at 1. A run has one time for each class of kernels in a phase, not one for each kernel,
so no curve's form can be fitted, only how fast it is.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from perfkit.calibrate.fit_curves import solver
from perfkit.compare.classes import by_class
from perfkit.errors import ConfigError
from perfkit.predict.curves import KERNELS, Collective, Curves, Gemm, Regime, scaled_kernel
from perfkit.predict.passes import class_seconds
from perfkit.predict.plan import Plan
from perfkit.predict.rates import Rates
from perfkit.predict.spec import ModelSpec

CLASS_NOISE = 0.05
"""of log(predicted / measured) of a class whose curve is right: repeats, clocks, other shapes"""
PRIOR = 0.3
"""of log f: how far a GPU may be off what is known of it before anything was traced"""
LEAST_SPREAD = 0.1
"""of log(predicted / measured) of a curve that traces stretched: at other sizes it is less sure"""
LARGEST = 8.0
"""a factor beyond this: the run is not what it says, or the GPU another one"""
KNOWN = 0.5
"""of the prior's variance: a factor that traces leave less of is theirs"""
FELT = 0.2
"""d log t / d log f from which a class says something about a factor"""

Factors = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one pass of one rank took in a traced run."""

    run: str
    spec: ModelSpec
    plan: Plan
    phase: str
    """prefill or decode"""
    rank: int
    seconds: Mapping[str, float]
    """{class of compare/classes.py: measured}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """By how much a curve's times grew, and which runs say so; none: it stayed as it was."""

    name: str
    factor: float
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretched:
    """The curves after it, the factors, and log(predicted / measured) of each class in it."""

    curves: Curves
    factors: tuple[Stretch, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    """in the order of `labels`"""
    labels: tuple[tuple[str, str, int, str], ...]
    """(run, phase, rank, class)"""

    @property
    def spread(self) -> float:
        """Of log(predicted / measured) after the fit, at least LEAST_SPREAD."""
        square = sum(error**2 for error in self.after) / len(self.after)
        return max(LEAST_SPREAD, math.sqrt(square))


def stretched(rates: Rates, evidence: Sequence[Evidence]) -> Stretched:
    """Rates' curves after the fit; ConfigError for a factor beyond LARGEST."""
    import numpy as np

    if rates.curves is None:
        raise ConfigError(f"no curves are known for {rates.name}: traces have nothing to correct.")
    curves = rates.curves
    names = [*KERNEL_FACTORS, *(COLLECTIVE_FACTORS if curves.collectives else ())]
    rows = [(one, name) for one in evidence for name in one.seconds]
    measured = np.log([one.seconds[name] for one, name in rows])

    def errors(logs: Any) -> Any:
        known = with_curves(rates, apply(curves, dict(zip(names, np.exp(logs), strict=True))))
        found = [predicted_classes(known, one) for one in evidence]
        pairs = zip(found, evidence, strict=True)
        return np.log([classes[name] for classes, one in pairs for name in one.seconds]) - measured

    def residuals(logs: Any) -> Any:
        return np.concatenate([errors(logs) / CLASS_NOISE, logs / PRIOR])

    nothing = np.zeros(len(names))
    result = solver()(residuals, nothing, x_scale=PRIOR)
    _refuse_far(names, result.x)
    slopes = result.jac[: len(rows)] * CLASS_NOISE
    left = np.diag(np.linalg.inv(result.jac.T @ result.jac)) / PRIOR**2
    factors = tuple(
        Stretch(
            name=name,
            factor=float(np.exp(result.x[at])),
            runs=_felt_by(rows, slopes[:, at]) if left[at] < KNOWN else (),
        )
        for at, name in enumerate(names)
    )
    return Stretched(
        curves=apply(curves, {f.name: f.factor for f in factors if f.runs}),
        factors=factors,
        before=tuple(errors(nothing)),
        after=tuple(errors(result.x)),
        labels=tuple((one.run, one.phase, one.rank, name) for one, name in rows),
    )


def predicted_classes(rates: Rates, one: Evidence) -> dict[str, float]:
    """Seconds of each class in one pass."""
    place = {"tp_rank": one.rank % one.plan.tp, "pp_rank": one.rank // one.plan.tp}
    return by_class(class_seconds(one.spec, rates, one.plan, one.phase, **place))


def with_curves(rates: Rates, curves: Curves) -> Rates:
    """The same rates with other curves."""
    return replace(rates, compute=tuple(replace(one, curves=curves) for one in rates.compute))


def apply(curves: Curves, factors: Factors) -> Curves:
    """Curves whose times are `factors` times as long."""
    for name, factor in factors.items():
        curves = {**KERNEL_FACTORS, **COLLECTIVE_FACTORS}[name](curves, factor)
    return curves


def _kernel(name: str) -> Callable[[Curves, float], Curves]:
    def longer(curves: Curves, factor: float) -> Curves:
        return replace(curves, **{name: scaled_kernel(getattr(curves, name), 1 / factor)})

    return longer


def _gemm_rate(name: str) -> Callable[[Curves, float], Curves]:
    def longer(curves: Curves, factor: float) -> Curves:
        def slower(one: Gemm) -> Gemm:
            return replace(one, **{name: getattr(one, name) / factor})

        grouped = curves.grouped and slower(curves.grouped)
        return replace(curves, gemm=slower(curves.gemm), grouped=grouped)

    return longer


def _collectives(change: Callable[[Regime, float], Regime]) -> Callable[[Curves, float], Curves]:
    def longer(curves: Curves, factor: float) -> Curves:
        found = {
            key: Collective(one.kind, one.group, tuple(change(r, factor) for r in one.regimes))
            for key, one in curves.collectives.items()
        }
        return replace(curves, collectives=found)

    return longer


KERNEL_FACTORS: Mapping[str, Callable[[Curves, float], Curves]] = {
    # A prompt's products are bound by arithmetic, a step's by memory: two factors.
    "gemm flops": _gemm_rate("flops_per_s"),
    "gemm bytes": _gemm_rate("bytes_per_s"),
    **{name: _kernel(name) for name in KERNELS if name != "gemm"},
}
COLLECTIVE_FACTORS: Mapping[str, Callable[[Curves, float], Curves]] = {
    "all_reduce start": _collectives(lambda r, f: Regime(r.start_s * f, r.bytes_per_s)),
    "all_reduce bytes": _collectives(lambda r, f: Regime(r.start_s, r.bytes_per_s / f)),
}


def _felt_by(rows: Sequence[tuple[Evidence, str]], slopes: Any) -> tuple[str, ...]:
    felt = [one.run for (one, _), slope in zip(rows, slopes, strict=True) if abs(slope) > FELT]
    return tuple(dict.fromkeys(felt))


def _refuse_far(names: Sequence[str], logs: Any) -> None:
    for name, value in zip(names, logs, strict=True):
        if abs(value) > math.log(LARGEST):
            raise ConfigError(
                f"{name}: the traces ask for {math.exp(value):.3g} times the time that is known "
                f"for this GPU, and {LARGEST:g} is the most that is believed. Check that the runs "
                "had the GPU for themselves, and that gpus.toml has its rates.",
            )
