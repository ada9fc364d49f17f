"""Several runs in words, from recorded runs."""

from pathlib import Path

from perfkit.report.runs_page import scaling_of
from perfkit.report.runs_summary import summary
from perfkit.report.side_by_side import find_all, runs_table

TRACES = Path(__file__).parents[2] / "traces"


def said_of(*names: str) -> list[str]:
    found, _unread = find_all([TRACES / name for name in names])
    return summary(runs_table(found), scaling_of(found))


def test_speed_prediction_and_scaling_of_one_and_two_gpus() -> None:
    assert said_of("h200-8b-tp1-graph", "h200-8b-tp2-graph") == [
        "llama-3.1-8b, NVIDIA H200, bfloat16: a token took 3.28 ms (h200-8b-tp2-graph) to 4.29 ms "
        "(h200-8b-tp1-graph).",
        "Predicted TPOT is within 10 % for 2 of 2 runs; furthest off is h200-8b-tp2-graph, by "
        "-4 %.",
        "Strong scaling of llama-3.1-8b to 2 GPUs (TP2 PP1): speed-up 1.25, parallel efficiency "
        "63 %.",
    ]


def test_of_several_series_the_best_is_told() -> None:
    names = [f"h200-8b-tp{tp}{batch}-graph" for tp in (1, 2) for batch in ("", "-b8", "-b32")]
    assert said_of(*names)[-1] == (
        "Strong scaling of llama-3.1-8b to 2 GPUs (TP2 PP1): speed-up 1.58, parallel efficiency "
        "79 %, the best of 3 series."
    )


def test_one_run_has_one_time_and_no_scaling() -> None:
    assert said_of("h200-8b-tp2-eager") == [
        "llama-3.1-8b, NVIDIA H200, bfloat16: a token took 39.8 ms (h200-8b-tp2-eager).",
        "Predicted TPOT is within 10 % for 0 of 1 runs; furthest off is h200-8b-tp2-eager, by "
        "-22 %.",
    ]


def test_of_nothing_nothing_is_said() -> None:
    assert said_of() == []
