"""What do a rank's experts compute and move in one pass?

    m tokens, k experts of each, E experts, D hidden, F of one expert on this rank, e bytes a value

As engine/moe.py runs them: a router, the tokens sorted by expert, two grouped products over the
experts that were reached, and their outputs added up. Every rank has a slice of every expert.
"""

from perfkit.predict.curves import Value
from perfkit.predict.kernels import Kernels, Pass, Shard, several
from perfkit.predict.spec import ModelSpec, distinct_experts

ROUTING_KERNELS = 50
"""small kernels of a layer beside its products. 28 operators (TorchDispatchMode); the sorts and
sums among them are several kernels each. From the captured steps below, in kernels of 1.5 us"""
GROUPED_PRODUCT = 2.0
"""times the seconds of one product of the same operations and bytes"""
EXPERT_SPREAD = 0.3
"""of log(predicted / measured): no microbenchmark measures these yet. H200, TP 2, prompt 2048, one
token of a captured step: gpt-oss-20b 5.05 ms, gpt-oss-120b 7.48, Qwen3-30B-A3B 7.68, Mixtral-8x7B
9.44; the two constants above come from these four"""
MOVED_KERNELS = 8
"""gathers, weights, gate and sum, all with k rows for each token"""


def expert_kernels(spec: ModelSpec, shard: Shard, step: Pass, layers: int) -> tuple[Kernels, ...]:
    """Of `layers` layers with experts; none of a model without any.

    Products: 2 m k D 2F and 2 m k F D operations; the weights of the experts that m tokens reach
    (random routing: an upper bound) are read once. Around them 10 m k D e + 5 m k F e bytes.
    """
    if not layers:
        return ()
    e, d, f = step.bytes_per_value, spec.hidden, spec.expert_intermediate / shard.tp
    rows = step.rows * spec.experts_per_token
    reached = distinct_experts(spec, step.rows)
    moved = rows * e * (10 * d + 5 * f)
    return (
        _grouped(layers, rows, reached, d, 2 * f, e),
        _grouped(layers, rows, reached, f, d, e),
        several("elementwise", layers, MOVED_KERNELS, moved),
        several("elementwise", layers, ROUTING_KERNELS - MOVED_KERNELS, 0.0),
    )


def _grouped(
    layers: int, rows: Value, reached: Value, inputs: float, outputs: float, e: int
) -> Kernels:
    """[rows, inputs] x [inputs, outputs], each row with the weights of its expert."""
    return Kernels(
        kind="grouped",
        count=layers,
        flops=2.0 * rows * inputs * outputs,
        num_bytes=e * (reached * inputs * outputs + rows * (inputs + outputs)),
        rows=rows,
    )
