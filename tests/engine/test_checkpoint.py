"""A bad checkpoint is refused before any rank starts, and the message names the file."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from perfkit.engine.checkpoint import check_shapes, read_checkpoint
from perfkit.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4)}, tmp_path / "model.safetensors")
    return tmp_path


def test_names_and_shapes_come_from_the_header(folder: Path) -> None:
    stored = read_checkpoint(folder)
    assert {name: tensor.shape for name, tensor in stored.items()} == {"a": (2, 3), "b": (4,)}


def test_an_index_names_the_files(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    save_file({"c": torch.zeros(5)}, folder / "part-2.safetensors")
    index = {"weight_map": {"a": "part-1.safetensors", "c": "part-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert sorted(read_checkpoint(folder)) == ["a", "b", "c"]
    (folder / "part-2.safetensors").unlink()
    with pytest.raises(ConfigError, match="lacks 1 of 2 weight files, first part-2"):
        read_checkpoint(folder)


def test_no_weights_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--load dummy"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 30, -1])
def test_a_file_cut_anywhere_is_named(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=r"model\.safetensors is damaged or cut short"):
        read_checkpoint(folder)


def test_a_missing_or_misshapen_tensor_is_named(folder: Path) -> None:
    stored = read_checkpoint(folder)
    check_shapes(stored, [("a", (2, 3))], folder)
    with pytest.raises(ConfigError, match="has no tensor lm_head"):
        check_shapes(stored, [("lm_head.weight", (2, 3))], folder)
    with pytest.raises(ConfigError, match=r"has shape \[2, 3\], config.json implies \[3, 2\]"):
        check_shapes(stored, [("a", (3, 2))], folder)
