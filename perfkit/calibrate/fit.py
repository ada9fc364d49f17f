"""Raw timings of one machine -> calibration.json: the rates a prediction needs.

    calibration.json
      device, device_name, dtype, threads, num_ranks, tp, pp   as measured
      date, source                                             ISO date, "microbenchmark"
      compute     [{active_ranks, gemm_flops_per_s, read_bytes_per_s, dispatch_s,
                    linear: [[m, seconds per weight value], ...], ...}]
      all_reduce  {group: {alpha_s, bytes_per_s, mean_error, num_points}}
      send_recv   the same
      curves      on a GPU: the tables of predict/curve_files.py, from calibrate/fit_curves.py

Nothing is fitted that is measured: rates are total work over total time of the points that show
them; only a collective's alpha and bandwidth are a least-squares fit.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from perfkit.calibrate.fit_curves import curve_tables
from perfkit.errors import ConfigError
from perfkit.predict.rates import MICROBENCHMARK
from perfkit.predict.spec import dtype_bytes

LARGE_M = 64
"""rows from which a linear layer is limited by arithmetic"""
SMALL_M = 8
"""rows up to which it is limited by reading its weights"""

FACTS = ("device", "device_name", "dtype", "threads", "num_ranks", "tp", "pp")
REQUIRED = ("device", "dtype", "points")

Point = Mapping[str, Any]


def fit(measured: Mapping[str, Any], *, date: str) -> dict[str, Any]:
    """The calibration document of one set of raw points; ConfigError says what is missing."""
    missing = [key for key in REQUIRED if not measured.get(key)]
    if missing:
        raise ConfigError(f"the microbenchmark has no {', '.join(missing)}. Run it again.")
    by_op = _by_op(measured["points"])
    curves = {}
    if measured["device"] == "cuda":
        curves = {"curves": curve_tables(measured["points"], str(measured["dtype"]))}
    return {
        **{key: measured.get(key) for key in FACTS},
        "date": date,
        "source": MICROBENCHMARK,
        "compute": compute_rates(by_op, dtype_bytes(str(measured["dtype"]))),
        "all_reduce": link_rates(by_op["all_reduce"]),
        "send_recv": link_rates(by_op["send_recv"]),
        **curves,
    }


def compute_rates(
    by_op: Mapping[str, Sequence[Point]], bytes_per_value: int
) -> list[dict[str, Any]]:
    """One entry per number of ranks that worked at the same time."""
    counts = sorted({int(p["active_ranks"]) for p in by_op.get("linear", ())})
    if not counts:
        raise ConfigError("the microbenchmark has no linear points. Run it again.")
    return [_entry(by_op, count, bytes_per_value) for count in counts]


def link_rates(points: Sequence[Point]) -> dict[str, dict[str, float]]:
    """alpha_s and bytes_per_s of each group size; {} when nothing was measured."""
    groups = defaultdict(list)
    for point in points:
        groups[int(point["group"])].append((float(point["bytes"]), float(point["seconds"])))
    return {str(group): fit_link(pairs) for group, pairs in sorted(groups.items())}


def fit_link(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Least squares of seconds = alpha + bytes / bandwidth, both positive, in relative error.

    Each point weighs 1 / seconds, so that small messages count as much as large ones.
    mean_error is the mean of |fitted - measured| / measured.
    """
    import numpy as np

    pairs = [(size, seconds) for size, seconds in pairs if seconds > 0]
    if len({size for size, _ in pairs}) < 2:
        raise ConfigError("a collective needs timings of two sizes or more. Run it again.")
    sizes, seconds = np.array(pairs).T
    alpha, per_byte = _non_negative(1 / seconds, sizes / seconds)
    errors = np.abs(alpha + per_byte * sizes - seconds) / seconds
    return {
        "alpha_s": alpha,
        "bytes_per_s": 1 / per_byte,
        "mean_error": float(errors.mean()),
        "num_points": len(pairs),
    }


