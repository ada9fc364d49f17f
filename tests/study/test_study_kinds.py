"""What each kind of study must vary, points that are listed, and batches that grow with GPUs."""

from typing import Any

import pytest
from builders import a_study, a_system

from perfkit.errors import ConfigError
from perfkit.predict.cards import load_spec
from perfkit.study.kinds import combinations, wrong_for_kind
from perfkit.study.points import Point, expand

LLAMA_8B = load_spec("llama-3.1-8b")


def said(kind: str, *points: dict[str, Any], run: dict[str, Any] | None = None, **axes: Any) -> str:
    return " ".join(wrong_for_kind(kind, combinations(run or {}, points, axes)))


def names(**study: Any) -> list[str]:
    return [point.name for point in expanded(**study)]


def expanded(**study: Any) -> list[Point]:
    return expand(a_study(**study), a_system(), LLAMA_8B)


@pytest.mark.parametrize(
    ("kind", "run", "axes"),
    [
        ("strong-scaling", {"batch": 8}, {"tp": (1, 2), "pp": (1, 2)}),
        ("strong-scaling", {}, {"pp": (1, 2), "batch": (1, 8)}),
        ("weak-scaling", {"batch_per_gpu": 4}, {"pp": (1, 2)}),
        ("batch", {}, {"batch": (1, 2)}),
        ("precision", {}, {"dtype": ("float32", "bfloat16")}),
        ("precision", {}, {"quantize": ("none", "int8")}),
        ("context", {}, {"prompt_tokens": (64, 128)}),
        ("profiler-overhead", {}, {"collect": ("none", "nsys")}),
        ("batch", {"batch_per_gpu": 2}, {"tp": (1, 2)}),
    ],
)
def test_studies_that_are_what_they_say(
    kind: str, run: dict[str, Any], axes: dict[str, Any]
) -> None:
    assert said(kind, run=run, **axes) == ""


@pytest.mark.parametrize(
    ("kind", "axes", "expected"),
    [
        ("strong-scaling", {"batch": (1, 2)}, "compares numbers of GPUs. Vary tp or pp."),
        ("weak-scaling", {"tp": (1, 2)}, "Give batch_per_gpu instead of batch"),
        ("batch", {"tp": (1, 2)}, "compares values of batch."),
        ("precision", {"tp": (1, 2)}, "compares values of dtype or quantize."),
        ("context", {"batch": (1, 2)}, "compares values of prompt_tokens."),
        ("profiler-overhead", {"collect": ("nsys", "kineto")}, 'Add "none" to collect.'),
    ],
)
def test_studies_that_are_not(kind: str, axes: dict[str, Any], expected: str) -> None:
    assert expected in said(kind, **axes)


def test_a_batch_that_grows_is_no_strong_scaling() -> None:
    growing = ({"tp": 1, "batch": 4}, {"tp": 2, "batch": 8})
    assert "does the same work on every number of GPUs" in said("strong-scaling", *growing)
    assert said("weak-scaling", *growing) == ""


def test_a_study_without_a_kind_may_vary_anything() -> None:
    assert wrong_for_kind(None, [{}]) == []


def test_listed_points_vary_together_and_with_every_value_of_the_axes() -> None:
    points = ({"tp": 1, "batch": 4}, {"tp": 2, "batch": 8})
    assert names(points=points, axes={"decode": ("eager", "graph")}) == [
        *("tp1-pp1-b4-eager-r1", "tp1-pp1-b4-graph-r1"),
        *("tp2-pp1-b8-eager-r1", "tp2-pp1-b8-graph-r1"),
    ]


def test_the_batch_is_that_of_every_gpu_times_their_number() -> None:
    found = expanded(run={"batch_per_gpu": 3}, axes={"tp": (1, 2), "pp": (1, 2)})
    assert [point.batch for point in found] == [3, 6, 6, 12]
    assert "batch_per_gpu" not in found[0].settings
    assert names(axes={"tp": (1, 2), "batch_per_gpu": (1, 4)}) == [
        *("tp1-pp1-b1-r1", "tp1-pp1-b4-r1", "tp2-pp1-b2-r1", "tp2-pp1-b8-r1")
    ]


def test_words_that_mean_two_options_have_the_option_in_the_name() -> None:
    axes = {"dtype": ("float16",), "quantize": ("none",), "collect": ("none", "nsys,nvml")}
    assert names(axes=axes) == [
        "tp1-pp1-float16-q+none-none-r1",
        "tp1-pp1-float16-q+none-nsys+nvml-r1",
    ]


def test_two_points_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="have the same name, tp1-pp1-r"):
        expanded(points=({"tp": 1, "pp": 1}, {"tp": 1}))


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        ({"sharding": "none", "tp": 2}, "nothing would be divided"),
        ({"split": "balanced", "pp": 40}, "pp=40 for 32 layers"),
    ],
)
def test_options_that_a_run_would_refuse_are_refused_before(
    run: dict[str, Any], reason: str
) -> None:
    (point,) = expanded(run=run)
    assert reason in str(point.refused)


def test_a_balanced_split_is_taken() -> None:
    (point,) = expanded(run={"split": "balanced", "pp": 2})
    assert point.refused is None


def test_experts_are_not_quantised() -> None:
    (point,) = expand(a_study(run={"quantize": "int8"}), a_system(), load_spec("mixtral-8x7b"))
    assert "mixtral-8x7b has experts, which are not quantised" in str(point.refused)
