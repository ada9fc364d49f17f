"""What kernels take on one GPU, in CUDA graphs: raw points for the curves of a prediction.

    m rows, n k weight [n, k]; b sequences, S context, N query heads, K kv heads, H head size

Each kernel is repeated inside one graph on different data, so that no cache helps it and no host
slows it: what a replayed decode step pays, gaps between kernels included.
"""

import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional

from perfkit.engine.decode_kernels import kernels_for
from perfkit.engine.static_kv import StaticKV
from perfkit.engine.step_kernels_bench import choices, grouped_products, norms
from perfkit.engine.topology import Topology

Point = dict[str, Any]
Work = Callable[[], Any]

LAYERS = (
    (6144, 4096), (4096, 4096), (28672, 4096), (14336, 4096), (4096, 14336), (128256, 4096),
    (3072, 4096), (4096, 2048), (7168, 4096), (4096, 7168), (5120, 8192), (8192, 4096),
    (28672, 8192), (8192, 14336), (10240, 8192), (8192, 8192), (57344, 8192), (8192, 28672),
    (2560, 8192), (8192, 2048), (8192, 7168), (1024, 4096), (1024, 8192), (2048, 2048),
    (2048, 8192), (151936, 4096), (12288, 4096), (24576, 4096), (4096, 12288),
)  # fmt: skip
"""(n, k) of the matrices of Llama 1B, 8B and 70B and Qwen3 8B at TP 1, 2 and 4"""
ROWS = (1, 8, 32, 128, 512, 2048, 8192)
OTHER_SHAPES, SEED = 40, 0
"""more shapes between those, at random"""
CACHE_BYTES = 256 * 2**20
"""data that a graph touches before it comes back to the same: five times the L2 of a Hopper"""
MAX_BYTES = 8 * 2**30
REPLAY_SECONDS, TIMINGS = 4e-3, 5

HEADS = ((32, 8), (16, 4), (64, 8), (32, 4), (32, 32))
"""(N, K) of a rank: 8B at TP 1 and 2, 70B at TP 1 and 2, one without groups"""
HEAD_SIZE = 128
CONTEXTS, SEQUENCES = (128, 512, 2048, 4096, 16384), (1, 8, 32, 128)
PROMPTS = ((1, 128), (1, 512), (1, 1024), (1, 2048), (1, 4096), (1, 8192), (8, 512), (8, 2048))
"""(b, tokens)"""
ELEMENT_BYTES = tuple(1 << exponent for exponent in range(12, 31, 2))
HIDDEN = 4096
TOKENS = (256, 512, 1024, 2048, 8192, 32768)
MESSAGE_BYTES = tuple(1 << exponent for exponent in range(10, 28))
SMALL_MESSAGE, MANY_CALLS, FEW_CALLS = 1 << 20, 40, 4


