"""Weights reach a rank without a copy of the whole on the way, and a bad file is named."""

import ctypes
import gc
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_checks import alone
from test_experts import a_stage, second_of_two
from tiny import save_tiny

from perfkit.collect.settings import RunSettings
from perfkit.engine.checks import local_bytes
from perfkit.engine.loading import load_safetensors
from perfkit.engine.stage import build_stage
from perfkit.engine.topology import Topology
from perfkit.errors import ConfigError
from perfkit.predict.cards import load_config
from perfkit.predict.spec import spec_from_config
from perfkit.predict.tensors import tensors

SMOLLM2 = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def smollm2_sized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 269 MB with the demo model's tensors."""
    folder = tmp_path_factory.mktemp("sized")
    spec = spec_from_config(load_config(SMOLLM2)[1], model_id=SMOLLM2)
    ones = {t.name: torch.ones(t.shape, dtype=torch.bfloat16) for t in tensors(spec)}
    save_file(ones, folder / "model.safetensors")
    return folder


def anonymous_bytes() -> int:
    """Memory of this process that no file stands behind: pages of mapped files are not in it."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found is not None
    return 1024 * int(found[1])


def give_back_what_is_free() -> None:
    """Memory that was freed and kept would be used again without growing."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def peak_anonymous_bytes(action: Callable[[], None]) -> int:
    """The most it grew by while the action ran, looked at every millisecond."""
    before = anonymous_bytes()
    seen, ended = [before], threading.Event()

    def watch() -> None:
        while not ended.wait(0.001):
            seen.append(anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    action()
    ended.set()
    watcher.join()
    return max(*seen, anonymous_bytes()) - before


@pytest.mark.slow
@pytest.mark.parametrize("topology", [alone(), second_of_two()], ids=["whole", "half"])
def test_loading_takes_little_more_memory_than_what_is_held(
    topology: Topology, smollm2_sized: Path
) -> None:
    settings = RunSettings(
        model_id=SMOLLM2,
        model_folder=str(smollm2_sized),
        tp=topology.tp,
        dtype="bfloat16",
        sharding="hf-tp",
    )
    give_back_what_is_free()
    stage = build_stage(settings, load_config(SMOLLM2)[1], range(30), topology)
    peak = peak_anonymous_bytes(lambda: load_safetensors(stage, smollm2_sized, lambda _share: None))
    held = local_bytes(stage)
    print(f"peak {peak / 1e6:.0f} MB, held {held / 1e6:.0f} MB: {peak / held:.2f}")
    assert 0.9 * held < peak < 1.3 * held


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_file_cut_in_its_header_or_its_data_is_named(share: float, tmp_path: Path) -> None:
    folder = save_tiny("mixtral", tmp_path)
    stage = a_stage(folder, alone())
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(ConfigError, match=r"model\.safetensors is damaged or cut short"):
        load_safetensors(stage, folder, lambda _share: None)


def test_a_file_whose_header_contradicts_itself_is_named(tmp_path: Path) -> None:
    """Its size fits its header, but safetensors finds a hole between two tensors."""
    folder = save_tiny("mixtral", tmp_path)
    stage = a_stage(folder, alone())
    file = folder / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    start, end = header["lm_head.weight"]["data_offsets"]
    header["lm_head.weight"]["data_offsets"] = [start + 4, end]
    changed = json.dumps(header).encode()
    file.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + length :])
    with pytest.raises(ConfigError, match=r"model\.safetensors is damaged"):
        load_safetensors(stage, folder, lambda _share: None)


@pytest.mark.parametrize("entry", [{"data_offsets": [0, 4]}, {"dtype": "F32", "shape": [1]}, 7])
def test_a_header_that_lacks_what_it_must_say_is_named(entry: object, tmp_path: Path) -> None:
    folder = save_tiny("mixtral", tmp_path)
    stage = a_stage(folder, alone())
    header = json.dumps({"a": entry}).encode()
    content = len(header).to_bytes(8, "little") + header + b"\0" * 4
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match=r"model\.safetensors is damaged or cut short"):
        load_safetensors(stage, folder, lambda _share: None)
