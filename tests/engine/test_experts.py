"""Experts: cut evenly, loaded from every layout on disk, and run without asking the host."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_checks import alone
from test_tokens import PADDED, a_case, engine_tokens, reference_tokens
from tiny import save_tiny
from transformers.integrations.moe import batched_mm_experts_forward, grouped_mm_experts_forward
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from perfkit.collect.settings import RunSettings
from perfkit.engine import checks, sharding
from perfkit.engine.checkpoint import check_shapes, read_checkpoint
from perfkit.engine.loading import fill_dummy, load_safetensors
from perfkit.engine.moe import every_expert_forward, expert_facts, expert_modules, implementation
from perfkit.engine.mxfp4 import dequantise
from perfkit.engine.stage import Stage, build_stage
from perfkit.engine.topology import Topology
from perfkit.errors import CheckFailed, ConfigError
from perfkit.predict.spec import spec_from_config
from perfkit.predict.tensors import check_layout, tensors

EXPERTS = ("mixtral", "qwen3-moe", "gpt-oss")
MXFP4 = {"quant_method": "mxfp4"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {variant: save_tiny(variant, root) for variant in EXPERTS}


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def a_stage(folder: Path, topology: Topology, sharding: str = "hf-tp") -> Stage:
    """A stage of all layers; hf-tp cuts it without the other ranks."""
    settings = RunSettings(
        model_id="tiny", model_folder=str(folder), tp=topology.tp, sharding=sharding
    )
    return build_stage(settings, config_of(folder), range(5), topology)


def check_bytes(stage: Stage, folder: Path, topology: Topology) -> None:
    spec = spec_from_config(config_of(folder), model_id=folder.name)
    settings = RunSettings(model_id="tiny", model_folder=str(folder), tp=topology.tp)
    checks.check_bytes(stage, spec, topology, settings)


def second_of_two() -> Topology:
    return Topology(1, 2, 1, torch.device("cpu"), None, None, None, None)


def packed(folder: Path, target: Path) -> tuple[Path, Path]:
    """The same gpt-oss with random MXFP4 experts, as published, and with what they mean in fp32."""
    generator = torch.Generator().manual_seed(5)
    weights = load_file(folder / "model.safetensors")
    files: dict[str, dict[str, torch.Tensor]] = {"packed": {}, "plain": {}}
    for name, values in weights.items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            files["packed"][name] = files["plain"][name] = values
            continue
        experts, inputs, outputs = values.shape
        shape = (experts, outputs, inputs // 32)
        blocks = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8, generator=generator)
        scales = torch.randint(121, 125, shape, dtype=torch.uint8, generator=generator)
        files["packed"] |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        files["plain"][name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    for kind, content in files.items():
        (target / kind).mkdir()
        save_file(content, target / kind / "model.safetensors", {"format": "pt"})
        config = config_of(folder) | ({"quantization_config": MXFP4} if kind == "packed" else {})
        (target / kind / "config.json").write_text(json.dumps(config))
    return target / "packed", target / "plain"


@pytest.mark.slow
@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_tokens_of_an_mxfp4_checkpoint_equal_generate(
    tp: int, pp: int, folders: dict[str, Path], tmp_path: Path
) -> None:
    quantised, plain = packed(folders["gpt-oss"], tmp_path)
    cases = [
        a_case(quantised, prompts=PADDED, microbatches=2, decode=decode)
        for decode in ("eager", "graph")
    ]
    expected = reference_tokens(a_case(plain, prompts=PADDED))
    assert engine_tokens(tmp_path, tp, pp, cases) == [expected, expected]


@pytest.mark.slow
def test_tokens_of_the_hugging_face_plan_equal_generate(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    models = [folders["mixtral"], folders["qwen3-moe"], save_tiny("llama-tied", tmp_path)]
    cases = [a_case(folder, prompts=PADDED, sharding="hf-tp") for folder in models]
    assert engine_tokens(tmp_path, 2, 1, cases) == [reference_tokens(case) for case in cases]


def test_mxfp4_equals_the_dequantisation_of_transformers() -> None:
    """Every byte with every scale that bfloat16 can hold."""
    blocks = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 250, 16, 16)
    scales = torch.arange(3, 253, dtype=torch.uint8)[None, :, None].expand(1, 250, 16)
    theirs = convert_moe_packed_tensors(blocks.contiguous(), scales.contiguous())
    assert torch.equal(dequantise(blocks, scales)[0].T.to(torch.bfloat16), theirs[0])


def test_the_low_half_of_an_mxfp4_byte_comes_first() -> None:
    blocks = torch.tensor([[0x21, 0xF7, *[0] * 14]], dtype=torch.uint8)
    values = dequantise(blocks, torch.tensor([128], dtype=torch.uint8))
    assert values[:5].tolist() == [1.0, 2.0, 12.0, -12.0, 0.0]


@pytest.mark.parametrize("variant", EXPERTS)
def test_the_files_are_those_that_the_config_implies(
    variant: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders[variant]
    spec = spec_from_config(config_of(folder), model_id=variant)
    expected = [(tensor.name, tensor.shape) for tensor in tensors(spec)]
    check_shapes(read_checkpoint(folder), expected, folder)
    if variant == "gpt-oss":
        quantised, _plain = packed(folder, tmp_path)
        check_shapes(read_checkpoint(quantised), expected, quantised)


def test_an_expert_that_is_missing_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders["mixtral"]
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.3.block_sparse_moe.experts.5.w3.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    spec = spec_from_config(config_of(folder), model_id="mixtral")
    expected = [(tensor.name, tensor.shape) for tensor in tensors(spec)]
    with pytest.raises(ConfigError, match=r"no tensor model\.layers\.3\..*experts\.5\.up_proj"):
        check_shapes(read_checkpoint(tmp_path), expected, tmp_path)
    with pytest.raises(ConfigError, match=r"no tensor model\.layers\.3\..*experts\.5\.up_proj"):
        load_safetensors(a_stage(folder, alone()), tmp_path, lambda _share: None)


@pytest.mark.parametrize("variant", ["mixtral", "qwen3-moe"])
def test_a_rank_holds_its_part_of_every_expert(variant: str, folders: dict[str, Path]) -> None:
    whole, half = a_stage(folders[variant], alone()), a_stage(folders[variant], second_of_two())
    for stage in (whole, half):
        load_safetensors(stage, folders[variant], lambda _share: None)
    check_bytes(half, folders[variant], second_of_two())
    (_, all_of_it), (_, part) = (next(expert_modules(stage.model)) for stage in (whole, half))
    gate, up = all_of_it.gate_up_proj.chunk(2, dim=1)
    columns = slice(gate.shape[1] // 2, None)
    assert torch.equal(part.gate_up_proj, torch.cat((gate[:, columns], up[:, columns]), dim=1))
    assert torch.equal(part.down_proj, all_of_it.down_proj[:, :, columns])


def test_experts_left_whole_on_every_rank_are_caught(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "prepare_experts", lambda *_: None)
    stage = a_stage(folders["mixtral"], second_of_two())
    with pytest.raises(CheckFailed, match="not sharded as expected"):
        check_bytes(stage, folders["mixtral"], second_of_two())


@pytest.mark.parametrize("variant", EXPERTS)
def test_every_way_to_run_experts_gives_the_same(variant: str, folders: dict[str, Path]) -> None:
    stage = a_stage(folders[variant], alone())
    load_safetensors(stage, folders[variant], lambda _share: None)
    _, module = next(expert_modules(stage.model))
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(5, 96, generator=generator)
    chosen = torch.stack([torch.randperm(6, generator=generator)[:2] for _ in range(5)])
    shares = torch.rand(5, 2, generator=generator)
    ways = (grouped_mm_experts_forward, batched_mm_experts_forward, every_expert_forward)
    with torch.no_grad():
        one, *others = (way(module, hidden, chosen, shares) for way in ways)
    for other in others:
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


def test_few_tokens_avoid_the_host_where_grouped_mm_needs_it() -> None:
    def chosen(tokens: int, never_waits: bool = False) -> Callable[..., torch.Tensor]:
        return implementation(tokens, 8, 128, grouped_mm_never_waits=never_waits)

    assert [chosen(1), chosen(5)] == [batched_mm_experts_forward] * 2
    assert [chosen(6), chosen(64)] == [every_expert_forward] * 2
    assert [chosen(65), chosen(1, never_waits=True)] == [grouped_mm_experts_forward] * 2


def test_random_weights_say_that_their_routing_is_random(folders: dict[str, Path]) -> None:
    stage = a_stage(folders["gpt-oss"], alone())
    fill_dummy(stage, alone(), seed=0)
    facts = expert_facts(stage.model, "dummy")
    assert facts is not None
    assert facts["routing"] == "random weights: not representative"
    assert (facts["experts"], facts["columns"]) == (6, [0, 96])
    assert stage.model.get_parameter("model.layers.0.self_attn.sinks").tolist() == [0.0] * 8


def test_ranks_fill_their_experts_with_different_random_weights(
    folders: dict[str, Path],
) -> None:
    ranks = [Topology(rank, 2, 1, torch.device("cpu"), None, None, None, None) for rank in (0, 1)]
    first, second = (a_stage(folders["mixtral"], topology) for topology in ranks)
    for stage, topology in zip((first, second), ranks, strict=True):
        fill_dummy(stage, topology, seed=0)
    name = "model.layers.0.mlp."
    assert torch.equal(
        first.model.get_parameter(f"{name}gate.weight"),
        second.model.get_parameter(f"{name}gate.weight"),
    )
    assert not torch.equal(
        first.model.get_parameter(f"{name}experts.down_proj"),
        second.model.get_parameter(f"{name}experts.down_proj"),
    )


def test_a_degree_that_does_not_divide_the_experts_is_refused(folders: dict[str, Path]) -> None:
    config = config_of(folders["gpt-oss"]) | {"num_key_value_heads": 8, "intermediate_size": 90}
    spec = spec_from_config(config, model_id="odd")
    with pytest.raises(ConfigError, match=r"tp=4 does not divide the intermediate size 90 .* 1, 2"):
        check_layout(spec, tp=4, pp=1)


def test_a_family_without_a_plan_is_refused_by_hf_tp(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"no tensor-parallel plan for gpt_oss.*autotp"):
        a_stage(folders["gpt-oss"], second_of_two())
