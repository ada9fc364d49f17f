"""Points of a study: combinations, nodes, reasons to skip one, predicted memory."""

import pytest
from builders import a_study, a_system

from perfkit.errors import ConfigError
from perfkit.predict.cards import load_spec
from perfkit.predict.gpus import load_gpu
from perfkit.study.forecast import Target, forecast
from perfkit.study.points import Point, expand, place_ranks

LLAMA_8B = load_spec("llama-3.1-8b")
LLAMA_70B = load_spec("llama-3.3-70b")


def points(**study: object) -> list[Point]:
    return expand(a_study(**study), a_system(), LLAMA_8B)


def test_every_combination_is_a_point_as_often_as_asked() -> None:
    found = points(axes={"pp": (1, 2), "batch": (1, 8)}, repeats=2)
    assert [point.name for point in found] == [
        *("tp1-pp1-b1-r1", "tp1-pp1-b1-r2", "tp1-pp1-b8-r1", "tp1-pp1-b8-r2"),
        *("tp1-pp2-b1-r1", "tp1-pp2-b1-r2", "tp1-pp2-b8-r1", "tp1-pp2-b8-r2"),
    ]


def test_settings_are_those_of_the_study_and_the_systems_device() -> None:
    (point,) = points(run={"new_tokens": 16, "batch": 2})
    assert point.settings == {"tp": 1, "pp": 1, "batch": 2, "new_tokens": 16, "device": "cuda"}


@pytest.mark.parametrize(
    ("tp", "pp", "stages_per_node", "nodes", "tasks_per_node"),
    [
        (1, 1, None, 1, 1),
        (2, 2, None, 1, 4),
        # Two stages have room, but three do not fill nodes evenly.
        (2, 3, None, 3, 2),
        (2, 4, None, 2, 4),
        (1, 8, None, 2, 4),
        (2, 2, 1, 2, 2),
        (2, 1, 2, 1, 2),
        (4, 3, None, 3, 4),
    ],
)
def test_stages_fill_nodes_evenly_and_stay_whole(
    tp: int, pp: int, stages_per_node: int | None, nodes: int, tasks_per_node: int
) -> None:
    study = a_study(stages_per_node=stages_per_node)
    place = place_ranks(study, a_system(), tp, pp)
    assert (place.nodes, place.tasks_per_node, place.cpus_per_task) == (nodes, tasks_per_node, 8)


@pytest.mark.parametrize(
    ("study", "system", "reason"),
    [
        ({"axes": {"tp": (16,)}}, {"gpus_per_node": 16}, "more than the 8 kv heads"),
        ({"axes": {"tp": (8,)}}, {}, "tp=8 does not fit into a node of 4"),
        ({"axes": {"pp": (33,)}}, {}, "pp=33 for 32 layers"),
        ({"axes": {"pp": (3,)}, "stages_per_node": 2}, {}, "does not divide pp=3"),
        ({"axes": {"tp": (4,)}, "stages_per_node": 2}, {}, "are 8 ranks; a node takes 4"),
        ({"axes": {"pp": (4,)}}, {"gpus_per_node": 1, "max_nodes": 2}, "4 nodes are more than"),
        ({"run": {"microbatches": 4}}, {}, "microbatches=4 is more than batch=1"),
        ({"run": {"prompt_tokens": 131_072}}, {}, "has 131072 positions"),
        ({"run": {"split": "16,15"}, "axes": {"pp": (2,)}}, {}, "does not give 32 layers"),
    ],
)
def test_a_point_that_cannot_run_keeps_its_reason(
    study: dict[str, object], system: dict[str, object], reason: str
) -> None:
    (point,) = expand(a_study(**study), a_system(**system), LLAMA_8B)
    assert point.placement is None
    assert point.refused is not None
    assert reason in point.refused


def test_uneven_shards_run_and_are_noted() -> None:
    (point,) = points(axes={"tp": (3,)})
    assert point.refused is None
    assert point.note == "tp=3 does not divide 8 kv heads: the ranks are uneven"


def test_a_system_without_its_gpus_cannot_place_anything() -> None:
    with pytest.raises(ConfigError, match="Give --gpus-per-node"):
        place_ranks(a_study(), a_system(gpus_per_node=None), 1, 1)


def on(gpu: str) -> Target:
    return Target(name="somewhere", gpu=load_gpu(gpu))


SEVENTY = {"tp": 2, "pp": 1, "batch": 1, "device": "cuda", "prompt_tokens": 2048}


def test_a_model_that_does_not_fit_is_refused_with_the_figures() -> None:
    """65.7 GiB are half of 70.55e9 parameters in bf16; the embedding is not cut: 1.0 more; KV 0.3,
    activations 0.3, CUDA and NCCL 2.0."""
    needs = forecast(SEVENTY, LLAMA_70B, on("a100-64-leonardo"))
    assert needs.fits == "does not fit"
    assert needs.unfit == "a rank needs 69.3 GiB, a100-64-leonardo has 64 GB"
    assert needs.pass_s is not None


def test_where_memory_is_known_by_its_data_sheet_only_there_is_no_verdict_that_it_fits() -> None:
    needs = forecast({**SEVENTY, "pp": 2}, LLAMA_70B, on("a100-64-leonardo"))
    assert (needs.fits, needs.unfit) == (None, None)


def test_where_nvml_has_been_read_there_is_a_verdict() -> None:
    needs = forecast(SEVENTY, LLAMA_70B, on("h200-sxm"))
    assert (needs.fits, needs.at_least) == ("fits", False)


def test_prompts_of_unknown_length_give_a_lower_bound_and_no_time() -> None:
    known = {key: value for key, value in SEVENTY.items() if key != "prompt_tokens"}
    needs = forecast(known, LLAMA_70B, on("h200-sxm"))
    assert needs.at_least
    assert needs.pass_s is None
    assert (
        needs.memory_bytes < forecast(SEVENTY, LLAMA_70B, Target(name="nothing known")).memory_bytes
    )


def test_on_cpus_there_is_no_gpu_to_fit() -> None:
    needs = forecast({**SEVENTY, "device": "cpu"}, LLAMA_70B, on("a100-64-leonardo"))
    assert (needs.fits, needs.unfit, needs.pass_s) == (None, None, None)
