"""Two answers to one prompt, place by place: how far apart are the two models' next tokens?

    p the baseline's probabilities, q the run's, both of the next token after the same tokens

Both sides keep the most likely tokens of a place only, so a distribution is known in part: these
tokens, and what is left for all others together.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

import polars as pl

from perfkit.baseline.answers import Answer, Scored

PLACES = pl.Schema(
    {
        "prompt_id": pl.String,
        "place": pl.Int32,  # of the new tokens, from 0
        "token_id": pl.Int32,  # what the baseline's side was fed
        "kl_nats": pl.Float64,  # KL(p || q), at least; null where a side has no number
        "truncated_kl_nats": pl.Float64,  # over the tokens that both list, each made to sum to 1
        "covered": pl.Float64,  # share of p that those tokens have
        "same_top1": pl.Boolean,  # both hold the same token most likely
        "overlap": pl.Float64,  # share of p's TOP most likely tokens among q's
        "dlogp": pl.Float64,  # |log q - log p| of the token fed; null where sides were fed others
    }
)
TOP = 5
ROUNDING = 2e-6
"""what a sum of probabilities is off by when each log probability has 6 digits"""


def places(prompt_id: str, baseline: Scored, run: Scored) -> Iterator[dict[str, object]]:
    """PLACES in which both sides had been given the same tokens before."""
    same = common_prefix(baseline.token_ids, run.token_ids)
    count = min(same + 1, len(baseline.token_ids), len(run.token_ids))
    for place in range(count):
        p = distribution(baseline, place)
        q = distribution(run, place)
        yield {
            "prompt_id": prompt_id,
            "place": place,
            "token_id": baseline.token_ids[place],
            "dlogp": _difference(baseline, run, place) if place < same else None,
            **apart(p, q),
        }


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences share from their start."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def distribution(scored: Scored, place: int) -> dict[int, float] | None:
    """{token: log probability}, most likely first; None where the model gave no number."""
    values = scored.top_logprobs[place]
    if not values or any(value is None for value in values):
        return None
    return {
        token: value
        for token, value in zip(scored.top_ids[place], values, strict=True)
        if value is not None
    }


def _difference(baseline: Scored, run: Scored, place: int) -> float | None:
    one, other = baseline.logprobs[place], run.logprobs[place]
    return None if one is None or other is None else abs(other - one)


def apart(
    p: Mapping[int, float] | None, q: Mapping[int, float] | None
) -> dict[str, float | bool | None]:
    """The columns of PLACES that compare two distributions."""
    if not p or not q:
        names = ("kl_nats", "truncated_kl_nats", "covered", "same_top1", "overlap")
        return dict.fromkeys(names)
    top = min(TOP, len(p), len(q))
    best_p, best_q = list(p)[:top], list(q)[:top]
    truncated, covered = truncated_kl(p, q)
    return {
        "kl_nats": kl_at_least(p, q),
        "truncated_kl_nats": truncated,
        "covered": covered,
        "same_top1": best_p[0] == best_q[0],
        "overlap": len(set(best_p) & set(best_q)) / top,
    }


def kl_at_least(p: Mapping[int, float], q: Mapping[int, float]) -> float:
    """The least KL(p || q) [nats] that what is known allows; all of it when every token is listed.

    Merging outcomes never raises KL, so these outcomes give a lower bound: each token that both
    list; all that only p lists (a, of which q can have at most what its own list leaves, and no
    token more than its least likely one); all others (c). Where q may divide what is left, it is
    divided as makes KL least.
    """
    shared = p.keys() & q.keys()
    total = sum(math.exp(p[token]) * (p[token] - q[token]) for token in shared)
    only_p = [token for token in p if token not in q]
    a = sum(math.exp(p[token]) for token in only_p)
    c = max(1 - sum(map(math.exp, p.values())), ROUNDING)
    rest = max(1 - sum(math.exp(q[token]) for token in shared), ROUNDING)
    if a == 0:
        return total + c * math.log(c / rest)
    unlisted = max(1 - sum(map(math.exp, q.values())), ROUNDING)
    most = max(min(unlisted, len(only_p) * math.exp(min(q.values()))), ROUNDING)
    b = min(most, rest * a / (a + c))
    return total + a * math.log(a / b) + c * math.log(c / max(rest - b, ROUNDING))


def truncated_kl(p: Mapping[int, float], q: Mapping[int, float]) -> tuple[float | None, float]:
    """KL over the tokens that both list, renormalised, and the share of p that they cover.

    What can be said of an endpoint that tells five or twenty tokens; not a bound of anything.
    """
    shared = p.keys() & q.keys()
    mass_p = sum(math.exp(p[token]) for token in shared)
    mass_q = sum(math.exp(q[token]) for token in shared)
    if not shared or not mass_p or not mass_q:
        return None, 0.0
    shift = math.log(mass_q / mass_p)
    total = sum(math.exp(p[token]) * (p[token] - q[token] + shift) for token in shared)
    return total / mass_p, min(mass_p, 1.0)


def divergence(baseline: Answer, run: Answer) -> dict[str, object] | None:
    """The first place in which the two chose different tokens, or None.

    margin_nats is how much likelier the baseline held its own token than the run's: a small one
    says that rounding may have decided. margin_at_least: the run's token is not in its list.
    """
    if baseline.token_ids is None or run.token_ids is None:
        return None
    place = common_prefix(baseline.token_ids, run.token_ids)
    if place >= min(len(baseline.token_ids), len(run.token_ids)):
        return None
    own, other = baseline.token_ids[place], run.token_ids[place]
    p = _after_same(baseline, place)
    q = _after_same(run, place)
    found: dict[str, object] = {
        "prompt_id": run.prompt_id,
        "place": place,
        "baseline_token_id": own,
        "run_token_id": other,
        "margin_nats": None,
        "margin_at_least": False,
        "in_each_others_top": other in p and own in q if p and q else None,
    }
    if p and own in p:
        known = other in p
        found["margin_nats"] = p[own] - (p[other] if known else min(p.values()))
        found["margin_at_least"] = not known
    return found


def _after_same(answer: Answer, place: int) -> dict[int, float] | None:
    """The distribution in a place, if the answer was scored on its own tokens up to there."""
    if answer.scored is None or answer.token_ids is None:
        return None
    if place >= len(answer.scored.token_ids):
        return None
    if common_prefix(answer.scored.token_ids, answer.token_ids) < place:
        return None
    return distribution(answer.scored, place)
