"""Two distributions known in part: what is said of them is never more than what is true."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfkit.baseline.answers import Answer, Scored
from perfkit.compare.fidelity_places import apart, divergence, kl_at_least, places, truncated_kl

WEIGHTS = st.lists(st.floats(1e-4, 1.0), min_size=12, max_size=12)


def logs(weights: list[float]) -> dict[int, float]:
    whole = sum(weights)
    pairs = [(token, math.log(weight / whole)) for token, weight in enumerate(weights)]
    return dict(sorted(pairs, key=lambda pair: -pair[1]))


def kl(p: dict[int, float], q: dict[int, float]) -> float:
    return sum(math.exp(p[token]) * (p[token] - q[token]) for token in p)


def top(p: dict[int, float], count: int) -> dict[int, float]:
    return dict(list(p.items())[:count])


@given(WEIGHTS, WEIGHTS, st.integers(1, 12), st.integers(1, 12))
def test_the_bound_holds_and_more_tokens_do_not_lower_it(
    one: list[float], other: list[float], few: int, many: int
) -> None:
    p, q = logs(one), logs(other)
    few, many = sorted((few, many))
    exact = kl(p, q)
    assert kl_at_least(top(p, few), top(q, few)) <= exact + 1e-4
    assert kl_at_least(p, q) == pytest.approx(exact, abs=1e-4)


def test_the_bound_of_two_coins() -> None:
    half = {0: math.log(0.5), 1: math.log(0.5)}
    most = {0: math.log(0.9), 1: math.log(0.1)}
    # 0.5 ln(0.5 / 0.9) + 0.5 ln(0.5 / 0.1)
    assert kl_at_least(half, most) == pytest.approx(0.5108256, abs=1e-6)


def test_lists_with_no_token_in_common_are_far_apart() -> None:
    p = {1: math.log(0.9), 2: math.log(0.05)}
    q = {3: math.log(0.9), 4: math.log(0.05)}
    # q leaves 0.05 to all others, so at least 0.95 ln(0.95 / 0.05) of p is lost, less what
    # the others may give back.
    assert kl_at_least(p, q) == pytest.approx(2.6499, abs=1e-3)
    assert apart(p, q) == {
        "kl_nats": kl_at_least(p, q),
        "truncated_kl_nats": None,
        "covered": 0.0,
        "same_top1": False,
        "overlap": 0.0,
    }


def test_truncated_kl_says_how_much_it_covers() -> None:
    p = {1: math.log(0.6), 2: math.log(0.3), 3: math.log(0.1)}
    q = {1: math.log(0.5), 2: math.log(0.25), 9: math.log(0.2)}
    value, covered = truncated_kl(p, q)
    # Over tokens 1 and 2 both are 2 to 1: nothing of their difference is left.
    assert value == pytest.approx(0.0, abs=1e-12)
    assert covered == pytest.approx(0.9)


def scored(path: list[int], tops: list[dict[int, float]]) -> Scored:
    own = tuple(top_.get(token, -9.0) for token, top_ in zip(path, tops, strict=True))
    return Scored(
        token_ids=tuple(path),
        logprobs=own,
        top_ids=tuple(tuple(one) for one in tops),
        top_logprobs=tuple(tuple(one.values()) for one in tops),
    )


def an_answer(tokens: list[int], given_: Scored | None) -> Answer:
    return Answer(
        prompt_id="p1",
        prompt_sha256=None,
        prompt_token_ids=None,
        token_ids=tuple(tokens),
        text=None,
        scored=given_,
    )


SURE = {1: -0.1, 2: -3.0}
UNSURE = {2: -0.6, 1: -0.7}


def test_places_end_where_the_two_were_given_different_tokens() -> None:
    baseline = scored([1, 2, 1], [SURE, UNSURE, SURE])
    run = scored([1, 1, 1], [SURE, SURE, SURE])
    rows = list(places("p1", baseline, run))
    # In place 1 both had been given the same before; what they then take differs.
    assert [row["place"] for row in rows] == [0, 1]
    assert rows[0]["dlogp"] == 0.0
    assert rows[1]["dlogp"] is None
    assert [row["same_top1"] for row in rows] == [True, False]


def test_no_number_is_no_distance() -> None:
    broken = Scored(
        token_ids=(1,), logprobs=(None,), top_ids=((1, 2),), top_logprobs=((None, None),)
    )
    (row,) = places("p1", scored([1], [SURE]), broken)
    assert row["kl_nats"] is None
    assert row["dlogp"] is None


def test_a_divergence_has_the_baselines_margin() -> None:
    baseline = an_answer([1, 2, 1], scored([1, 2, 1], [SURE, UNSURE, SURE]))
    run = an_answer([1, 1, 1], scored([1, 2, 1], [SURE, {1: -0.5, 2: -0.9}, SURE]))
    found = divergence(baseline, run)
    assert found is not None
    assert (found["place"], found["baseline_token_id"], found["run_token_id"]) == (1, 2, 1)
    assert found["margin_nats"] == pytest.approx(0.1)
    assert found["in_each_others_top"] is True


def test_a_token_outside_the_list_has_at_least_that_margin() -> None:
    baseline = an_answer([1], scored([1], [SURE]))
    found = divergence(baseline, an_answer([77], scored([1], [{77: -0.1, 5: -3.0}])))
    assert found is not None
    assert found["margin_nats"] == pytest.approx(2.9)
    assert found["margin_at_least"] is True
    assert found["in_each_others_top"] is False


def test_one_that_ended_earlier_has_not_parted() -> None:
    assert divergence(an_answer([1, 2], None), an_answer([1, 2, 3], None)) is None
