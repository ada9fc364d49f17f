"""Finding models and GPUs by name."""

import json
from pathlib import Path

import pytest

from perfkit.errors import ConfigError
from perfkit.predict.cards import card_ids, load_config, load_spec
from perfkit.predict.gpus import gpu_tables, load_gpu
from perfkit.predict.spec import kv_bytes_per_token, num_parameters

CARDS_README = Path(__file__).parents[2] / "models" / "cards" / "README.md"


def test_every_card_can_be_read() -> None:
    assert len(card_ids()) >= 31
    assert {load_spec(card).id for card in card_ids()} == set(card_ids())


def test_the_list_of_cards_has_the_size_of_each() -> None:
    """Rows of models/cards/README.md: id, source, parameters, KV bytes per token."""
    rows = [line.split("|") for line in CARDS_README.read_text().splitlines()]
    listed = {row[1].strip(): (row[3].strip(), row[4].strip()) for row in rows if len(row) == 7}
    specs = {card: load_spec(card) for card in card_ids()}
    sizes = {
        card: (f"{num_parameters(spec):,}", f"{kv_bytes_per_token(spec):,}")
        for card, spec in specs.items()
    }
    assert {card: listed.get(card) for card in sizes} == sizes


def test_a_folder_or_its_config_json_is_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(load_config("opt-125m")[1]))
    assert load_spec(str(folder)).id == "mine"
    assert load_spec(str(folder / "config.json")).num_layers == 12


def test_a_users_card_is_found_first(tmp_path: Path) -> None:
    card = tmp_path / "cards" / "llama-3.1-8b"
    card.mkdir(parents=True)
    (card / "config.json").write_text(json.dumps(load_config("llama-3.2-1b")[1]))
    assert load_spec("llama-3.1-8b", tmp_path).hidden == 2048


def test_an_unknown_model_lists_near_names_and_all_cards() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean llama-3\.3-70b") as caught:
        load_spec("llama-3.3-70")
    assert "smollm2-135m-instruct" in str(caught.value)


def test_every_gpu_is_dense_sourced_and_dated() -> None:
    for gpu_id in gpu_tables():
        gpu = load_gpu(gpu_id)
        assert gpu.dense
        assert gpu.source
        assert gpu.checked_on


def test_gpu_memory_is_what_nvml_reports() -> None:
    assert load_gpu("h200-sxm").memory_bytes == 143_771 * 2**20


def test_an_unknown_rate_is_an_error_not_a_guess() -> None:
    with pytest.raises(ConfigError, match="v100-32-sxm has no known bfloat16 rate"):
        load_gpu("v100-32-sxm").flops_per_s("bfloat16")


def test_an_unknown_gpu_lists_near_names() -> None:
    with pytest.raises(ConfigError, match="Did you mean h200-sxm"):
        load_gpu("h200")


def test_a_users_gpu_is_found(tmp_path: Path) -> None:
    text = """
    [my-gpu]
    name = "Mine"
    dense = true
    nominal_memory_gb = 10
    memory_bytes_per_s = 1e12
    link_bytes_per_s = 1e10
    link = "PCIe"
    source = "measured"
    checked_on = "2026-01-01"
    """
    (tmp_path / "gpus.toml").write_text(text)
    assert load_gpu("my-gpu", tmp_path).memory_bytes is None
    assert load_gpu("h100-sxm", tmp_path).id == "h100-sxm"
