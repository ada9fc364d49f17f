"""This machine as a system: processors, and GPUs as recorded runs found them."""

from pathlib import Path
from typing import Any

import pytest
from builders import a_study

from perfkit.predict.cards import load_spec
from perfkit.schema import read_json
from perfkit.study.forecast import forecast
from perfkit.study.points import Point, expand
from perfkit.submit.here import device_here, notes_here, place_here, target_here, this_machine

TRACES = Path(__file__).parents[2] / "traces"
LLAMA_8B = load_spec("llama-3.1-8b")
LLAMA_70B = load_spec("llama-3.3-70b")
CPUS: dict[str, Any] = {
    "host": "laptop",
    "cpu": "Some CPU",
    "cores": 4,
    "memory_bytes": 16 * 2**30,
    "gpus": [],
}


def recorded(run: str) -> dict[str, Any]:
    """host_facts of a machine with GPUs."""
    facts: dict[str, Any] = read_json(TRACES / run / "run.json")["hardware"]
    return facts


def points(facts: dict[str, Any], **study: Any) -> list[Point]:
    return expand(a_study(**study), this_machine(facts), LLAMA_8B, place_here)


def test_two_h200_are_known_by_what_nvidia_smi_calls_them() -> None:
    found = this_machine(recorded("h200-8b-tp2"))
    assert (found.device, found.gpus_per_node, found.gpu) == ("cuda", 2, "h200-sxm")
    assert str(found.hardware).endswith("2 x NVIDIA H200")


def test_a_machine_without_gpus_runs_on_its_processors() -> None:
    found = this_machine(CPUS)
    assert (found.device, found.gpu) == ("cpu", None)
    assert found.title == "laptop: 4 cores of Some CPU, no GPU"


def test_ranks_need_a_gpu_each() -> None:
    one, two, four = points(recorded("h200-8b-tp2"), axes={"tp": (1, 2, 4)})
    assert (one.refused, two.refused) == (None, None)
    assert four.refused == "tp * pp = 4 ranks need as many GPUs; this machine has 2."


def test_any_number_of_ranks_share_the_processors_and_that_is_noted() -> None:
    (point,) = points(CPUS, run={"tp": 2, "pp": 4})
    assert point.placement is not None
    assert (point.placement.nodes, point.placement.tasks_per_node) == (1, 8)
    study = a_study(stages_per_node=1)
    assert notes_here(study, this_machine(CPUS), [8]) == [
        "[job] stages_per_node has no effect: all ranks are on this machine",
        "points of up to 8 ranks share 4 cores",
    ]
    assert notes_here(a_study(), this_machine(CPUS), [4]) == []


def test_a_study_may_leave_the_gpus_alone() -> None:
    facts = recorded("h200-8b-tp2")
    study = a_study(run={"device": "cpu"}, axes={"tp": (8,)})
    (point,) = expand(study, this_machine(facts), LLAMA_8B, place_here)
    assert point.refused is None
    assert device_here(study, this_machine(facts)) == "cpu"


def test_memory_and_time_are_predicted_for_the_gpu_that_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """README, h200-70b-tp2-graph: 71.7 GiB in use; TTFT 280 ms and 32 steps of 18.9 ms."""
    monkeypatch.setenv("PERFKIT_CACHE_DIR", str(tmp_path))
    facts = recorded("h200-8b-tp2")
    run = {"tp": 2, "prompt_tokens": 2048, "new_tokens": 33, "decode": "graph"}
    machine = this_machine(facts)
    (point,) = expand(a_study(run=run), machine, LLAMA_70B, place_here)
    target = target_here(machine, "cuda", None, facts)
    found = forecast(point.settings, LLAMA_70B, target, point.placement)
    assert found.fits == "fits"
    assert found.memory_bytes / 2**30 == pytest.approx(71.7, rel=0.05)
    assert found.pass_s == pytest.approx(0.280 + 32 * 0.0189, rel=0.05)


def test_a_gpu_that_is_not_in_the_tables_is_told() -> None:
    facts = {**CPUS, "gpus": [{"name": "NVIDIA Something 9000"}]}
    machine = this_machine(facts)
    assert notes_here(a_study(), machine, [1]) == [
        "models/gpus.toml does not know this GPU: nothing is predicted for it"
    ]
    (point,) = expand(a_study(run={"prompt_tokens": 64}), machine, LLAMA_8B, place_here)
    found = forecast(point.settings, LLAMA_8B, target_here(machine, "cuda", None, facts))
    assert found.no_time == "models/gpus.toml does not know the GPU of this machine"
    assert found.unfit is None
