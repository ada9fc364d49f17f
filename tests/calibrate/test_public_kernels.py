"""Kernels that others measured on an H200, predicted from some of them and from our own."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from perfkit.calibrate.fit_curves import DECODE, PREFILL, fit
from perfkit.predict.curve_files import find_curves
from perfkit.predict.curves import DecodeAttention, PrefillAttention

DATA = Path(__file__).parents[1] / "data" / "kernels"
HEAD_DIM = 128
BYTES = 2


def rows(name: str, part: str = "") -> dict[str, Any]:
    """Columns of a table's rows; seconds is one of them."""
    with (DATA / f"aic-h200-{name}.csv").open(encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if row.get("part", "") == part]
    numbers = [name for name in found[0] if name != "part"]
    columns = {name: np.array([float(row[name]) for row in found]) for name in numbers}
    return {**columns, "seconds": columns["milliseconds"] / 1e3}


def product(rows: dict[str, Any]) -> tuple[Any, Any]:
    m, n, k = rows["m"], rows["n"], rows["k"]
    return 2 * m * n * k, BYTES * (m * n + n * k + m * k)


def cache(rows: dict[str, Any]) -> tuple[Any, Any]:
    values = rows["batch"] * rows["context"] * rows["kv_heads"] * HEAD_DIM
    return 2 * BYTES * values, rows["batch"] * rows["heads"]


def triangle(rows: dict[str, Any]) -> tuple[Any, Any]:
    flops = 2 * rows["batch"] * rows["heads"] * HEAD_DIM * rows["tokens"] ** 2
    return flops, rows["tokens"]


def mean_error(predicted: Any, measured: Any) -> float:
    return float(np.abs(predicted / measured - 1).mean())


def sums_of_five(predicted: Any, measured: Any) -> float:
    groups = np.random.default_rng(0).choice(len(measured), (2000, 5))
    return mean_error(predicted[groups].sum(1), measured[groups].sum(1))


def test_the_shipped_curve_of_products_holds_on_somebody_elses_gpu() -> None:
    """Fitted to our own measurements: 10.5 % and 5.0 %; over all 23,902 shapes 10.1 % and 4.8 %."""
    shipped = find_curves("h200-sxm", "bfloat16")
    assert shipped is not None
    known, kept = rows("gemm", "fitted"), rows("gemm", "held out")
    every = {name: np.concatenate([known[name], kept[name]]) for name in known}
    predicted = shipped.curves.gemm.seconds(*product(every))
    assert mean_error(predicted, every["seconds"]) <= 0.11
    assert sums_of_five(predicted, every["seconds"]) <= 0.055


def test_forty_decode_attentions_predict_sixty_others() -> None:
    """6.4 %; over all 170 others of the table 7.2 %."""
    known, kept = rows("decode-attention", "fitted"), rows("decode-attention", "held out")
    assert (len(known["batch"]), len(kept["batch"])) == (40, 60)
    found = fit("decode", DecodeAttention, DECODE, cache(known), known["seconds"])
    curve = DecodeAttention(**found.values)
    assert mean_error(curve.seconds(*cache(kept)), kept["seconds"]) <= 0.07


def test_twenty_prefill_attentions_predict_forty_others() -> None:
    """4.5 %; over all 312 others of the table 5.4 %."""
    known, kept = rows("prefill-attention", "fitted"), rows("prefill-attention", "held out")
    assert (len(known["batch"]), len(kept["batch"])) == (20, 40)
    found = fit("prefill", PrefillAttention, PREFILL, triangle(known), known["seconds"])
    curve = PrefillAttention(**found.values)
    assert mean_error(curve.seconds(*triangle(kept)), kept["seconds"]) <= 0.05
