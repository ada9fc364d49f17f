"""Token ids for what an endpoint tells as text, by the model's own tokenizer where one is given."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perfkit.baseline.answers import Scored
from perfkit.baseline.endpoint import ID_PREFIX, Place, Reply
from perfkit.errors import ConfigError, ToolMissing

UNKNOWN_TEXT = "\ufffd"


class Tokens:
    """Texts to ids and back; without a tokenizer only what the endpoint itself numbers."""

    def __init__(self, tokenizer: Any = None) -> None:
        self.tokenizer = tokenizer
        self._ids: dict[str, int] | None = None

    def prompt(self, text: str) -> tuple[str, tuple[int, ...] | None]:
        """What a completion is asked to go on from, and its ids, as `perfkit run --prompts` has
        them: through the chat template when there is one."""
        if self.tokenizer is None:
            return text, None
        from perfkit.engine.batch import chat_ids, chat_text

        return chat_text(self.tokenizer, text), tuple(chat_ids(self.tokenizer, text))

    def id_of(self, text: str) -> int | None:
        """The token of that text; None for none, or when several bytes make one character."""
        if text.startswith(ID_PREFIX):
            return int(text.removeprefix(ID_PREFIX))
        if self._ids is None:
            self._ids = self._all_ids()
        return self._ids.get(text)

    def _all_ids(self) -> dict[str, int]:
        if self.tokenizer is None:
            return {}
        texts = self.tokenizer.batch_decode([[one] for one in range(len(self.tokenizer))])
        found: dict[str, int] = {}
        for number, text in enumerate(texts):
            if UNKNOWN_TEXT not in text:
                found.setdefault(text, number)
        return found

    def chosen(self, reply: Reply) -> tuple[int, ...] | None:
        """The ids of an answer: the endpoint's own, those of its tokens' texts, or None."""
        if reply.token_ids is not None:
            return reply.token_ids
        if reply.places is None:
            return None
        ids = [self.id_of(place.token) for place in reply.places]
        if None in ids and self.tokenizer is not None:
            again = self.tokenizer(reply.text, add_special_tokens=False)["input_ids"]
            if len(again) == len(ids):
                ids = [a if known is None else known for known, a in zip(ids, again, strict=True)]
        known_ids = tuple(one for one in ids if one is not None)
        return known_ids if len(known_ids) == len(ids) else None

    def scored(self, ids: Sequence[int] | None, places: Sequence[Place] | None) -> Scored | None:
        """Log probabilities by token id; None where ids or most likely tokens are not known.

        Most likely tokens whose ids are not known are left out: they count among all others.
        """
        if not ids or not places or len(ids) != len(places) or not all(p.top for p in places):
            return None
        tops = [self._top(one, place) for one, place in zip(ids, places, strict=True)]
        return Scored(
            token_ids=tuple(ids),
            logprobs=tuple(place.logprob for place in places),
            top_ids=tuple(tuple(top) for top in tops),
            top_logprobs=tuple(tuple(top.values()) for top in tops),
        )

    def _top(self, own: int, place: Place) -> dict[int, float]:
        known = {self.id_of(text): value for text, value in place.top.items()}
        top = {one: value for one, value in known.items() if one is not None}
        if place.logprob is not None:
            top.setdefault(own, place.logprob)
        return dict(sorted(top.items(), key=lambda pair: -pair[1]))


def load_tokens(folder: Path | None) -> Tokens:
    """With the tokenizer of a model folder; ConfigError when it has none."""
    if folder is None:
        return Tokens()
    try:
        from perfkit.engine.batch import load_tokenizer
    except ImportError as error:
        raise ToolMissing(
            f"--tokenizer needs {error.name}. Install it with: pip install 'perfkit[run]'",
        ) from error
    tokenizer = load_tokenizer(str(folder))
    if tokenizer is None:
        raise ConfigError(f"{folder} has no tokenizer files. Give the model's folder.")
    return Tokens(tokenizer)
