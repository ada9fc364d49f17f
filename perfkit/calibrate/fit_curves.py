"""Raw points of a GPU's kernels -> the curves of predict/curves.py, with how well each fits.

Least squares of log(curve / measured) with a soft-L1 loss, so that a factor of two counts the same
for a microsecond as for a millisecond and a few odd kernels do not bend the curve.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perfkit.calibrate.fit_steps import SOURCE, Point, host_table, step_table
from perfkit.errors import ConfigError, ToolMissing
from perfkit.predict.spec import dtype_bytes

if TYPE_CHECKING:
    from perfkit.predict.curves import Collective

Curve = Callable[..., Any]

SOFT = 0.1
"""log residuals beyond this count linearly"""
REGIMES = 3
"""NCCL has three protocols: LL, LL128, Simple"""
FIRST_RATES, LATER_STARTS = (3e10, 1e11), (1.5, 3.0)
STRIDED_MIX = {"multiply": 2.5, "add": 1.25, "concatenate": 1.4, "widen": 2.0, "scale": 3.0}
"""strided kernels of a Llama layer with four query heads a kv head, in kernels of the query's or
the hidden states' size: rotary products, sum and halves (q and k), two norms"""
IN_A_LAYER = 1.38
"""times the seconds of these kernels one by one: what the elementwise kernels of a prompt take,
less those that run at the speed of memory (trace h200-8b-tp1-graph; h100-8b-tp1-graph: 1.24)"""
FEWEST = 6
"""points a curve needs"""


@dataclass(frozen=True, slots=True)
class Parameter:
    """Where a parameter is looked for; `optional` ones that end at their lower bound are 0."""

    name: str
    start: float
    low: float
    high: float
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Fit:
    """A curve's parameters, and its errors over the points."""

    values: dict[str, float]
    errors: dict[str, float]


BYTES_PER_S = Parameter("bytes_per_s", 3e12, 1e10, 2e13)
FLOPS_PER_S = Parameter("flops_per_s", 5e14, 1e12, 1e16)
START_S = Parameter("start_s", 3e-6, 1e-7, 1e-4)
SHARPNESS = Parameter("sharpness", 2.0, 0.3, 30.0)

GEMM = (
    FLOPS_PER_S,
    BYTES_PER_S,
    # Points seldom tell these two apart: one of them may end at nothing.
    Parameter("start_s", 3e-6, 1e-7, 1e-4, True),
    Parameter("ramp_s", 1e-6, 1e-9, 1e-4, True),
    SHARPNESS,
)
VECTOR = (BYTES_PER_S, START_S)
STREAM = (BYTES_PER_S, START_S, SHARPNESS)
DECODE = (BYTES_PER_S, START_S, Parameter("head_s", 1e-9, 1e-13, 1e-6, True), SHARPNESS)
PREFILL = (FLOPS_PER_S, START_S, Parameter("ramp_tokens", 200.0, 1.0, 2e4, True))
CHOICE = (Parameter("bytes_per_s", 1e10, 1e8, 1e13), START_S)


def curve_tables(points: Sequence[Point], dtype: str) -> dict[str, Any]:
    """The tables of models/calibrations/*.toml that microbenchmarks fill, as
    predict/curve_files.py reads them."""
    tables = fit_curves(points, dtype)
    tables |= fit_collectives(points)
    steps = [point for point in points if point["op"] == "step"]
    tables |= {"host": host_table(steps), "steps": step_table(steps)}
    return tables


