"""Figures of recorded runs: a row a run, nothing counted twice, the same bytes each time."""

from collections import Counter, defaultdict
from typing import Any

import pytest
from document_parts import TRACES, evidence_of

from perfkit.compare.frozen import read_frozen
from perfkit.documents.accuracy_tables import FROZEN, Predictions, read_predictions, score_table
from perfkit.documents.evidence import Evidence
from perfkit.documents.figures import DocFigure, pdf_of
from perfkit.documents.measured_tables import runs_table
from perfkit.documents.run_figures import error_figure, memory_figure, step_figure
from perfkit.documents.scaling_tables import scaling_of

# The first three differ in their prompts or their network alone.
RUNS = (
    "h200-8b-tp1-graph",
    "h200-8b-tp1-p512-graph",
    "h200-8b-pp2-m1-sockets-graph",
    "h200-8b-fp16-tp1-graph",
    "h200-nsys-8b-tp1-graph",
    "scored/h200-8b-b1-p1024-graph",
)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return evidence_of(*(TRACES / name for name in RUNS))


@pytest.fixture(scope="module")
def predictions(evidence: Evidence) -> Predictions:
    return read_predictions(evidence, [read_frozen(TRACES / "frozen-pair-8b.json")])


def values(figure: DocFigure, layer: int | None = None) -> list[dict[str, Any]]:
    """The data that a figure, or a layer of it, draws."""
    assert figure.spec is not None
    spec: Any = figure.spec if layer is None else figure.spec["layer"][layer]
    found: list[dict[str, Any]] = figure.spec["datasets"][spec["data"]["name"]]
    return found


def test_the_parts_of_each_step_are_the_step(evidence: Evidence) -> None:
    whole: dict[str, float] = defaultdict(float)
    in_no_series = scaling_of(Evidence(runs=()))
    for bar in values(step_figure(evidence, in_no_series)):
        whole[bar["run"]] += bar["share"]
    assert set(whole) == {name for name in RUNS if "/" not in name}
    assert list(whole.values()) == pytest.approx([1.0] * len(whole))


def test_steps_are_of_runs_that_do_the_same_work_where_there_are_such(evidence: Evidence) -> None:
    assert step_figure(evidence, scaling_of(evidence)).runs == (
        "h200-8b-tp1-graph",
        "h200-8b-pp2-m1-sockets-graph",
    )


def test_each_run_has_one_measured_point_of_memory(evidence: Evidence) -> None:
    points = Counter(point["run"] for point in values(memory_figure(evidence), 2))
    assert points == {
        "h200-nsys-8b-tp1-graph": 1,
        "h200-8b-pp2-m1-sockets-graph": 1,
        "h200-8b-fp16-tp1-graph": 1,
    }


def test_what_was_predicted_before_its_run_is_shown_as_it_was(
    evidence: Evidence, predictions: Predictions
) -> None:
    table = runs_table(evidence, predictions)
    cells = {row[0].text: row for row in table.rows}["h200-8b-b1-p1024-graph"]
    (tpot,) = predictions.frozen.filter(measure="tpot_s").to_dicts()
    assert cells[8].text == f"{1e3 * tpot['predicted']:.2f} *"
    assert cells[8].query == "frozen.tpot_s.predicted"
    assert "* predicted, and the prediction kept, before the run started." in table.note
    score = score_table(FROZEN, predictions.frozen).rows[3]
    assert (score[0].text, score[2].text, score[2].runs) == (
        "TPOT",
        "1",
        ("h200-8b-b1-p1024-graph",),
    )
    assert "h200-8b-b1-p1024-graph" not in predictions.again["run"].to_list()


def test_only_tests_of_a_prediction_have_an_error(
    evidence: Evidence, predictions: Predictions
) -> None:
    """Not a run that the rates are from, nor one that was timed inside a profiler."""
    table = runs_table(evidence, predictions)
    errors = {row[0].text: row[9].text for row in table.rows}
    assert [name for name, error in errors.items() if error == "-"] == [
        "h200-8b-tp1-graph",
        "h200-nsys-8b-tp1-graph",
    ]
    titles = [row[0].text for row in table.rows if not row[1].text]
    assert titles == ["timed inside a profiler around the process: the times carry its cost"]
    assert table.rows[-1][0].text == "h200-nsys-8b-tp1-graph"
    drawn = error_figure(evidence, predictions).runs
    assert "h200-8b-tp1-graph" not in drawn
    assert "h200-nsys-8b-tp1-graph" not in drawn
    assert len(drawn) == 4


def test_a_figure_has_the_same_bytes_each_time(
    evidence: Evidence, predictions: Predictions
) -> None:
    """Transparent ranges are resources of the page, which would come in any order."""
    figure = error_figure(evidence, predictions)
    assert len({pdf_of(figure) for _attempt in range(8)}) == 1
