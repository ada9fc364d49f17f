"""Recorded runs of this machine -> its calibration: `perfkit calibrate --from RUN`.

Kernels: the classes in the traces (calibrate/stretch.py), and the time between one kernel and the
next, which a curve of predict/curves.py has in it. Host and hops: what the timed passes, which no
profiler slowed, take beyond the kernels.

    dispatch_s  an eager step that its host limits, over its dispatches
    hop_s       a captured step of p stages and one microbatch, less all their kernels, over p - 1
                hops and the token's way back
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from perfkit.calibrate.fit_steps import LEAST_HOST_SPREAD
from perfkit.calibrate.stretch import Evidence, Stretch, Stretched, stretched, with_curves
from perfkit.compare.classes import TRANSFER, traced_classes
from perfkit.compare.run import plan_of
from perfkit.errors import ConfigError
from perfkit.predict.curves import Collective, Curves, Regime, kernel_curves
from perfkit.predict.gpus import gpu_of_device, load_gpu
from perfkit.predict.passes import skew
from perfkit.predict.plan import Plan, decode_pass
from perfkit.predict.rates import ASSUMED, ASSUMED_ALL_REDUCE_S, Rates, rates_from_gpu
from perfkit.predict.spec import ModelSpec, spec_from_config
from perfkit.predict.work import pass_work
from perfkit.schema import open_run
from perfkit.timeline.analysis import analyze_run

HOST_BOUND = 0.8
"""of an eager step's time: kernels fill at most that much of it when its host limits it"""
MOST_BETWEEN = 1.15
"""a pass over the sum of its kernels, when nothing but short gaps is between them"""
OF_KERNEL = {"gemm": ("gemm flops", "gemm bytes")}
"""factors of a kernel's curve, where they are not its own name"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """One recorded run with a trace of a GPU."""

    name: str
    gpu: str
    versions: Mapping[str, str]
    plan: Plan
    spec: ModelSpec
    evidence: tuple[Evidence, ...]
    tpot_s: tuple[float, ...]
    """of each timed pass"""

    @property
    def decode_s(self) -> list[float]:
        """Kernels of a decode step of each stage's slowest rank; nan where not all is told."""
        return [_slowest(self.evidence, "decode", stage) for stage in range(self.plan.pp)]

    @property
    def host_bound(self) -> bool:
        """An eager step of one stage in which kernels leave the GPU idle."""
        if self.plan.decode != "eager" or self.plan.pp > 1 or not self.tpot_s:
            return False
        return self.decode_s[0] < HOST_BOUND * statistics.median(self.tpot_s)

    @property
    def usable(self) -> Iterator[Evidence]:
        """Without the steps that their host limits: other kernels than a captured step's, and
        no time depends on them."""
        return (e for e in self.evidence if not (e.phase == "decode" and self.host_bound))


@dataclass(frozen=True, slots=True, kw_only=True)
class FromTraces:
    """The tables of models/calibrations/GPU-DTYPE.toml, and how they came about."""

    tables: dict[str, Any]
    fit: Stretched


def calibrate_from(paths: Sequence[Path], models_dir: Path | None, *, date: str) -> FromTraces:
    """One GPU's calibration from runs of it; ConfigError for runs that cannot give any."""
    runs = [read_traced(path, models_dir) for path in paths]
    gpu, dtype = _one_machine(runs)
    rates = _with_groups(rates_from_gpu(load_gpu(gpu, models_dir), dtype, models_dir), runs)
    fit = stretched(rates, [one for run in runs for one in run.usable])
    curves, known = rates.compute[0].curves, with_curves(rates, fit.curves)
    assert curves is not None, "rates_from_gpu always gives curves"
    tables = {
        "gpu": gpu,
        "dtype": dtype,
        "date": date,
        "held_in": sorted({*rates.held_in, *(run.name for run in runs)}),
        "versions": dict(runs[0].versions),
        **{name: _kernel_table(name, curves, fit) for name in kernel_curves(curves)},
        **_collective_tables(curves, fit),
        "host": host_table(runs, known),
        "steps": steps_table(runs, fit.curves),
    }
    return FromTraces(tables=tables, fit=fit)


