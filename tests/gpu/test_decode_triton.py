"""The Triton kernels of the decode step against the plain functions they stand for."""

import pytest
import torch

from perfkit.engine import decode_kernels as plain
from perfkit.engine.static_kv import StaticKV

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICE = torch.device("cuda")
# b sequences, N query heads, K kv heads, H head size, S slots
SHAPES = [(1, 32, 8, 128, 2112), (32, 32, 8, 128, 700), (4, 6, 3, 16, 40), (2, 64, 8, 64, 300)]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, device=DEVICE)


def assert_same(found: torch.Tensor, expected: torch.Tensor, times: float = 1) -> None:
    allowed = times * TOLERANCE[expected.dtype]
    torch.testing.assert_close(found, expected, atol=allowed, rtol=allowed)


def filled_kv(b: int, k: int, h: int, s: int, dtype: torch.dtype) -> StaticKV:
    """Half-full buffers of sequences that start at different slots."""
    kv = StaticKV((b, s, k, h), 1, dtype, DEVICE)
    for buffer in (*kv.keys, *kv.values):
        buffer.normal_()
    lengths = torch.randint(s // 4, s // 2, (b, 1), device=DEVICE)
    kv.begin(s // 2, lengths)
    return kv


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("window", [None, 12])
@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_attention(
    shape: tuple[int, ...], with_sinks: bool, window: int | None, dtype: torch.dtype
) -> None:
    from perfkit.engine import decode_triton as fused

    torch.manual_seed(0)
    b, n, k, h, s = shape
    kv, query = filled_kv(b, k, h, s, dtype), random(b, n, h, dtype=dtype)
    sinks = random(n, dtype=dtype) if with_sinks else None
    expected = plain.attention(query, kv, 0, h**-0.5, window, sinks)
    found = fused.attention(query, kv, 0, h**-0.5, window, sinks)
    assert_same(found, expected)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_rotation_and_cache(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    from perfkit.engine import decode_triton as fused

    torch.manual_seed(0)
    b, n, k, h, s = shape
    qkv = random(b, n + 2 * k, h, dtype=dtype)
    cos, sin = (random(b, 1, h // 2, dtype=dtype).repeat(1, 1, 2) for _ in range(2))
    one, other = (StaticKV((b, s, k, h), 1, dtype, DEVICE) for _ in range(2))
    for kv in (one, other):
        kv.begin(s // 2, None)
    expected = plain.rotate_and_store(qkv, cos, sin, one.keys[0], one.values[0], one.slot)
    found = fused.rotate_and_store(qkv, cos, sin, other.keys[0], other.values[0], other.slot)
    assert_same(found, expected, times=4)
    assert_same(other.keys[0], one.keys[0], times=4)
    assert torch.equal(other.values[0], one.values[0])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("b", "d"), [(1, 4096), (32, 8192), (3, 576)])
def test_norms_and_activation(b: int, d: int, dtype: torch.dtype) -> None:
    from perfkit.engine import decode_triton as fused

    torch.manual_seed(0)
    hidden, delta, weight = random(b, d, dtype=dtype), random(b, d, dtype=dtype), random(d)
    weight = weight.to(dtype)
    for found, expected in zip(
        fused.add_norm(hidden, delta, weight, 1e-5),
        plain.add_norm(hidden, delta, weight, 1e-5),
        strict=True,
    ):
        assert_same(found, expected)
    assert_same(fused.gated(hidden), plain.gated(hidden))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("n", "d"), [(6144, 4096), (576, 1536), (100, 96)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_product_of_one_row(n: int, d: int, with_bias: bool, dtype: torch.dtype) -> None:
    from perfkit.engine import decode_triton as fused

    torch.manual_seed(0)
    inputs, weight = random(1, d, dtype=dtype), random(n, d, dtype=dtype) / d**0.5
    bias = random(n, dtype=dtype) if with_bias else None
    expected = torch.nn.functional.linear(inputs, weight, bias)
    assert_same(fused.linear(inputs, weight, bias), expected)
