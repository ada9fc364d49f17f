"""The two sides of a fidelity comparison: which answers belong together, what to know of them."""

from collections.abc import Iterator

from perfkit.baseline.answers import DEFAULT_TOP, Answer, Answers
from perfkit.errors import ConfigError

FEW_PLACES = 100


def matched(baseline: Answers, run: Answers) -> tuple[list[tuple[Answer, Answer]], list[str]]:
    """The run's answers, each with the baseline's to the same prompt; ConfigError for none."""
    by_key: dict[str, Answer] = {}
    hashed = all(a.prompt_sha256 for side in (baseline, run) for a in side.answers)
    for answer in baseline.answers:
        by_key.setdefault(_key(answer, hashed=hashed), answer)
    pairs = [
        (by_key[_key(answer, hashed=hashed)], answer)
        for answer in run.answers
        if _key(answer, hashed=hashed) in by_key
    ]
    if not pairs:
        raise ConfigError(_no_pair(baseline, run))
    notes = []
    if left := len(run.answers) - len(pairs):
        notes.append(
            f"{left} of {len(run.answers)} prompts of {run.source} are not in the baseline"
        )
    if not hashed:
        notes.append("prompts were matched by their ids only: a side does not have their tokens")
    return pairs, notes


def _key(answer: Answer, *, hashed: bool) -> str:
    return (answer.prompt_sha256 if hashed else None) or answer.prompt_id


def _no_pair(baseline: Answers, run: Answers) -> str:
    same_ids = {a.prompt_id for a in baseline.answers} & {a.prompt_id for a in run.answers}
    if same_ids:
        what = (
            f"the prompts of {run.source} and {baseline.source} have the same ids "
            f"({min(same_ids)}, ...) but not the same tokens: another tokenizer, chat template or "
            "--prompt-tokens"
        )
    else:
        what = f"{run.source} and {baseline.source} have no prompt in common"
    return f"{what}. {_follow(baseline)}"


def _follow(baseline: Answers) -> str:
    return f"Make the run with the baseline's own: perfkit run MODEL --follow {baseline.source}"


def remarks(baseline: Answers, run: Answers, places: int, new_tokens: int) -> Iterator[str]:
    """What a reader of the verdict should know of the two sides."""
    if not baseline.top or not run.top:
        side = baseline if not baseline.top else run
        yield f"{side.source} has no log probabilities: only tokens were compared. {_again(side)}"
    elif places < new_tokens:
        yield (
            f"only {places} of {new_tokens} places could be compared: the two "
            f"were scored on different tokens, which part. {_follow(baseline)}"
        )
    if 0 < places < FEW_PLACES:
        yield f"{places} places are few: shares and the p99 are rough"
    if baseline.kind == "endpoint":
        yield "how the endpoint computes is not known: it may quantise, and its model may change"
    if baseline.model_id != run.model_id:
        yield f"the models are named differently: {baseline.model_id} and {run.model_id}"


def _again(side: Answers) -> str:
    if side.kind == "endpoint":
        return "The endpoint gave none, or no token ids came with them (--tokenizer)."
    return f"Make that run again with --logprobs {DEFAULT_TOP}."
