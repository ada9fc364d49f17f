"""What a step cannot leave unread."""

from typing import Any

import polars as pl
import pytest

from perfkit.compare.bound import faster_than_bound, unread_values
from perfkit.predict.cards import load_config
from perfkit.predict.gpus import load_gpu
from perfkit.predict.rates import rates_from_gpu
from perfkit.predict.spec import spec_from_config


def spec_of(model: str) -> Any:
    return spec_from_config(load_config(model)[1], model_id=model)


def test_a_dense_model_leaves_its_embedding_table() -> None:
    """128,256 rows of 4096; none of a table that the head reads, none on the second stage."""
    assert unread_values(spec_of("llama-3.1-8b"), range(32), 1) == 128_256 * 4096
    assert unread_values(spec_of("llama-3.1-8b"), range(16, 32), 1) == 0
    assert unread_values(spec_of("llama-3.2-1b"), range(16), 1) == 0


def test_a_token_leaves_the_experts_that_it_does_not_choose() -> None:
    """Mixtral-8x7B: 6 of 8 experts of 3 x 4096 x 14,336 values in 32 layers, half of it at TP 2."""
    experts = 32 * 6 * 3 * 4096 * 14_336
    table = 32_000 * 4096
    assert unread_values(spec_of("mixtral-8x7b"), range(32), 1) == experts + table
    assert unread_values(spec_of("mixtral-8x7b"), range(32), 2) == experts / 2 + table


@pytest.mark.parametrize(("milliseconds", "told"), [(12.4, 0), (5.0, 1)])
def test_experts_are_no_reason_for_doubt(milliseconds: float, told: int) -> None:
    """Mixtral-8x7B on an H200 took 12.4 ms a token: 25 of its 93 GB are read, in 5.3 ms."""
    config = {"tp": 1, "pp": 1, "split": None, "dtype": "bfloat16", "microbatches": 1}
    run = {"config": config, "model": {"id": "m", "config": load_config("mixtral-8x7b")[1]}}
    prediction = {"ranks": [{"stage": 0, "weights_bytes": 93_405_585_408}]}
    headline = pl.DataFrame({"measure": ["tpot_s"], "measured": [milliseconds / 1e3]})
    rates = rates_from_gpu(load_gpu("h200-sxm"), "bfloat16")
    assert len(faster_than_bound(run, prediction, rates, headline)) == told
