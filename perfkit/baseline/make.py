"""Makes a baseline: every prompt asked once, every answer kept at once."""

import datetime
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from perfkit.baseline.answers import PARQUET, Scored, followable, open_answers, prompt_sha256
from perfkit.baseline.endpoint import Asking, Reply, Way, ask, find_way, score
from perfkit.baseline.http import Client
from perfkit.baseline.store import Journal, write_baseline
from perfkit.baseline.tokens import Tokens
from perfkit.engine.prompts import read_prompts
from perfkit.errors import ConfigError

Story = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt: what is asked as text, as ids, and the tokens to score after it."""

    id: str
    text: str | None
    token_ids: tuple[int, ...] | None
    path: tuple[int, ...] | None = None
    """the new tokens of the run that the prompts are from"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a baseline is made of."""

    endpoint: str
    asking: Asking
    prompts: tuple[Prompt, ...]
    prompts_from: str

    def settings(self) -> dict[str, Any]:
        """What the file says of itself; the same for every part of an interrupted making."""
        told = "\n".join(f"{p.id} {p.text} {p.token_ids} {p.path}" for p in self.prompts)
        return {
            "endpoint": self.endpoint,
            **asdict(self.asking),
            "prompts_from": self.prompts_from,
            "prompts_sha256": hashlib.sha256(told.encode()).hexdigest()[:16],
        }


def checked_endpoint(url: str) -> str:
    """The base address, to which `/completions` is added; ConfigError for what is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--endpoint {url!r} is no address such as https://HOST/v1.")
    if parts.username or parts.password or parts.query:
        raise ConfigError(
            "--endpoint holds a user, a password or a query, which would be written down. Put the "
            "key in the environment variable that --key-env names.",
        )
    for end in ("/chat/completions", "/completions"):
        url = url.removesuffix("/").removesuffix(end)
    return url


def checked_key(name: str, value: str | None) -> str | None:
    """The key; ConfigError, without showing it, where it could not stand in a header."""
    if value is None or not value.strip():
        return None
    key = value.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(f"the key in {name} has spaces or characters that no key has. Check it.")
    return key


def prompts_of(source: Path, api: str, tokens: Tokens) -> tuple[Prompt, ...]:
    """From a file of texts, or from a run folder: that run's own prompts and tokens."""
    if source.is_dir() or source.suffix == PARQUET:
        if api == "chat":
            raise ConfigError(
                f"--api chat takes texts, and {source} has token ids. Use --api completions."
            )
        pairs = followable(open_answers(source))
        return tuple(
            Prompt(id=a.prompt_id, text=None, token_ids=a.prompt_token_ids, path=path)
            for a, path in pairs
        )
    found = []
    for prompt in read_prompts(source):
        text, ids = tokens.prompt(prompt.text)
        asked = prompt.text if api == "chat" else text
        found.append(Prompt(id=prompt.id, text=asked, token_ids=ids))
    return tuple(found)


def make_baseline(
    order: Order, client: Client, tokens: Tokens, out: Path, story: Story
) -> list[dict[str, Any]]:
    """Ask what is not answered yet and write `out`; returns its rows."""
    journal, settings = Journal(out), order.settings()
    rows = journal.resume(settings)
    if rows:
        story(f"{len(rows)} of {len(order.prompts)} answers are in {journal.path}; going on")
    maker = Maker(client, order.asking, tokens, story)
    for number, prompt in enumerate(order.prompts[len(rows) :], start=len(rows) + 1):
        row = maker.row(prompt)
        journal.keep(row)
        rows.append(row)
        story(f"{number} of {len(order.prompts)}: {prompt.id}")
    write_baseline(out, {**settings, "asked_at": rows[0]["asked_at"]}, rows)
    journal.drop()
    return rows


class Maker:
    """Asks prompt after prompt in the way that the endpoint took for the first."""

    def __init__(self, client: Client, asking: Asking, tokens: Tokens, story: Story) -> None:
        self.client, self.asking, self.tokens, self.story = client, asking, tokens, story
        self.way: Way | None = None
        self.scores: bool | None = None
        self._told: set[str] = set()

    def row(self, prompt: Prompt) -> dict[str, Any]:
        """One line of the journal and of the baseline."""
        asked_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        reply = self._ask(prompt)
        ids = self.tokens.chosen(reply)
        prompt_ids = self._prompt_ids(prompt, reply)
        scored = self._score(prompt) or self.tokens.scored(ids, reply.places)
        return {
            "prompt_id": prompt.id,
            "prompt": prompt.text,
            "prompt_sha256": prompt_sha256(prompt_ids) if prompt_ids else None,
            "prompt_token_ids": prompt_ids,
            "token_ids": ids,
            "text": reply.text,
            "finish_reason": reply.finish_reason,
            "asked_at": asked_at,
            "scored_token_ids": scored.token_ids if scored else None,
            "scored_logprobs": scored.logprobs if scored else None,
            "scored_top_ids": scored.top_ids if scored else None,
            "scored_top_logprobs": scored.top_logprobs if scored else None,
        }

    def _ask(self, prompt: Prompt) -> Reply:
        if self.way is not None:
            return ask(self.client, self.asking, self.way, prompt.text, prompt.token_ids)
        self.way, reply = find_way(self.client, self.asking, prompt.text, prompt.token_ids)
        self.story(f"the endpoint takes {self.way.told}")
        return reply

    def _prompt_ids(self, prompt: Prompt, reply: Reply) -> tuple[int, ...] | None:
        """The endpoint's own, else ours if it counted as many."""
        if reply.prompt_token_ids is not None:
            return reply.prompt_token_ids
        assert self.way is not None
        ours, counted = prompt.token_ids, reply.prompt_tokens
        if self.way.as_ids or ours is None or counted is None or counted == len(ours):
            return ours
        self._once(
            f"warning: the endpoint counts {counted} tokens in {prompt.id}, the tokenizer "
            f"{len(ours)}: they do not agree, so the prompts' tokens are not known and no run can "
            "follow this baseline"
        )
        return None

    def _score(self, prompt: Prompt) -> Scored | None:
        """What the endpoint gives to the run's own tokens, if it can say."""
        if prompt.path is None or self.scores is False or not self.asking.logprobs:
            return None
        assert prompt.token_ids is not None
        assert self.way is not None
        top = self.way.logprobs or self.asking.logprobs
        places = score(
            self.client, self.asking, prompt.token_ids, prompt.path, top, known=bool(self.scores)
        )
        found = self.tokens.scored(prompt.path, places)
        if self.scores is None:
            self.scores = found is not None
            what = "scores" if found else "does not score"
            self.story(f"the endpoint {what} the tokens it is given")
        return found

    def _once(self, text: str) -> None:
        kind = text[:40]
        if kind not in self._told:
            self._told.add(kind)
            self.story(text)


def summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the baseline has and lacks, in words."""
    count = len(rows)
    scored = sum(row["scored_token_ids"] is not None for row in rows)
    lines = [f"{count} answers, {scored} of them with log probabilities and token ids"]
    if not scored and any(row["token_ids"] is not None for row in rows):
        lines.append(
            "the endpoint tells no log probabilities: `perfkit verify` compares tokens only"
        )
    elif not scored:
        lines.append(
            "no token ids: `perfkit verify` compares the texts only. With --tokenizer MODEL_FOLDER "
            "log probabilities are kept, where the endpoint tells any."
        )
    return lines
