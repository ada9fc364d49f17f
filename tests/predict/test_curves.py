"""The curves of kernels: their limits, and the files they are read from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfkit.errors import ConfigError
from perfkit.predict.curve_files import find_curves, read_curves
from perfkit.predict.curves import (
    Collective,
    Curves,
    DecodeAttention,
    Gemm,
    PrefillAttention,
    Regime,
    Stream,
    scaled_curves,
)

GEMM = Gemm(flops_per_s=8e14, bytes_per_s=4e12, start_s=3e-6, ramp_s=1e-6, sharpness=4)
PAIR = Collective("all_reduce", 2, (Regime(8e-6, 1e11), Regime(2e-5, 3e11)))
SHIPPED = ("h100-sxm", "h200-sxm")
MEASURED = (
    *("gemm", "vector", "decode_attention", "prefill_attention", "elementwise"),
    *("strided", "norm", "choice", "grouped"),
)


def shipped(gpu: str) -> Curves:
    found = find_curves(gpu, "bfloat16")
    assert found is not None
    return found.curves


def test_a_large_product_takes_its_operations_and_a_thin_one_its_bytes() -> None:
    assert GEMM.seconds(8e14, 1e9) == pytest.approx(1.0, rel=1e-4)
    assert GEMM.seconds(1e9, 4e12) == pytest.approx(1.0, rel=1e-4)
    assert GEMM.seconds(1.0, 1.0) == pytest.approx(4e-6, rel=1e-3)


@given(
    flops=st.floats(1e3, 1e16),
    num_bytes=st.floats(1e3, 1e12),
    more=st.floats(1.01, 1e3),
    sharpness=st.floats(1, 30),
)
def test_a_product_takes_longer_with_more_of_either(
    flops: float, num_bytes: float, more: float, sharpness: float
) -> None:
    gemm = replace(GEMM, sharpness=sharpness)
    here = gemm.seconds(flops, num_bytes)
    assert np.isfinite(here)
    assert gemm.seconds(flops * more, num_bytes) >= here
    assert gemm.seconds(flops, num_bytes * more) >= here
    roofline = max(flops / gemm.flops_per_s, num_bytes / gemm.bytes_per_s)
    assert here > roofline


def test_arrays_give_what_numbers_give() -> None:
    flops, size = np.array([[1e9], [1e12]]), np.array([1e6, 1e8, 1e9])
    table = GEMM.seconds(flops, size)
    assert table.shape == (2, 3)
    assert table[1, 2] == GEMM.seconds(1e12, 1e9)
    assert PAIR.seconds(np.array([1e3, 1e9])).tolist() == [PAIR.seconds(1e3), PAIR.seconds(1e9)]


def test_a_stream_adds_or_takes_the_larger() -> None:
    both = Stream(bytes_per_s=1e12, start_s=1e-6, sharpness=1)
    assert both.seconds(1e6) == pytest.approx(2e-6)
    assert replace(both, sharpness=30).seconds(1e6) == pytest.approx(1e-6, rel=0.03)


def test_attention_reads_its_cache_and_computes_its_triangle() -> None:
    decode = DecodeAttention(bytes_per_s=4e12, start_s=4e-6, head_s=1e-9)
    assert decode.seconds(4e6, 1000) == pytest.approx(6e-6)
    prefill = PrefillAttention(flops_per_s=6e14, start_s=7e-6, ramp_tokens=400)
    assert prefill.seconds(6e11, 400) == pytest.approx(7e-6 + 2e-3)


def test_an_all_reduce_changes_regime_with_size() -> None:
    assert PAIR.seconds(1e3) == pytest.approx(8e-6 + 1e-8)
    assert PAIR.seconds(3e8) == pytest.approx(2e-5 + 1e-3)
    eight = Collective("all_reduce", 8, PAIR.regimes)
    assert eight.seconds(4e8) == pytest.approx(2e-5 + 7 / 4 * 4 / 3 * 1e-3)


@pytest.mark.parametrize("gpu", SHIPPED)
@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_twice_the_rates_take_half_the_time(gpu: str, factor: float) -> None:
    slow, fast = shipped(gpu), scaled_curves(shipped(gpu), factor)
    pairs = (
        (slow.gemm.seconds(1e12, 1e8), fast.gemm.seconds(1e12, 1e8)),
        (slow.vector.seconds(1e8), fast.vector.seconds(1e8)),
        (slow.decode_attention.seconds(1e7, 64), fast.decode_attention.seconds(1e7, 64)),
        (slow.prefill_attention.seconds(1e11, 512), fast.prefill_attention.seconds(1e11, 512)),
        (slow.strided.seconds(1e6), fast.strided.seconds(1e6)),
        (
            slow.collectives["all_reduce", 4].seconds(1e5),
            fast.collectives["all_reduce", 4].seconds(1e5),
        ),
    )
    for before, after in pairs:
        assert after == pytest.approx(before / factor)
    assert slow.hop_s is not None
    assert fast.hop_s == pytest.approx(slow.hop_s / factor)


@pytest.mark.parametrize("gpu", SHIPPED)
def test_shipped_curves_say_where_each_number_comes_from_and_how_well_it_fits(gpu: str) -> None:
    curves = shipped(gpu)
    for name in MEASURED:
        assert curves.provenance[name] == "microbenchmark"
        assert 0 < curves.spread[name] < 0.15
    assert "aiconfigurator" in curves.provenance["all_reduce.2"]


def test_a_kernel_of_the_shipped_curves_takes_what_it_was_measured_to() -> None:
    """Microseconds on an H200: one row by [28672, 8192]; 2048 rows by the same; attention of one
    token over 2048, of a prompt of 4096."""
    curves, size = shipped("h200-sxm"), 2 * 28672 * 8192
    assert curves.vector.seconds(size) == pytest.approx(104.4e-6, rel=0.05)
    flops, moved = 2 * 2048 * 28672 * 8192, size + 2 * 2048 * (28672 + 8192)
    assert curves.gemm.seconds(flops, moved) == pytest.approx(1.28e-3, rel=0.1)
    cache = 2 * 2 * 2048 * 8 * 128
    assert curves.decode_attention.seconds(cache, 32) == pytest.approx(9.3e-6, rel=0.1)
    assert curves.prefill_attention.seconds(2 * 32 * 128 * 4096**2, 4096) == pytest.approx(
        254.7e-6, rel=0.1
    )


def test_a_file_without_a_table_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "h200-sxm-bfloat16.toml"
    path.write_text('gpu = "x"\ndtype = "bfloat16"\ndate = "2026-01-01"\n')
    with pytest.raises(ConfigError, match=r"h200-sxm-bfloat16.toml has no 'host'"):
        read_curves(path)
    path.write_text("gpu = ")
    with pytest.raises(ConfigError, match="cannot read"):
        read_curves(path)


def test_a_users_own_curves_come_first(tmp_path: Path) -> None:
    folder = tmp_path / "calibrations"
    folder.mkdir()
    source = Path(__file__).parents[2] / "models" / "calibrations" / "h200-sxm-bfloat16.toml"
    (folder / "h200-sxm-bfloat16.toml").write_text(
        source.read_text().replace('date = "2026-11-23"', 'date = "2027-01-01"')
    )
    found = find_curves("h200-sxm", "bfloat16", tmp_path)
    assert found is not None
    assert found.date == "2027-01-01"
    assert find_curves("h200-sxm", "float32", tmp_path) is None