def _non_negative(ones: Any, sizes: Any) -> tuple[float, float]:
    """alpha, 1/bandwidth of alpha * ones + x * sizes = 1; a negative one is set to its bound."""
    import numpy as np

    target = np.ones(len(ones))
    (alpha, per_byte), *_ = np.linalg.lstsq(np.stack([ones, sizes], axis=1), target, rcond=None)
    if alpha < 0:
        alpha, per_byte = 0.0, float(sizes @ target / (sizes @ sizes))
    if per_byte <= 0:
        raise ConfigError(
            "a collective did not take longer for larger messages, so it has no bandwidth. "
            "Measure larger sizes.",
        )
    return float(alpha), float(per_byte)


def _entry(
    by_op: Mapping[str, Sequence[Point]], count: int, bytes_per_value: int
) -> dict[str, Any]:
    linear = _of(by_op, "linear", count)
    large = [p for p in linear if p["m"] >= LARGE_M]
    small = [p for p in linear if p["m"] <= SMALL_M]
    dispatch = _of(by_op, "dispatch", count)
    copies = _of(by_op, "copy", count)
    attention = [p for p in _of(by_op, "sdpa", count) if p["queries"] > 1]
    return {
        "active_ranks": count,
        "gemm_flops_per_s": _rate(large, gemm_flops, f"linear points with m >= {LARGE_M}", count),
        "read_bytes_per_s": read_rate(small, bytes_per_value, count),
        "linear": linear_curve(linear),
        "dispatch_s": 1 / _rate(dispatch, lambda p: float(p["ops"]), "dispatch points", count),
        "copy_bytes_per_s": _rate(copies, lambda p: p["bytes"], "", count) if copies else None,
        "attention_flops_per_s": (
            _rate(attention, attention_flops, "", count) if attention else None
        ),
        "num_points": {"large": len(large), "small": len(small), "dispatch": len(dispatch)},
    }


def read_rate(points: Sequence[Point], bytes_per_value: int, count: int) -> float:
    """Weight bytes over seconds of the m that reads fastest: a CPU is slower already at m = 8."""
    what = f"linear points with m <= {SMALL_M}"
    rates = [
        _rate([p for p in points if p["m"] == m], weight_values, what, count)
        for m in {p["m"] for p in points}
    ]
    if not rates:
        raise ConfigError(
            f"the microbenchmark has no {what} for {count} active ranks. Run it again."
        )
    return max(rates) * bytes_per_value


def linear_curve(points: Sequence[Point]) -> list[list[float]]:
    """[m, seconds per weight value] for each m measured: total time over total n * k."""
    by_m: dict[int, list[Point]] = defaultdict(list)
    for point in points:
        by_m[int(point["m"])].append(point)
    return [[m, 1 / _rate(found, weight_values, "", 0)] for m, found in sorted(by_m.items())]


def weight_values(point: Point) -> float:
    """n k."""
    return float(point["n"]) * float(point["k"])


def gemm_flops(point: Point) -> float:
    """2 m n k."""
    return 2.0 * float(point["m"]) * float(point["n"]) * float(point["k"])


def attention_flops(point: Point) -> float:
    """4 b N H operations per causal pair of query and key: q queries end a context of S.

    Pairs: q S - q (q - 1) / 2; with q = S this is S (S + 1) / 2.
    """
    queries, context = point["queries"], point["context"]
    pairs = queries * context - queries * (queries - 1) / 2
    return 4.0 * float(point["batch"] * point["heads"] * point["head_dim"] * pairs)


def _rate(points: Sequence[Point], work: Callable[[Point], float], what: str, count: int) -> float:
    """Total work over total seconds."""
    seconds = sum(float(p["seconds"]) for p in points)
    if not points or seconds <= 0:
        raise ConfigError(
            f"the microbenchmark has no {what} for {count} active ranks. Run it again.",
        )
    return float(sum(work(p) for p in points) / seconds)


def _of(by_op: Mapping[str, Sequence[Point]], op: str, count: int) -> list[Point]:
    return [p for p in by_op.get(op, ()) if p["active_ranks"] == count]


def _by_op(points: Sequence[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        found[str(point["op"])].append(point)
    return found
