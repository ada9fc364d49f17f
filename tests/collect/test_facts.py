"""What a run records of its machine."""

import pytest

from perfkit.collect import facts


def test_what_nccl_was_told_is_kept_and_nothing_else_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    monkeypatch.setenv("NCCL_DEBUG_FILE", "/home/somebody/nccl.log")
    assert facts.nccl_variables() == {"NCCL_P2P_DISABLE": "1"}
