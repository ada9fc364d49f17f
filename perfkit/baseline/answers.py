"""Answers to prompts, from a run or from an endpoint, in one form that both sides of a comparison
have.

An answer has the tokens that a model chose, and may be scored: what the model gives to each token
of a sequence when it is fed that sequence, its own or another's. Standard library only, but for a
baseline of an endpoint, which is a parquet file.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.errors import ConfigError
from perfkit.schema import RunFolder, open_run

PARQUET = ".parquet"
DEFAULT_TOP = 64
"""most likely tokens a place that `perfkit run --follow` keeps unless told otherwise"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What a model gives to each token of a sequence, after all tokens before it.

    Log probabilities are natural (nats); None stands for one that was no number.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    """of these tokens"""
    top_ids: tuple[tuple[int, ...], ...]
    """the most likely tokens in each place, most likely first"""
    top_logprobs: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One prompt and what came back."""

    prompt_id: str
    prompt_sha256: str | None
    """of the prompt's token ids; None where they are not known"""
    prompt_token_ids: tuple[int, ...] | None
    token_ids: tuple[int, ...] | None
    """the tokens chosen; None where an endpoint gave text only"""
    text: str | None
    scored: Scored | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """All answers of a run or of an endpoint, and what they were asked with."""

    source: Path
    kind: str
    """run or endpoint"""
    settings: Mapping[str, Any]
    """of a run: config of run.json; of an endpoint: what `perfkit baseline` was asked"""
    model_id: str
    vocabulary: int | None
    """tokens of the model; None where that is not known"""
    answers: tuple[Answer, ...]

    @property
    def top(self) -> int:
        """The most log probabilities that any place has; 0 where there are none."""
        scored = [answer.scored for answer in self.answers if answer.scored]
        return max((len(ids) for one in scored for ids in one.top_ids), default=0)


def open_answers(path: Path) -> Answers:
    """The answers of a run folder or of a baseline file; ConfigError where there are none."""
    if path.suffix == PARQUET:
        from perfkit.baseline.store import read_baseline

        return read_baseline(path)
    if path.is_file():
        raise ConfigError(
            f"{path} is neither a run folder nor a baseline. Give the folder that "
            "`perfkit run --out` wrote or the .parquet file that `perfkit baseline -o` wrote.",
        )
    folder, run = open_run(path)
    if run.get("task") != "inference":
        raise ConfigError(
            f"{path} is a run of another program: its tokens are not known. Give a run of "
            "perfkit's own engine, `perfkit run MODEL`.",
        )
    answers = tuple(_of_record(record) for record in _records(folder))
    return Answers(
        source=path,
        kind="run",
        settings=run["config"],
        model_id=run["model"]["id"],
        vocabulary=run["model"]["config"].get("vocab_size"),
        answers=answers,
    )


def _records(folder: RunFolder) -> Iterator[dict[str, Any]]:
    path = folder.outputs
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
    except FileNotFoundError:
        raise ConfigError(
            f"{path} is missing: the run ended before its last timed pass. "
            f"`perfkit analyze {folder.root}` says why.",
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}. Make the run again.") from error
    if not records:
        raise ConfigError(f"{path} is empty. Make the run again.")
    yield from records


def _of_record(record: Mapping[str, Any]) -> Answer:
    """One line of outputs.jsonl; runs of before scoring have the tokens only."""
    scored = record.get("scored")
    prompt = record.get("prompt_token_ids")
    return Answer(
        prompt_id=record["prompt_id"],
        prompt_sha256=record.get("prompt_sha256"),
        prompt_token_ids=None if prompt is None else tuple(prompt),
        token_ids=tuple(record["token_ids"]),
        text=record.get("text"),
        scored=None if scored is None else scored_of(scored),
    )


def scored_of(content: Mapping[str, Any]) -> Scored:
    """From JSON, or from a row of a baseline."""
    return Scored(
        token_ids=tuple(content["token_ids"]),
        logprobs=tuple(content["logprobs"]),
        top_ids=tuple(tuple(ids) for ids in content["top_ids"]),
        top_logprobs=tuple(tuple(values) for values in content["top_logprobs"]),
    )


def prompt_sha256(token_ids: tuple[int, ...]) -> str:
    """A short name of a prompt's tokens: two sides have the same prompt when it is the same."""
    text = ",".join(map(str, token_ids))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def followable(found: Answers) -> list[tuple[Answer, tuple[int, ...]]]:
    """Each answer whose prompt and tokens are known, with the tokens to feed; ConfigError without.

    The tokens are those that the other side was scored on, else those that it chose.
    """
    pairs = []
    for answer in found.answers:
        fed = answer.scored.token_ids if answer.scored else answer.token_ids
        if answer.prompt_token_ids and fed:
            pairs.append((answer, fed))
    if pairs:
        return pairs
    raise ConfigError(f"{found.source} cannot be followed: {_why_not(found)}")


def _why_not(found: Answers) -> str:
    if found.kind == "run":
        return (
            "its prompts' token ids were not kept. Make that run again with --logprobs "
            f"{DEFAULT_TOP}, then this one."
        )
    return (
        "the endpoint gave no token ids. Make the baseline again with --tokenizer MODEL_FOLDER, "
        "the folder of the model that you run."
    )