class GpuBench:
    """The measurements of one rank; ranks that share a communicator call them in step."""

    def __init__(self, topology: Topology, dtype: torch.dtype) -> None:
        self.topology, self.dtype, self.device = topology, dtype, topology.device
        self.kernels = kernels_for(self.device)

    def points(self) -> Iterator[Point]:
        """Every kernel, on every rank at the same time: as in a run, all GPUs draw power."""
        yield from self.gemms()
        yield from self.decode_attention()
        yield from self.prefill_attention()
        yield from self.elementwise()
        yield from self.strided()
        yield from norms(self)
        yield from choices(self)
        yield from grouped_products(self)
        yield from self.all_reduces()

    def gemms(self) -> Iterator[Point]:
        """F.linear; and, where the decode step's own product differs, that one."""
        for m, n, k in gemm_shapes():
            size = n * k * self.dtype.itemsize
            if size + (m * n + m * k) * self.dtype.itemsize > MAX_BYTES:
                continue
            weights = [self.random(n, k) for _ in range(copies(size))]
            rows = self.random(m, k)
            hows = {"torch": functional.linear}
            if m == 1:
                hows["step"] = self.kernels.linear
            for how, linear in hows.items():
                seconds = self.seconds([partial(linear, rows, weight) for weight in weights])
                yield {"op": "gemm", "how": how, "m": m, "n": n, "k": k, "seconds": seconds}

    def decode_attention(self) -> Iterator[Point]:
        """The decode step's own attention over a cache of S slots."""
        for heads, kv_heads in HEADS:
            for batch in SEQUENCES:
                for context in CONTEXTS:
                    shape = (batch, context + 1, kv_heads, HEAD_SIZE)
                    size = 2 * self.dtype.itemsize * batch * (context + 1) * kv_heads * HEAD_SIZE
                    if size > MAX_BYTES:
                        continue
                    layers = copies(size)
                    kv = StaticKV(shape, layers, self.dtype, self.device)
                    kv.begin(context, None)
                    query = self.random(batch, heads, HEAD_SIZE)
                    work = partial(self.kernels.attention, query, kv)
                    scale = HEAD_SIZE**-0.5
                    seconds = self.seconds(
                        [partial(work, layer, scale, None, None) for layer in range(layers)]
                    )
                    yield {
                        "op": "decode_attention",
                        "batch": batch,
                        "context": context,
                        "heads": heads,
                        "kv_heads": kv_heads,
                        "head_dim": HEAD_SIZE,
                        "seconds": seconds,
                    }

    def prefill_attention(self) -> Iterator[Point]:
        """Causal attention of a whole prompt, keys repeated for each query head as Hugging Face
        does."""
        for heads, kv_heads in HEADS:
            for batch, tokens in PROMPTS:
                query, key, value = (self.random(batch, heads, tokens, HEAD_SIZE) for _ in range(3))
                attend = functional.scaled_dot_product_attention
                work = partial(attend, query, key, value, is_causal=True)
                yield {
                    "op": "prefill_attention",
                    "batch": batch,
                    "tokens": tokens,
                    "heads": heads,
                    "kv_heads": kv_heads,
                    "head_dim": HEAD_SIZE,
                    "seconds": self.seconds([work] * 2),
                }

    def elementwise(self) -> Iterator[Point]:
        """a + b: `bytes` are those read and written."""
        for size in ELEMENT_BYTES:
            values = size // 3 // self.dtype.itemsize
            pairs = [(self.random(values), self.random(values)) for _ in range(copies(size))]
            seconds = self.seconds([partial(torch.add, *pair) for pair in pairs])
            yield {"op": "elementwise", "bytes": size, "seconds": seconds}

    def strided(self) -> Iterator[Point]:
        """Rotary products, sums and halves on transposed queries [b, N, S, H], and a norm's
        widening and scaling: what an eager prefill does that memory alone does not limit."""
        e = self.dtype.itemsize
        for tokens in TOKENS:
            shape = (1, tokens, HEADS[0][0], HEAD_SIZE)
            states, others = (self.random(*shape).transpose(1, 2) for _ in range(2))
            turns = self.random(1, 1, tokens, HEAD_SIZE)
            first, second = states.chunk(2, dim=-1)
            hidden, scale = self.random(tokens, HIDDEN), self.random(tokens, 1).float()
            wide, values = hidden.float(), states.numel()
            works: list[tuple[str, Work, int]] = [
                ("multiply", partial(torch.mul, states, turns), 2 * e * values),
                ("add", partial(torch.add, states, others), 3 * e * values),
                ("concatenate", partial(torch.cat, (second, first), dim=-1), 2 * e * values),
                ("widen", hidden.float, (e + 4) * hidden.numel()),
                ("scale", partial(torch.mul, wide, scale), 8 * hidden.numel()),
            ]
            for kind, work, size in works:
                seconds = self.seconds([work] * FEW_CALLS)
                yield {"op": "strided", "kind": kind, "bytes": size, "seconds": seconds}

    def all_reduces(self) -> Iterator[Point]:
        """In a graph as a replayed step has them, each after another kernel: back to back they take
        6 us more (H200, NCCL 2.28)."""
        group = self.topology.tp_group
        if group is None:
            return
        some = self.random(HIDDEN)
        between: Work = partial(torch.add, some, some)
        for size in MESSAGE_BYTES:
            message = torch.zeros(size // self.dtype.itemsize, dtype=self.dtype, device=self.device)
            call: Work = partial(dist.all_reduce, message, group=group)
            count = MANY_CALLS if size <= SMALL_MESSAGE else FEW_CALLS
            point = {"op": "nccl", "kind": "all_reduce", "group": self.topology.tp, "bytes": size}
            pair_s = 2 * self.seconds([between, call] * count, together=True)
            alone_s = self.seconds([between] * count, together=True)
            yield {**point, "how": "graph", "seconds": pair_s - alone_s}

    def random(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device).normal_()

    def seconds(self, works: Sequence[Work], *, together: bool = False) -> float:
        """Of one call: the median over some timings of a graph that makes all of them.

        `together`: other ranks take part, so that every rank replays it equally often.
        """
        for work in works[:2]:
            work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            for work in works:
                work()
        first = self.timed(graph.replay)
        replays = 4 if together else max(1, min(50, round(REPLAY_SECONDS / first)))
        timings = [self.timed(graph.replay, replays) for _ in range(TIMINGS)]
        return statistics.median(timings) / len(works)

    def timed(self, work: Work, repeats: int = 1) -> float:
        """Seconds of one repetition, by the device's clock."""
        event: Any = torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        work()
        start.record()
        for _ in range(repeats):
            work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / repeats


def copies(num_bytes: int) -> int:
    """How many different operands of that size a graph needs, so that none is in a cache."""
    return max(2, min(64, -(-CACHE_BYTES // num_bytes)))


def gemm_shapes() -> Iterator[tuple[int, int, int]]:
    """(m, n, k): the models' matrices, and others between them."""
    for n, k in LAYERS:
        for m in ROWS:
            yield m, n, k
    dice = random.Random(SEED)
    for _ in range(OTHER_SHAPES):
        m, n, k = (round(2 ** dice.uniform(low, high)) for low, high in ((0, 13), (9, 15), (9, 14)))
        yield m, max(64, n // 64 * 64), max(64, k // 64 * 64)