def read_traced(path: Path, models_dir: Path | None = None) -> Traced:
    """ConfigError for what is no run of the engine with a trace of a GPU that is known."""
    _, run = open_run(path)
    if not run.get("model") or "config" not in run:
        raise ConfigError(
            f"{path} is no run of perfkit's engine: what its kernels computed is not known. "
            "Record one: perfkit run MODEL --collect kineto"
        )
    plan = Plan(**plan_of(path, run))
    spec = spec_from_config(run["model"]["config"], model_id=run["model"]["id"])
    devices = run["hardware"].get("gpus", [])
    gpu = gpu_of_device(devices, models_dir)
    if gpu is None:
        named = devices[0].get("name") if devices else "no GPU"
        raise ConfigError(
            f"{path} ran on {named}: no table of gpus.toml has it among its smi_names. Add one "
            "with its data sheet's rates in your own models folder, and give --models-dir."
        )
    analysis = analyze_run(path)
    name = path.resolve().name
    found = [
        Evidence(name, spec, plan, phase, rank, _told(classes, plan))
        for rank, phase, classes in traced_classes(analysis)
    ]
    if not found:
        raise ConfigError(
            f"{path} has no trace of a GPU. Record one: perfkit run MODEL --collect kineto"
        )
    timed = analysis.measures.filter(kind="timed")
    between = {
        "prefill": _between(found, "prefill", plan, timed["ttft_s"].median()),
        "decode": _between(found, "decode", plan, timed["tpot_s"].median()),
    }
    return Traced(
        name=name,
        gpu=gpu,
        versions=run["versions"],
        plan=plan,
        spec=spec,
        evidence=tuple(replace(one, seconds=_longer(one, between[one.phase])) for one in found),
        tpot_s=tuple(timed["tpot_s"].drop_nulls()),
    )


def _told(classes: Mapping[str, float | None], plan: Plan) -> dict[str, float]:
    """Classes with a time; none at all where the all-reduces of a group were not told apart."""
    found = {name: seconds for name, seconds in classes.items() if seconds}
    return found if plan.tp == 1 or TRANSFER in found else {}


