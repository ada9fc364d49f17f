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
"""times the seconds of one product of the same operations and bytes, where no calibration has
measured grouped products"""
EXPERT_SPREAD = 0.2
"""of log(predicted / measured): which experts a text reaches is not known beforehand, and of a
prompt the small kernels around the products are only counted. Thirteen runs on H100 and H200,
captured, batch 1 to 16, random weights: a token -6 to +8 %, 3.9 % on average, with the experts that
each run counted; +22 % at worst by even routing (gpt-oss-20b, batch 16: 20.1 of 32 reached, 28.2 if
even). A prompt that leaves an expert a few rows more than a tile of 128 takes up to 1.4 times as
predicted (Mixtral-8x7B, 512 tokens)"""
MOVED_KERNELS = 5
"""gathers, weights and sum, all with k rows for each token"""
GATE_KERNELS, GATE_PASSES = 2, 5
"""activation and product on the halves of [k m, 2 F], which no vector loads fit"""
CLAMPED_KERNELS, CLAMPED_PASSES = 7, 16
"""the same of gpt-oss, which clamps both, scales the gate and adds one"""


def expert_kernels(spec: ModelSpec, shard: Shard, step: Pass, layers: int) -> tuple[Kernels, ...]:
    """Of `layers` layers with experts; none of a model without any.

    Products: 2 m k D 2F and 2 m k F D operations; the weights of the experts that m tokens reach
    (as counted, or by even routing, an upper bound) are read once. Around them
    10 m k D e and GATE_PASSES m k F e bytes, none at full speed.
    """
    if not layers:
        return ()
    e, d, f = step.bytes_per_value, spec.hidden, spec.expert_intermediate / shard.tp
    rows = step.rows * spec.experts_per_token
    reached = distinct_experts(spec, step.rows) if step.reached is None else step.reached
    clamped = spec.model_type == "gpt_oss"
    gates, passes = (CLAMPED_KERNELS, CLAMPED_PASSES) if clamped else (GATE_KERNELS, GATE_PASSES)
    return (
        _grouped(layers, rows, reached, d, 2 * f, e),
        _grouped(layers, rows, reached, f, d, e),
        several("strided", layers, MOVED_KERNELS, rows * e * 10 * d),
        several("strided", layers, gates, rows * e * passes * f),
        several("elementwise", layers, ROUTING_KERNELS - MOVED_KERNELS - gates, 0.0),
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
