"""fp32 greedy tokens of the engine equal those of single-process Hugging Face generate."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import VARIANTS, save_tiny
from transformers import AutoModelForCausalLM

from perfkit.collect.launch import choose_master, engine_environment, local_place
from perfkit.engine.models import staged_folder

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("token_worker.py")
LAYOUTS = [(1, 1), (2, 1), (1, 2), (2, 2)]
MANY_RANKS = [(2, 3), (4, 2), (8, 1)]
SAME_LENGTH = [[5, 9, 33, 71], [8, 120, 4, 99], [77, 3, 15, 61], [42, 42, 7, 13]]
PADDED = [[5, 9, 33, 71, 12, 90, 31], [8, 120], [77, 3, 15, 61], [42]]
NEW_TOKENS = 14


def a_case(
    folder: Path, *, prompts: list[list[int]] = SAME_LENGTH, **changes: Any
) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "prompts": prompts,
        "microbatches": 1,
        "new_tokens": NEW_TOKENS,
        "eos": [],
        "pad": 0,
        **changes,
    }


def engine_tokens(
    tmp_path: Path, tp: int, pp: int, cases: list[dict[str, Any]]
) -> list[list[list[int]]]:
    """Run the cases on tp * pp local ranks, on GPUs where there are enough."""
    device = "cuda" if torch.cuda.device_count() >= tp * pp else "cpu"
    source, target = tmp_path / "cases.json", tmp_path / "tokens.json"
    layout = {"tp": tp, "pp": pp, "device": device}
    source.write_text(json.dumps([{**case, **layout} for case in cases]))
    place = local_place(tp * pp)
    master = choose_master(place, {})
    with (tmp_path / "ranks.log").open("wb") as log:
        ranks = [
            subprocess.Popen(
                [sys.executable, str(WORKER), str(source), str(target)],
                env=engine_environment(place, rank, master, os.environ),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            for rank in place.ranks
        ]
        codes = [rank.wait(timeout=300) for rank in ranks]
    assert codes == [0] * len(ranks), (tmp_path / "ranks.log").read_text()[-5000:]
    found: list[list[list[int]]] = json.loads(target.read_text())
    return found


def reference_tokens(case: dict[str, Any]) -> list[list[int]]:
    """The new tokens that plain generate gives for the same left-padded batch."""
    model = AutoModelForCausalLM.from_pretrained(case["folder"], dtype=torch.float32).eval()
    longest = max(len(ids) for ids in case["prompts"])
    rows = [[case["pad"]] * (longest - len(ids)) + ids for ids in case["prompts"]]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in case["prompts"]]
    model.generation_config.eos_token_id = case["eos"] or None
    tokens = model.generate(
        torch.tensor(rows),
        attention_mask=torch.tensor(mask),
        max_new_tokens=case["new_tokens"],
        do_sample=False,
        pad_token_id=case["pad"],
    )
    return [row[longest:] for row in tokens.tolist()]


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {variant: save_tiny(variant, root) for variant in VARIANTS}


@pytest.fixture(scope="module")
def smollm2() -> Path:
    folder = staged_folder("smollm2-135m-instruct")
    if not (folder / "config.json").is_file():
        pytest.skip("the demo model is not staged: perfkit fetch smollm2-135m-instruct")
    return folder


def with_eos(case: dict[str, Any]) -> dict[str, Any]:
    """The same case, ending at tokens that the reference really produces half-way."""
    tokens = reference_tokens(case)
    return {**case, "eos": sorted({tokens[0][4], tokens[2][7]})}


def tiny_cases(tiny_models: dict[str, Path]) -> list[dict[str, Any]]:
    """Every family; tied and untied; 1, 2 and 4 microbatches; padding; ends in the middle."""
    families = [a_case(folder, prompts=PADDED, microbatches=2) for folder in tiny_models.values()]
    main = [
        a_case(tiny_models[name], prompts=prompts, microbatches=m)
        for name in ("llama-untied", "llama-tied")
        for m in (1, 2, 4)
        for prompts in (SAME_LENGTH, PADDED)
    ]
    untied = tiny_models["llama-untied"]
    endings = [with_eos(a_case(untied, prompts=PADDED, microbatches=m)) for m in (1, 2, 4)]
    return [*families, *main, *endings]


def graph_cases(tiny_models: dict[str, Path]) -> list[dict[str, Any]]:
    """Static buffers instead of a growing cache: every family that has rotary positions."""
    rotary = [folder for name, folder in tiny_models.items() if name != "opt"]
    families = [a_case(f, prompts=PADDED, microbatches=2, decode="graph") for f in rotary]
    untied = tiny_models["llama-untied"]
    same = [a_case(untied, prompts=SAME_LENGTH, microbatches=m, decode="graph") for m in (1, 4)]
    return [*families, *same, with_eos(a_case(untied, prompts=PADDED, decode="graph"))]


def demo_cases(folder: Path) -> list[dict[str, Any]]:
    """The same with real weights."""
    cases = [a_case(folder, prompts=PADDED, microbatches=m, new_tokens=8) for m in (1, 2, 4)]
    return [*cases, with_eos(cases[1])]


def assert_same_tokens(tmp_path: Path, tp: int, pp: int, cases: list[dict[str, Any]]) -> None:
    found = engine_tokens(tmp_path, tp, pp, cases)
    for case, tokens in zip(cases, found, strict=True):
        label = f"{Path(case['folder']).name} M={case['microbatches']} eos={case['eos']}"
        assert tokens == reference_tokens(case), label


@pytest.mark.parametrize(("tp", "pp"), LAYOUTS)
def test_tokens_equal_generate(
    tp: int, pp: int, tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    assert_same_tokens(tmp_path, tp, pp, tiny_cases(tiny_models))


@pytest.mark.parametrize(("tp", "pp"), LAYOUTS)
def test_tokens_of_the_static_decode_step_equal_generate(
    tp: int, pp: int, tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    assert_same_tokens(tmp_path, tp, pp, graph_cases(tiny_models))


@pytest.mark.parametrize(("tp", "pp"), LAYOUTS)
def test_tokens_read_after_the_next_step_is_queued_equal_generate(
    tp: int, pp: int, tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    untied = tiny_models["llama-untied"]
    cases = [
        a_case(untied, prompts=PADDED, microbatches=m, decode="graph", runs_ahead=True)
        for m in (1, 2, 4)
    ]
    assert_same_tokens(tmp_path, tp, pp, [*cases, *map(with_eos, cases)])


@pytest.mark.parametrize(("tp", "pp"), LAYOUTS)
def test_tokens_of_the_demo_model_equal_generate(
    tp: int, pp: int, tmp_path: Path, smollm2: Path
) -> None:
    assert_same_tokens(tmp_path, tp, pp, demo_cases(smollm2))


@pytest.mark.parametrize(("tp", "pp"), MANY_RANKS)
def test_tokens_of_many_ranks_equal_generate(
    tp: int, pp: int, tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    """The layouts of three nodes of two GPUs and of one node of eight; M of 1, p and 2 p."""
    eight = tiny_models["llama-eight-heads"]
    cases = [
        a_case(eight, prompts=PADDED * 3, microbatches=m, decode=decode)
        for decode in ("eager", "graph")
        for m in sorted({1, pp, 2 * pp})
    ]
    assert_same_tokens(tmp_path, tp, pp, cases)


def test_uneven_split_and_three_stages(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    case = a_case(tiny_models["llama3-rope"], prompts=PADDED, microbatches=4, split=[1, 3, 1])
    assert engine_tokens(tmp_path, 1, 3, [case]) == [reference_tokens(case)]


def test_the_reference_is_not_trivial(tiny_models: dict[str, Path]) -> None:
    tokens = reference_tokens(a_case(tiny_models["llama-untied"], prompts=PADDED))
    assert len({tuple(row) for row in tokens}) == len(PADDED)
    assert all(len(set(row)) > NEW_TOKENS // 2 for row in tokens)
