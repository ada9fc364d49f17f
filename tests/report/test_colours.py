"""Colours are told apart by everybody, and from the page, light and dark."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from colour import closest, contrast

from perfkit.report import charts, class_charts, scaling_charts, side_by_side_charts

LIGHT_PANEL, DARK_PANEL = "#f6f7f9", "#1d2126"
"""what charts stand on: --panel of style.css"""
STYLE = Path(charts.__file__).with_name("templates") / "style.css"
OPS = {op: colour for op, (colour, _shape) in class_charts.OPS.items()}
SETS: dict[str, Mapping[str, str]] = {
    "split": charts.SPLIT_COLOURS,
    "lanes": charts.LANE_COLOURS,
    "step": side_by_side_charts.STEP_COLOURS,
    "memory": charts.MEMORY_COLOURS,
    "scaling": scaling_charts.KINDS,
    "collectives": OPS,
}
# Idle time is when nothing happens: it is pale. Parts of memory are outlined in PREDICTED instead.
PALE = {charts.SPLIT_COLOURS["idle"], *charts.MEMORY_COLOURS.values()} - {charts.PREDICTED}


def dark(colour: str) -> str:
    return charts.DARK_COLOURS.get(colour, colour)


def test_the_panels_are_those_of_the_style() -> None:
    panels = re.findall(r"--panel: (#\w+)", STYLE.read_text(encoding="utf-8"))
    assert panels == [LIGHT_PANEL, DARK_PANEL]


def test_black_and_white_are_as_far_apart_as_can_be() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_red_and_green_of_one_lightness_are_alike_without_green_cones() -> None:
    assert closest(["#A06000", "#608000"]) < 12
    assert closest(["#000000", "#ffffff"]) == pytest.approx(100, abs=1)


@pytest.mark.parametrize("name", SETS)
def test_marks_stand_out_from_a_light_and_from_a_dark_page(name: str) -> None:
    for what, colour in SETS[name].items():
        if colour not in PALE:
            assert contrast(colour, LIGHT_PANEL) >= 3, (what, "light")
            assert contrast(dark(colour), DARK_PANEL) >= 3, (what, "dark")


# Collectives differ in shape, too.
@pytest.mark.parametrize(("name", "least"), [*dict.fromkeys(SETS, 14.0).items()][:-1])
def test_colours_of_one_chart_differ_for_every_kind_of_sight(name: str, least: float) -> None:
    colours = SETS[name].values()
    assert closest(colours) >= least
    assert closest(map(dark, colours)) >= least


def test_collectives_differ_in_shape_and_hardly_alike_in_colour() -> None:
    shapes = [shape for _colour, shape in class_charts.OPS.values()]
    assert len(set(shapes)) == len(shapes)
    assert closest(OPS.values()) >= 8


def test_text_is_read_on_both_pages() -> None:
    style = STYLE.read_text(encoding="utf-8")
    for page in ("page", "panel"):
        for text in ("ink", "quiet", "link"):
            behind, front = (re.findall(rf"--{name}: (#\w+)", style) for name in (page, text))
            light, night = (contrast(a, b) for a, b in zip(front, behind, strict=True))
            assert light >= 4.5, (text, page)
            assert night >= 4.5, (text, page, "dark")
