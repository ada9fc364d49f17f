"""Charts say what the frames say: what is missing stays missing, names stay data."""

import json
from typing import Any

import polars as pl

from perfkit.report import charts

ROW: dict[str, Any] = {
    "title": "TTFT [ms]",
    "predicted": 100.0,
    "measured": 110.0,
    "measured_min": 105.0,
    "measured_max": 120.0,
}
UNMEASURED = ROW | dict.fromkeys(("measured", "measured_min", "measured_max"))
MEMORY: dict[str, Any] = {
    "label": "rank 0",
    "weights": 1.0,
    "KV cache": 0.5,
    "activations": 0.25,
    "overhead": 0.0,
    "predicted total": 1.75,
    "measured parameters": 1.0,
    "measured in use": None,
    "capacity": None,
}
EVIL = "rank 0 '\"</script><script>alert(1)</script>"


def values(figure: charts.Figure) -> list[dict[str, Any]]:
    """Every inline data row of a chart."""
    return [row for rows in figure.spec["datasets"].values() for row in rows]


def test_predicted_and_measured_differ_in_mark_and_colour() -> None:
    (figure,) = charts.headline_figures([ROW])
    layer = figure.spec["layer"][-1]["encoding"]
    assert layer["shape"]["scale"]["range"] == ["diamond", "circle"]
    assert layer["stroke"]["scale"]["range"] == [charts.PREDICTED, charts.MEASURED]
    assert layer["x"]["title"] == "TTFT [ms]"
    assert figure.alt == "TTFT [ms]: predicted 100, measured 110 (105 to 120)."


def test_a_measure_with_neither_number_has_no_chart() -> None:
    assert charts.headline_figures([UNMEASURED | {"predicted": None}]) == []


def test_what_was_not_measured_has_no_point_and_says_so() -> None:
    (figure,) = charts.headline_figures([UNMEASURED])
    assert [row["what"] for row in values(figure)] == ["predicted"]
    assert "measured not known" in figure.alt


def test_a_rank_without_a_trace_keeps_an_empty_row() -> None:
    parts = dict.fromkeys(charts.SPLIT_COLOURS, 0.25)
    shares = pl.DataFrame(
        [{"label": "rank 0", **parts}, {"label": "rank 1: no trace", **dict.fromkeys(parts)}],
        schema={"label": pl.String, **dict.fromkeys(parts, pl.Float64)},
    )
    figure = charts.split_figure(shares, "Decode")
    assert {row["rank"] for row in values(figure)} == {"rank 0"}
    assert figure.spec["encoding"]["y"]["scale"]["domain"] == ["rank 0", "rank 1: no trace"]
    assert "rank 1: no trace: not measured" in figure.alt
    assert "compute 25 %, exposed communication 25 %, copy 25 %, idle 25 %" in figure.alt


def test_memory_draws_only_what_is_known() -> None:
    figure = charts.memory_figure([MEMORY], "GiB")
    assert figure is not None
    assert [layer["mark"]["type"] for layer in figure.spec["layer"]] == ["bar", "point"]
    assert figure.alt.endswith("measured in use not known, capacity not known.")
    nothing = dict.fromkeys(MEMORY) | {"label": "rank 0"}
    assert charts.memory_figure([nothing], "GiB") is None


def test_charts_name_no_address_and_names_are_data_only() -> None:
    figure = charts.memory_figure([MEMORY | {"label": EVIL}], "GiB")
    assert figure is not None
    assert "http" not in json.dumps(figure.spec)
    assert EVIL not in json.dumps({k: v for k, v in figure.spec.items() if k == "config"})
    assert {row["rank"] for row in values(figure)} == {EVIL}


def test_many_ranks_make_low_rows_and_a_short_sentence() -> None:
    rows = [MEMORY | {"label": f"rank {rank}"} for rank in range(256)]
    figure = charts.memory_figure(rows, "GiB")
    assert figure is not None
    assert figure.spec["height"] <= 1600
    assert figure.alt.count("predicted total") == charts.NAMED_RANKS
    assert "248 more ranks" in figure.alt
