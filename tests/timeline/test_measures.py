"""The formulas of perfkit.measures against numbers worked out by hand."""

import pytest

from perfkit import measures

SECOND = 1_000_000_000


def test_ttft_of_a_batch_is_the_last_of_its_microbatches_first_tokens() -> None:
    assert measures.ttft_s(5 * SECOND, [6 * SECOND, 7 * SECOND]) == 2.0
    assert measures.ttft_first_s(5 * SECOND, [6 * SECOND, 7 * SECOND]) == 1.0


def test_tpot_counts_the_tokens_after_the_first() -> None:
    assert measures.tpot_s(e2e_s=10.0, ttft_s=1.0, new_tokens=10) == 1.0


def test_tpot_of_a_single_token_was_not_measured() -> None:
    assert measures.tpot_s(e2e_s=1.0, ttft_s=1.0, new_tokens=1) is None


def test_throughput_counts_the_new_tokens_of_all_sequences() -> None:
    assert measures.throughput_tokens_per_s(tokens=64, e2e_s=4.0) == 16.0


def test_profiler_ratio_is_against_the_median_timed_pass() -> None:
    assert measures.profiler_ratio(3.0, [1.0, 2.0, 9.0]) == 1.5


def test_spread_keeps_the_range_and_the_count() -> None:
    found = measures.spread([3.0, 1.0, 2.0])
    assert found == measures.Spread(median=2.0, min=1.0, max=3.0, count=3)
    assert measures.spread([]) is None


@pytest.mark.parametrize("end_ns", [1_795_383_368_332_597_419])
def test_differences_are_taken_before_rounding_to_seconds(end_ns: int) -> None:
    assert measures.e2e_s(end_ns - 1, [end_ns]) == 1e-9