def fit_curves(points: Sequence[Point], dtype: str) -> dict[str, Any]:
    """Tables of a curves file: one a kernel class, with its parameters and errors.

    ConfigError when a class has too few points, or a parameter ends at the edge of what is
    plausible: then the points are not what they seem.
    """
    import numpy as np

    from perfkit.predict import curves

    size = dtype_bytes(dtype)

    def column(chosen: Sequence[Point], name: str) -> Any:
        return np.array([float(point[name]) for point in chosen])

    found: dict[str, Any] = {}
    gemms = [p for p in points if p["op"] == "gemm" and p["how"] == "torch"]
    m, n, k = (column(gemms, name) for name in "mnk")
    both = (2 * m * n * k, size * (m * n + n * k + m * k))
    found["gemm"] = fit("gemm", curves.Gemm, GEMM, both, column(gemms, "seconds"))
    rows = [p for p in points if p["op"] == "gemm" and p["how"] == "step"]
    read = size * column(rows, "n") * column(rows, "k")
    found["vector"] = fit("vector", curves.Stream, VECTOR, (read,), column(rows, "seconds"))
    decodes = [p for p in points if p["op"] == "decode_attention"]
    heads = column(decodes, "batch") * column(decodes, "heads")
    cache = 2 * size * column(decodes, "batch") * column(decodes, "context")
    cache *= column(decodes, "kv_heads") * column(decodes, "head_dim")
    found["decode_attention"] = fit(
        "decode_attention",
        curves.DecodeAttention,
        DECODE,
        (cache, heads),
        column(decodes, "seconds"),
    )
    prefills = [p for p in points if p["op"] == "prefill_attention"]
    tokens = column(prefills, "tokens")
    flops = 2 * column(prefills, "batch") * column(prefills, "heads") * tokens**2
    flops *= column(prefills, "head_dim")
    found["prefill_attention"] = fit(
        "prefill_attention",
        curves.PrefillAttention,
        PREFILL,
        (flops, tokens),
        column(prefills, "seconds"),
    )
    sums = [p for p in points if p["op"] == "elementwise"]
    found["elementwise"] = fit(
        "elementwise", curves.Stream, STREAM, (column(sums, "bytes"),), column(sums, "seconds")
    )
    strided = [p for p in points if p["op"] == "strided"]
    if strided:
        sizes, seconds = mean_strided(strided)
        found["strided"] = fit("strided", curves.Stream, VECTOR, (sizes,), seconds)
    for name, parameters in (("norm", VECTOR), ("choice", CHOICE)):
        if chosen := [p for p in points if p["op"] == name]:
            work = (column(chosen, "bytes"),)
            found[name] = fit(name, curves.Stream, parameters, work, column(chosen, "seconds"))
    if grouped := [p for p in points if p["op"] == "grouped"]:
        found["grouped"] = fit(
            "grouped", curves.Gemm, GEMM, grouped_work(grouped, size), column(grouped, "seconds")
        )
    return {name: {**one.values, **one.errors, "source": SOURCE} for name, one in found.items()}


def mean_strided(points: Sequence[Point]) -> tuple[Any, Any]:
    """(bytes, seconds) of a layer's mean kernel, for each number of tokens: one kind takes three
    times another's time, so that only all together, as often as a layer has them, are a rate."""
    import numpy as np

    by_kind = {kind: [p for p in points if p["kind"] == kind] for kind in STRIDED_MIX}
    for chosen in by_kind.values():
        chosen.sort(key=lambda p: float(p["bytes"]))
    shares = np.array(list(STRIDED_MIX.values())) / sum(STRIDED_MIX.values())

    def mixed(name: str) -> Any:
        columns = [[float(p[name]) for p in chosen] for chosen in by_kind.values()]
        return shares @ np.array(columns)

    return mixed("bytes"), IN_A_LAYER * mixed("seconds")


def grouped_work(points: Sequence[Point], size: int) -> tuple[Any, Any]:
    """(operations, bytes) of products of rows with the weights of the experts they reach."""
    import numpy as np

    names = ("rows", "reached", "inputs", "outputs")
    rows, reached, inputs, outputs = (np.array([float(p[name]) for p in points]) for name in names)
    moved = size * (reached * inputs * outputs + rows * (inputs + outputs))
    return 2 * rows * inputs * outputs, moved


def fit_collectives(points: Sequence[Point]) -> dict[str, Any]:
    """{"all_reduce": {"2": {start_s: [..], bytes_per_s: [..], errors}}} of those in graphs."""
    groups: dict[tuple[str, int], list[Point]] = {}
    for point in points:
        if point["op"] == "nccl" and point["how"] == "graph":
            groups.setdefault((point["kind"], point["group"]), []).append(point)
    found: dict[str, Any] = {}
    for (kind, group), chosen in sorted(groups.items()):
        sizes = [float(p["bytes"]) for p in chosen]
        curve, errors = fit_collective(kind, group, sizes, [float(p["seconds"]) for p in chosen])
        found.setdefault(kind, {})[str(group)] = {
            "start_s": [regime.start_s for regime in curve.regimes],
            "bytes_per_s": [regime.bytes_per_s for regime in curve.regimes],
            **errors,
            "source": SOURCE,
        }
    return found


