"""Predicted shards against what DeepSpeed AutoTP really leaves on each of two ranks."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_configs import COUNTED, TINY

from perfkit.predict.cards import load_config
from perfkit.predict.spec import spec_from_config
from perfkit.predict.tensors import local_tensors

WORKER = Path(__file__).with_name("autotp_shapes.py")
TP = 2
UNCUT = ("experts",)
CONFIGS: dict[str, dict[str, Any]] = {
    **TINY,
    **COUNTED,
    "smollm2-135m": load_config("smollm2-135m-instruct")[1],
}


@pytest.fixture(scope="module")
def sharded() -> list[dict[str, dict[str, list[int]]]]:
    """Shapes by rank, model and tensor."""
    pytest.importorskip("deepspeed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [_start(rank, port) for rank in range(TP)]
    for rank in ranks:
        assert rank.stdin is not None
        rank.stdin.write(json.dumps(CONFIGS))
        rank.stdin.close()
        rank.stdin = None
    answers = [rank.communicate(timeout=300) for rank in ranks]
    for rank, (_, errors) in zip(ranks, answers, strict=True):
        assert rank.returncode == 0, errors[-2000:]
    return [json.loads(text.splitlines()[-1]) for text, _ in answers]


def _start(rank: int, port: int) -> "subprocess.Popen[str]":
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(TP)}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(WORKER)],
        env={**os.environ, **place, **address},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("rank", range(TP))
def test_local_tensors_are_those_of_autotp(
    sharded: list[dict[str, dict[str, list[int]]]], name: str, rank: int
) -> None:
    """But for stacks of experts, which AutoTP leaves whole and the engine cuts."""
    spec = spec_from_config(CONFIGS[name], model_id=name, to_run=False)
    predicted = local_tensors(spec, tp=TP, pp=1, tp_rank=rank, pp_rank=0)
    left = {name: shape for name, shape in sharded[rank][name].items() if ".experts." not in name}
    assert {t.name: list(t.shape) for t in predicted if t.role not in UNCUT} == left