def _slowest(evidence: Sequence[Evidence], phase: str, stage: int) -> float:
    """Kernels' seconds in one pass of a stage's slowest rank; nan where none is told."""
    mine = (one for one in evidence if one.phase == phase and one.rank // one.plan.tp == stage)
    return max((sum(one.seconds.values()) for one in mine if one.seconds), default=math.nan)


def _between(evidence: Sequence[Evidence], phase: str, plan: Plan, whole_s: Any) -> float:
    """A timed pass of one rank over its kernels: 1 where more than gaps is between them."""
    if plan.tp * plan.pp > 1 or whole_s is None:
        return 1.0
    ratio = whole_s / plan.microbatches / _slowest(evidence, phase, 0)
    return ratio if 1 < ratio < MOST_BETWEEN else 1.0


def _longer(one: Evidence, factor: float) -> dict[str, float]:
    """Every class with the gaps after its kernels."""
    return {name: factor * seconds for name, seconds in one.seconds.items()}


def host_table(runs: Sequence[Traced], rates: Rates) -> dict[str, Any]:
    """dispatch_s of the eager runs that their host limits: the median over runs of each one's
    median pass; as it was where there is no such run."""
    found = {run.name: _dispatch_s(run, rates) for run in runs if run.host_bound}
    if not found:
        curves = rates.compute[0].curves
        known = curves.provenance.get("host", ASSUMED) if curves else ASSUMED
        spread = curves.spread["host"] if curves else LEAST_HOST_SPREAD
        table = {"dispatch_s": rates.compute[0].dispatch_s, "spread": spread, "source": known}
        fixed = curves.pass_host_s if curves else None
        return table if fixed is None else {**table, "pass_s": fixed}
    passes = [seconds for run in runs if run.name in found for seconds in run.tpot_s]
    logs = [math.log(seconds / statistics.median(passes)) for seconds in passes]
    return {
        "dispatch_s": statistics.median(found.values()),
        "spread": max(LEAST_HOST_SPREAD, statistics.pstdev(logs)),
        "source": f"timed passes of {_listed(found)}",
    }


def steps_table(runs: Sequence[Traced], curves: Curves) -> dict[str, Any]:
    """hop_s and return_s of the captured runs of several stages and one microbatch, as they were
    where there is none; replay_s is in the kernels' gaps and stays."""
    hops: dict[str, float] = {}
    for run in runs:
        if run.plan.decode == "graph" and run.plan.pp > 1 and run.plan.microbatches == 1:
            beyond = statistics.median(run.tpot_s) - sum(run.decode_s) if run.tpot_s else math.nan
            hops |= {run.name: beyond / run.plan.pp} if beyond > 0 else {}
    table: dict[str, Any] = {"replay_s": curves.replay_s}
    for name in ("hop_s", "return_s"):
        seconds = statistics.median(hops.values()) if hops else getattr(curves, name)
        table |= {} if seconds is None else {name: seconds}
    known = curves.provenance.get("steps", ASSUMED)
    return {**table, "source": f"timed passes of {_listed(hops)}" if hops else known}


def _dispatch_s(run: Traced, rates: Rates) -> float:
    """Seconds a dispatch: a step of M microbatches over M times its dispatches, and what the
    slower of several hosts adds."""
    work = pass_work(run.spec, run.plan.shard(0, 0), decode_pass(run.plan))
    issued = run.plan.microbatches * work.dispatches * skew(run.plan.tp, rates)
    return statistics.median(run.tpot_s) / issued


def _one_machine(runs: Sequence[Traced]) -> tuple[str, str]:
    kinds = {(run.gpu, run.plan.dtype) for run in runs}
    if len(kinds) > 1:
        raise ConfigError(
            "a calibration is of one GPU in one dtype, but the runs are of "
            f"{' and '.join(f'{gpu} in {dtype}' for gpu, dtype in sorted(kinds))}. Give those of "
            "one kind."
        )
    return next(iter(kinds))


def _with_groups(rates: Rates, runs: Sequence[Traced]) -> Rates:
    """A curve for each group of ranks in the runs; where none is known, the data sheet's ring."""
    curves = rates.compute[0].curves
    assert curves is not None, "rates_from_gpu always gives curves"
    ring = (Regime(ASSUMED_ALL_REDUCE_S, rates.link_bytes_per_s or math.inf),)
    groups = {("all_reduce", run.plan.tp) for run in runs if run.plan.tp > 1}
    assumed = {key: Collective(*key, ring) for key in groups - set(curves.collectives)}
    return with_curves(
        rates,
        replace(
            curves,
            collectives={**curves.collectives, **assumed},
            provenance={**curves.provenance, **{f"{k}.{n}": ASSUMED for k, n in assumed}},
        ),
    )


def _kernel_table(name: str, before: Curves, fit: Stretched) -> dict[str, Any]:
    moved = [one for one in fit.factors if one.name in OF_KERNEL.get(name, (name,)) and one.runs]
    return {
        **asdict(getattr(fit.curves, name)),
        "spread": fit.spread if moved else before.spread[name],
        "source": _source(moved, before.provenance[name]),
    }


def _collective_tables(before: Curves, fit: Stretched) -> dict[str, Any]:
    moved = [one for one in fit.factors if one.name.startswith("all_reduce") and one.runs]
    found: dict[str, Any] = {}
    for (kind, group), one in sorted(fit.curves.collectives.items()):
        found.setdefault(kind, {})[str(group)] = {
            "start_s": [regime.start_s for regime in one.regimes],
            "bytes_per_s": [regime.bytes_per_s for regime in one.regimes],
            "source": _source(moved, before.provenance[f"{kind}.{group}"]),
        }
    return found


def _source(moved: Sequence[Stretch], before: str) -> str:
    if not moved:
        return before
    runs = _listed(dict.fromkeys(run for one in moved for run in one.runs))
    factors = ", ".join(f"{one.factor:.3g}" for one in moved)
    return f"traces of {runs}: times {factors} on what was known ({before})"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
