"""Node-hours in every unit: what sites bill is data of the system file."""

import pytest

from perfkit.allocation.units import amount, billed_part, conversions
from perfkit.study.systems import load_system

LEONARDO, LUMI, KAROLINA = (load_system(name) for name in ("leonardo", "lumi-g", "karolina-gpu"))


def test_leonardo_counts_32_core_hours_and_4_gpu_hours_for_a_node_hour() -> None:
    asked = amount(4500, LEONARDO)
    assert (asked.gpu_hours, asked.local, asked.unit) == (18_000, 144_000, "local core-hours")


def test_lumi_counts_4_gpu_hours_for_8_gcds() -> None:
    asked = amount(2000, LUMI)
    assert (asked.gpu_hours, asked.local, asked.unit) == (16_000, 8_000, "GPU-hours")


def test_a_system_without_billing_has_no_local_units() -> None:
    asked = amount(10, load_system("dev-cluster"))
    assert (asked.local, asked.unit) == (None, None)


@pytest.mark.parametrize(
    ("system", "gpus", "exclusive", "part"),
    [
        (LEONARDO, 1, False, 0.25),
        (LEONARDO, 4, False, 1.0),
        (LEONARDO, 1, True, 1.0),
        (LUMI, 1, False, 1.0),
        (KAROLINA, 2, False, 0.25),
    ],
)
def test_a_part_of_a_node_costs_its_share_where_nodes_are_shared(
    system: object, gpus: int, exclusive: bool, part: float
) -> None:
    assert billed_part(system, gpus, exclusive=exclusive) == part  # type: ignore[arg-type]


def test_conversions_list_every_unit_that_is_known() -> None:
    assert [(unit, factor) for unit, factor, _why in conversions(LEONARDO)] == [
        ("node-hour", 1.0),
        ("GPU-hour", 4.0),
        ("core-hour", 32.0),
        ("local core-hours", 32),
    ]
