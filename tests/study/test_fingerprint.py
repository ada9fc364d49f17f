"""What makes a finished point stale, and what does not."""

import os
from pathlib import Path
from typing import Any

import pytest
from builders import a_point, a_system

from perfkit import __version__
from perfkit.study.fingerprint import differences, digest, made_of
from perfkit.study.model import Model
from perfkit.study.systems import Billing, ContainerSite

MODEL = Model(id="m", config={"hidden_size": 64}, folder=None)


def parts(
    *, system: dict[str, Any] | None = None, image: Path | None = None, **settings: Any
) -> dict[str, Any]:
    return made_of(a_point(**settings), MODEL, a_system(**(system or {})), image)


def test_the_hash_is_the_same_wherever_it_is_made() -> None:
    assert digest({"tp": 2, "model": "m"}) == digest({"model": "m", "tp": 2}) == "c6f4c33b75da"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"new_tokens": 8}, "new_tokens was not set, is 8"),
        ({"batch": 2}, "batch was 1, is 2"),
        ({"nodes": 2}, "nodes was 1, is 2"),
        ({"exclusive": True}, "exclusive was False, is True"),
        ({"system": {"partition": "debug"}}, "partition was gpu, is debug"),
        ({"system": {"interface": "ib0"}}, "interface was not set, is ib0"),
        ({"system": {"environment": {"NCCL_ALGO": "Ring"}}}, "environment changed"),
        ({"system": {"modules": ("CUDA/13",)}}, "modules changed"),
        ({"system": {"hardware": "2 cores"}}, "hardware was not set, is 2 cores"),
        ({"image": Path("/images/a.sif")}, "container changed"),
    ],
)
def test_what_can_change_the_numbers_is_stale_and_said(change: dict[str, Any], said: str) -> None:
    before, now = parts(), parts(**change)
    assert digest(before) != digest(now)
    assert differences(before, now) == said


@pytest.mark.parametrize(
    "change",
    [
        {"title": "Another title"},
        {"qos": "debug"},
        {"account_required": True},
        {"max_walltime_s": 3600},
        {"notes": ("careful",)},
        {"unverified": {"slurm.partition": "notes"}},
        {"billing": Billing(unit="node-hours", per_node_hour=1.0)},
        {"container": ContainerSite(binds=("/scratch",))},
    ],
)
def test_what_cannot_change_the_numbers_is_not_stale(change: dict[str, Any]) -> None:
    assert digest(parts()) == digest(parts(system=change))


def test_the_content_of_the_prompts_counts_and_their_path_does_not(tmp_path: Path) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("one\n")
    second.write_text("one\n")
    before = parts(prompts=str(first))
    assert digest(before) == digest(parts(prompts=str(second)))
    first.write_text("two\n")
    assert differences(before, parts(prompts=str(first))) == "prompts changed"
    assert differences(before, parts()) == "prompts changed"


def test_the_models_config_counts() -> None:
    other = Model(id="m", config={"hidden_size": 128}, folder=None)
    before, now = parts(), made_of(a_point(), other, a_system(), None)
    assert differences(before, now) == "model config changed"


def test_an_image_of_another_time_is_another_image(tmp_path: Path) -> None:
    image = tmp_path / "perfkit.sif"
    image.write_bytes(b"12345")
    before = parts(image=image)
    assert before["container"]["bytes"] == 5
    os.utime(image, (1_000_000, 1_000_000))
    assert differences(before, parts(image=image)) == "container changed"


def test_another_release_of_perfkit_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    before = parts()
    monkeypatch.setattr("perfkit.study.fingerprint.__version__", "9.0.0")
    assert differences(before, parts()) == f"perfkit was {__version__}, is 9.0.0"


def test_several_changes_are_all_said() -> None:
    assert differences(parts(), parts(tp=2, new_tokens=8)) == (
        "tp was 1, is 2; new_tokens was not set, is 8"
    )
