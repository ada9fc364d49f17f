"""What leaves a node, and what it costs."""

from dataclasses import replace

import pytest

from perfkit.predict.cards import load_spec
from perfkit.predict.gpus import load_gpu
from perfkit.predict.network import Network
from perfkit.predict.plan import Plan
from perfkit.predict.rates import rates_from_gpu
from perfkit.predict.time import predict

PAIRS = Network(gpus_per_node=2, bytes_per_s=1e10, latency_s=10e-6)
EIGHT = Network(gpus_per_node=8, bytes_per_s=5e10, latency_s=10e-6)
LLAMA_70B = load_spec("llama-3.3-70b")
H200 = rates_from_gpu(load_gpu("h200-sxm"), "bfloat16")


@pytest.mark.parametrize(
    ("network", "tp", "pp", "hops"),
    [(PAIRS, 2, 3, 2), (PAIRS, 1, 4, 1), (EIGHT, 4, 4, 1), (EIGHT, 2, 4, 0), (EIGHT, 8, 3, 2)],
)
def test_hops_from_node_to_node(network: Network, tp: int, pp: int, hops: int) -> None:
    assert network.hops_between_nodes(tp, pp) == hops


def test_a_message_takes_latency_and_nine_tenths_of_the_bandwidth() -> None:
    assert PAIRS.message_s(9e6) == pytest.approx(10e-6 + 1e-3)


def test_an_all_reduce_over_nodes_is_one_inside_and_the_parts_over_the_network() -> None:
    """16 GPUs on two nodes of 8: 2 messages of 10 us; each GPU moves S / 8."""
    inside = {8: 100e-6}
    found = EIGHT.all_reduce_s(16, 3.6e8, lambda group, _size: inside[group])
    assert found == pytest.approx(100e-6 + 20e-6 + 3.6e8 / 8 / 4.5e10)


def test_one_gpu_a_node_has_nothing_inside() -> None:
    alone = replace(PAIRS, gpus_per_node=1)
    found = alone.all_reduce_s(2, 9e6, lambda *_: pytest.fail("asked inside"))
    assert found == pytest.approx(2 * 10e-6 + 1e-3)


def test_tensor_parallelism_over_nodes_is_slower_than_a_pipeline_over_them() -> None:
    over = replace(H200, network=PAIRS)
    plan = Plan(batch=1, decode="graph")
    tensor = predict(LLAMA_70B, over, replace(plan, tp=4))
    pipeline = predict(LLAMA_70B, over, replace(plan, tp=2, pp=2))
    inside = predict(LLAMA_70B, H200, replace(plan, tp=4))
    assert tensor["ttft_s"] > 2 * inside["ttft_s"]
    assert tensor["ttft_s"] > pipeline["ttft_s"]
    assert tensor["comm_share"] > 2 * pipeline["comm_share"]


def test_a_pipeline_over_slow_nodes_pays_for_its_hops() -> None:
    plan = Plan(tp=2, pp=3, microbatches=1, decode="graph")
    near = predict(LLAMA_70B, H200, plan)
    far = predict(LLAMA_70B, replace(H200, network=PAIRS), plan)
    step, prompt = (8192 * 2 * tokens for tokens in (1, 2048))
    link = load_gpu("h200-sxm").link_bytes_per_s
    assert far["tpot_s"] - near["tpot_s"] == pytest.approx(
        2 * (PAIRS.message_s(step) - step / link) + PAIRS.message_s(8)
    )
    assert far["ttft_s"] - near["ttft_s"] == pytest.approx(
        2 * (PAIRS.message_s(prompt) - prompt / link)
    )
