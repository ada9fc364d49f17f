"""Small kernels and experts, as gpu_bench.py measures: a norm, the choice of a token, grouped
products.

    b rows, D hidden size, V vocabulary, E experts, k of each token, F of one expert
"""

import random
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from perfkit.engine.moe import grouped_mm_stays_on_device

if TYPE_CHECKING:
    from perfkit.engine.gpu_bench import GpuBench, Point, Work

HIDDEN_SIZES, STEP_ROWS = (1024, 2048, 4096, 8192), (1, 8, 32, 128)
VOCABULARIES, SEQUENCES = (32_000, 65_536, 98_304, 128_256), (1, 8, 32)
MATRIX = (8192, 4096)
"""the weight of the product before each: it leaves nothing in the L2 that a step would not"""
EXPERTS = ((32, 4, 2880, 2880), (128, 8, 2048, 768), (8, 2, 4096, 14336), (64, 6, 2048, 1408))
"""(E, k, D, F) of gpt-oss-20b, Qwen3-30B-A3B, Mixtral-8x7B and DeepSeek-V2-Lite"""
EXPERT_TOKENS = (1, 4, 16, 64, 512, 2048, 8192)
CALLS, SEED = 40, 0
EPSILON = 1e-5


def norms(bench: "GpuBench") -> Iterator["Point"]:
    """The decode step's own addition and norm [b, D]: `bytes` are those read and written."""
    for size in HIDDEN_SIZES:
        weight = bench.random(size)
        for rows in STEP_ROWS:
            work: Work = partial(
                bench.kernels.add_norm,
                bench.random(rows, size),
                bench.random(rows, size),
                weight,
                EPSILON,
            )
            num_bytes = 4 * rows * size * bench.dtype.itemsize
            seconds = after_products(bench, work)
            yield {"op": "norm", "rows": rows, "bytes": num_bytes, "seconds": seconds}


def choices(bench: "GpuBench") -> Iterator["Point"]:
    """The likeliest of V logits in each of b rows: `bytes` are those of one row."""
    for size in VOCABULARIES:
        for rows in SEQUENCES:
            work: Work = partial(torch.argmax, bench.random(rows, size), dim=-1)
            seconds = after_products(bench, work)
            num_bytes = size * bench.dtype.itemsize
            yield {"op": "choice", "rows": rows, "bytes": num_bytes, "seconds": seconds}


def after_products(bench: "GpuBench", work: "Work") -> float:
    """Seconds of one call that follows a product, as in a step: both, less the product alone."""
    row = bench.random(1, MATRIX[1])
    weights = [bench.random(*MATRIX) for _ in range(4)]
    products: list[Work] = [partial(bench.kernels.linear, row, weight) for weight in weights]
    pairs = [one for product in products for one in (product, work)]
    repeats = CALLS // len(products)
    return 2 * bench.seconds(pairs * repeats) - bench.seconds(products * repeats)


def grouped_products(bench: "GpuBench") -> Iterator["Point"]:
    """Rows sorted by expert times their experts' weights, experts chosen at random; both products
    of a layer. Nothing where a grouped product cannot be captured."""
    dice = random.Random(SEED)
    for experts, per_token, hidden, inner in EXPERTS:
        for inputs, outputs in ((hidden, 2 * inner), (inner, hidden)):
            stacks = [bench.random(experts, outputs, inputs).transpose(1, 2) for _ in range(2)]
            if not grouped_mm_stays_on_device(stacks[0]):
                return
            for tokens in EXPERT_TOKENS:
                counts = chosen(dice, experts, per_token, tokens)
                ends = torch.tensor(counts, dtype=torch.int32, device=bench.device).cumsum(0)
                rows = bench.random(tokens * per_token, inputs)
                grouped: Any = functional.grouped_mm
                offsets = ends.to(torch.int32)
                works = [partial(grouped, rows, stack, offs=offsets) for stack in stacks]
                yield {
                    "op": "grouped",
                    "rows": tokens * per_token,
                    "reached": sum(count > 0 for count in counts),
                    "inputs": inputs,
                    "outputs": outputs,
                    "seconds": bench.seconds(works * 2),
                }


def chosen(dice: random.Random, experts: int, per_token: int, tokens: int) -> list[int]:
    """How many tokens each expert gets, when each chooses `per_token` different ones at random."""
    counts = [0] * experts
    for _ in range(tokens):
        for expert in dice.sample(range(experts), per_token):
            counts[expert] += 1
    return counts