def fit_collective(
    kind: str, group: int, sizes: Sequence[float], seconds: Sequence[float]
) -> tuple["Collective", dict[str, float]]:
    """The best of several starts: where one regime takes over from another, there is no slope.

    Regimes that no measured size is in are left out.
    """
    import numpy as np

    from perfkit.predict.curves import MOVED, Collective, Regime

    least_squares = solver()
    if len(sizes) < 2 * REGIMES:
        raise ConfigError(
            f"{kind} over {group} ranks: {len(sizes)} sizes, {2 * REGIMES} are needed. Measure "
            "again: perfkit calibrate."
        )
    taken, moved = np.array(seconds), MOVED[kind](group) * np.array(sizes)

    def times(logs: Any) -> Any:
        starts, rates = np.exp(logs).reshape(2, REGIMES, 1)
        return starts + moved / rates

    def residuals(logs: Any) -> Any:
        return np.log(times(logs).min(axis=0) / taken)

    def solved(rate: float, step: float) -> Any:
        powers = np.arange(REGIMES)
        guess = np.log(np.concatenate([taken.min() * step**powers, rate * 3.0**powers]))
        return least_squares(residuals, guess, loss="soft_l1", f_scale=SOFT)

    tries = [solved(rate, step) for rate in FIRST_RATES for step in LATER_STARTS]
    result = min(tries, key=lambda one: float(one.cost))
    starts, rates = np.exp(result.x).reshape(2, REGIMES)
    used = sorted(set(times(result.x).argmin(axis=0).tolist()), key=lambda one: starts[one])
    regimes = tuple(Regime(float(starts[one]), float(rates[one])) for one in used)
    return Collective(kind, group, regimes), _errors(residuals(result.x))


def fit(
    what: str, curve: Curve, parameters: Sequence[Parameter], work: tuple[Any, ...], seconds: Any
) -> Fit:
    """The parameters with which curve(...).seconds(*work) comes closest to the measured seconds."""
    import numpy as np

    least_squares = solver()
    if len(seconds) < FEWEST:
        raise ConfigError(
            f"{what}: {len(seconds)} points, {FEWEST} are needed. Measure again: perfkit calibrate."
        )

    def named(logs: Any) -> dict[str, float]:
        return {p.name: float(value) for p, value in zip(parameters, np.exp(logs), strict=True)}

    def residuals(logs: Any) -> Any:
        return np.log(curve(**named(logs)).seconds(*work) / seconds)

    low, high, start = (
        np.log([getattr(p, name) for p in parameters]) for name in ("low", "high", "start")
    )
    result = least_squares(residuals, start, bounds=(low, high), loss="soft_l1", f_scale=SOFT)
    values = _inside(what, parameters, named(result.x))
    errors = np.log(curve(**values).seconds(*work) / seconds)
    return Fit(values, _errors(errors))


def _inside(
    what: str, parameters: Sequence[Parameter], values: dict[str, float]
) -> dict[str, float]:
    for parameter in parameters:
        value = values[parameter.name]
        if value < parameter.low * 1.01 and parameter.optional:
            values[parameter.name] = 0.0
        elif not parameter.low * 1.01 < value < parameter.high / 1.01:
            raise ConfigError(
                f"{what}: {parameter.name} ended at {value:g}, the edge of what is plausible "
                f"({parameter.low:g} to {parameter.high:g}). Measure again on an idle machine.",
            )
    return values


def _errors(logs: Any) -> dict[str, float]:
    """Of predicted / measured - 1, and the standard deviation of its logarithm."""
    import numpy as np

    relative = np.expm1(logs)
    return {
        "points": len(logs),
        "mean_error": round(float(np.abs(relative).mean()), 4),
        "p90_error": round(float(np.quantile(np.abs(relative), 0.9)), 4),
        "bias": round(float(relative.mean()), 4),
        "spread": round(float(logs.std()), 4),
    }


def check_fitting() -> None:
    """ToolMissing before a minute of measuring rather than after it."""
    solver()


def solver() -> Callable[..., Any]:
    """scipy's least_squares; ToolMissing without scipy."""
    try:
        from scipy.optimize import least_squares
    except ImportError as error:
        raise ToolMissing(
            "fitting a GPU's curves needs scipy. Install it: pip install 'perfkit[calibrate]'.",
        ) from error
    function: Callable[..., Any] = least_squares
    return function
