"""From raw timings to rates."""

from typing import Any

import pytest

from perfkit.calibrate.fit import fit, fit_link
from perfkit.errors import ConfigError
from perfkit.predict.cards import load_spec
from perfkit.predict.plan import Plan
from perfkit.predict.rates import rates_from_calibration, ring_all_reduce
from perfkit.predict.time import predict


def compute_points(active: int, *, slower: float = 1.0) -> list[dict[str, Any]]:
    """100 GFLOP/s, 10 GB/s and 5 us a dispatch, divided by `slower`."""
    points: list[dict[str, Any]] = []
    for m in (1, 8, 256):
        flops, read = 2 * m * 1000 * 1000, 1000 * 1000 * 4
        seconds = slower * max(flops / 1e11, read / 1e10 if m <= 8 else 0)
        points.append({"op": "linear", "m": m, "n": 1000, "k": 1000, "seconds": seconds})
    points.append({"op": "dispatch", "ops": 100, "seconds": slower * 500e-6})
    points.append({"op": "copy", "bytes": 10**6, "seconds": slower * 1e-4})
    return [{**point, "active_ranks": active} for point in points]


def link_points(op: str, *, alpha_s: float = 20e-6, rate: float = 1e9) -> list[dict[str, Any]]:
    sizes = (1024, 65536, 2**20)
    return [
        {"op": op, "group": 2, "bytes": size, "seconds": alpha_s + size / rate} for size in sizes
    ]


def measured(**changes: Any) -> dict[str, Any]:
    points = [
        *compute_points(1),
        *compute_points(4, slower=2),
        *link_points("all_reduce"),
        *link_points("send_recv", alpha_s=10e-6),
    ]
    facts = {"device": "cpu", "device_name": "a CPU", "dtype": "float32", "threads": 1}
    return {**facts, "num_ranks": 4, "tp": 2, "pp": 2, "points": points, **changes}


def test_rates_are_those_that_made_the_points() -> None:
    document = fit(measured(), date="2026-11-22")
    one, four = document["compute"]
    assert (one["active_ranks"], four["active_ranks"]) == (1, 4)
    assert one["gemm_flops_per_s"] == pytest.approx(1e11)
    assert one["read_bytes_per_s"] == pytest.approx(1e10)
    assert one["dispatch_s"] == pytest.approx(5e-6)
    assert four["gemm_flops_per_s"] == pytest.approx(5e10)
    assert document["all_reduce"]["2"]["alpha_s"] == pytest.approx(20e-6)
    assert document["all_reduce"]["2"]["bytes_per_s"] == pytest.approx(1e9)
    assert document["all_reduce"]["2"]["mean_error"] == pytest.approx(0, abs=1e-9)
    assert document["source"] == "microbenchmark"
    assert document["date"] == "2026-11-22"


def test_a_negative_latency_is_set_to_zero() -> None:
    found = fit_link([(1000, 1e-6), (2000, 3e-6)])
    assert found["alpha_s"] == 0
    assert found["bytes_per_s"] > 0


def test_a_collective_that_does_not_grow_has_no_bandwidth() -> None:
    with pytest.raises(ConfigError, match="Measure larger sizes"):
        fit_link([(1000, 3e-6), (2000, 1e-6)])


def test_one_size_is_not_enough() -> None:
    with pytest.raises(ConfigError, match="two sizes or more"):
        fit_link([(1000, 3e-6), (1000, 1e-6)])


@pytest.mark.parametrize(
    ("op", "message"),
    [("linear", "no linear points"), ("dispatch", "no dispatch points for 1 active ranks")],
)
def test_missing_points_are_named(op: str, message: str) -> None:
    points = [point for point in measured()["points"] if point["op"] != op]
    with pytest.raises(ConfigError, match=message):
        fit(measured(points=points), date="2026-11-22")


def test_missing_facts_are_named() -> None:
    with pytest.raises(ConfigError, match="no dtype"):
        fit(measured(dtype=None), date="2026-11-22")


def test_rates_of_the_next_larger_number_of_active_ranks_are_taken() -> None:
    rates = rates_from_calibration(fit(measured(), date="2026-11-22"))
    assert rates.at(1).gemm_flops_per_s == pytest.approx(1e11)
    assert rates.at(2).gemm_flops_per_s == pytest.approx(5e10)
    with pytest.raises(ConfigError, match="no rates for 8 active ranks; it measured 1, 4"):
        rates.at(8)


def test_another_dtype_is_refused() -> None:
    document = fit(measured(), date="2026-11-22")
    with pytest.raises(ConfigError, match="is for float32, but bfloat16 was asked"):
        rates_from_calibration(document, "bfloat16")


def test_an_unmeasured_group_is_refused() -> None:
    rates = rates_from_calibration(fit(measured(), date="2026-11-22"))
    with pytest.raises(ConfigError, match=r"group of 4; measured groups: 2\. Calibrate with tp=4"):
        rates.all_reduce_s(4, 100)
    assert rates.all_reduce_s(1, 100) == 0


def test_a_calibration_without_pipeline_refuses_stages() -> None:
    points = [point for point in measured()["points"] if point["op"] != "send_recv"]
    rates = rates_from_calibration(fit(measured(points=points), date="2026-11-22"))
    plan = Plan(pp=2, dtype="float32", prompt_tokens=16, new_tokens=4)
    with pytest.raises(ConfigError, match="no send_recv"):
        predict(load_spec("smollm2-135m-instruct"), rates, plan)


def test_a_calibrated_prediction_says_so() -> None:
    rates = rates_from_calibration(fit(measured(), date="2026-11-22"))
    plan = Plan(tp=2, pp=2, batch=2, microbatches=2, dtype="float32", prompt_tokens=16)
    found = predict(load_spec("smollm2-135m-instruct"), rates, plan)
    assert found["rates"] == "microbenchmark"
    assert found["provenance"]["dispatch_s"] == "microbenchmark"


def test_a_ring_of_eight_moves_seven_quarters_of_the_data() -> None:
    assert ring_all_reduce(8, 450e9).bytes_per_s == pytest.approx(257e9, rel=0.001)


def test_a_linear_layer_takes_its_time_from_the_measured_curve() -> None:
    document = fit(measured(), date="2026-11-22")
    one = rates_from_calibration(document).at(1)
    at = {m: one.gemm_s(m, 10**6, 0, 0) for m in (1, 8, 45, 256, 512)}
    assert at[1] == at[8] == pytest.approx(400e-6)
    assert at[256] == pytest.approx(2 * 256e6 / 1e11)
    assert at[8] < at[45] < at[256]
    assert at[512] == pytest.approx(2 * at[256])


def test_weights_are_read_at_the_rate_of_the_fastest_m() -> None:
    slower_at_8 = [
        {**point, "seconds": 3 * point["seconds"]} if point.get("m") == 8 else point
        for point in measured()["points"]
    ]
    document = fit(measured(points=slower_at_8), date="2026-11-22")
    assert document["compute"][0]["read_bytes_per_s"] == pytest.approx(1e10)
