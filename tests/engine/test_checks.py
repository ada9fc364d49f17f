"""The start-up checks catch the silent failures they are there for."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tiny
from transformers import AutoConfig

from perfkit.collect.settings import RunSettings
from perfkit.engine import checks
from perfkit.engine.loading import load_safetensors
from perfkit.engine.stage import Stage, build_stage
from perfkit.engine.topology import Topology
from perfkit.errors import CheckFailed, ConfigError
from perfkit.predict.spec import ModelSpec, spec_from_config

ROOT = Path(__file__).parents[2]


def alone(tp: int = 1) -> Topology:
    """A rank that needs no groups."""
    return Topology(0, tp, 1, torch.device("cpu"), None, None, None, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama3-rope", tmp_path_factory.mktemp("models"))


def a_stage(folder: Path) -> tuple[Stage, RunSettings, dict[str, Any]]:
    config = AutoConfig.from_pretrained(folder).to_dict()
    settings = RunSettings(model_id="tiny", model_folder=str(folder))
    layers = range(config["num_hidden_layers"])
    return build_stage(settings, config, layers, alone()), settings, config


def test_a_healthy_stage_passes(folder: Path) -> None:
    stage, settings, config = a_stage(folder)
    load_safetensors(stage, folder, lambda _share: None)
    checks.check_bytes(stage, spec_from_config(config, model_id="tiny"), alone(), settings)
    checks.check_no_meta(stage.model)
    checks.check_rotary(stage, torch.device("cpu"))


def test_a_stage_that_was_not_sharded_is_caught(folder: Path) -> None:
    stage, settings, config = a_stage(folder)
    spec = spec_from_config(config, model_id="tiny")
    with pytest.raises(CheckFailed, match="not sharded as expected"):
        checks.check_bytes(stage, spec, alone(tp=3), settings)


def test_garbage_rope_frequencies_are_caught(folder: Path) -> None:
    stage, _settings, _config = a_stage(folder)
    stage.decoder.get_submodule("rotary_emb").get_buffer("inv_freq").mul_(1.01)
    with pytest.raises(CheckFailed, match="RoPE is garbage"):
        checks.check_rotary(stage, torch.device("cpu"))


def test_a_tensor_left_on_meta_is_caught(folder: Path) -> None:
    stage, _settings, _config = a_stage(folder)
    stage.model.register_buffer("forgotten", torch.empty(1, device="meta"))
    with pytest.raises(CheckFailed, match="first forgotten"):
        checks.check_no_meta(stage.model)


def test_weights_of_another_shape_are_refused(folder: Path, tmp_path: Path) -> None:
    stage, _settings, _config = a_stage(folder)
    other = save_tiny("llama-tied", tmp_path)
    with pytest.raises(ConfigError, match=r"has no tensor lm_head\.weight"):
        load_safetensors(stage, other, lambda _share: None)


def llama_70b() -> tuple[ModelSpec, RunSettings]:
    card = json.loads((ROOT / "models/cards/llama-3.3-70b/config.json").read_text())
    settings = RunSettings(
        model_id="llama-3.3-70b",
        model_folder=None,
        batch=8,
        prompt_tokens=2048,
        new_tokens=128,
        dtype="bfloat16",
        device="cuda",
    )
    return spec_from_config(card, model_id="llama-3.3-70b"), settings


def test_a_model_that_cannot_fit_is_refused_with_both_numbers() -> None:
    """70,553,706,496 parameters of 2 bytes, 327,680 bytes of KV cache a token."""
    spec, settings = llama_70b()
    with pytest.raises(ConfigError, match=r"131\.4 GiB for weights and 5\.3 GiB .* 79\.1 GiB free"):
        checks.check_fits(spec, settings, alone(), round(79.1 * 2**30))


def test_a_model_that_may_not_fit_is_told_and_one_that_does_is_not() -> None:
    spec, settings = llama_70b()
    assert "may not fit" in str(checks.check_fits(spec, settings, alone(), round(137.5 * 2**30)))
    assert checks.check_fits(spec, settings, alone(), 192 * 2**30) is None
