"""Tokens of a prompt by a model's own tokenizer, and prompts cut to a number of tokens.

Counted is what the engine will feed: the text inside the model's chat template, where it has one.
Without transformers the tokenizers package counts the text alone. Neither is needed to install
perfkit, and without both nothing is counted.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.errors import ConfigError, ToolMissing

Count = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Counter:
    """How tokens are counted, and what is in the count, for people."""

    count: Count
    told: str


@dataclass(frozen=True, slots=True)
class Cut:
    """A prompt of so many tokens: its end, or all of it."""

    text: str
    tokens: int


def counter_of(folder: Path) -> Counter:
    """By the engine's own words where torch and transformers are here, else by tokenizers."""
    if not any(folder.glob("tokenizer*")):
        raise ConfigError(
            f"{folder} has no tokenizer: copy the model's tokenizer files there, or leave --model "
            "out for prompts whose tokens are not counted.",
        )
    try:
        from perfkit.engine.batch import chat_ids, load_tokenizer
    except ImportError:
        return Counter(plain_count(folder), "its tokenizer, without a chat template")
    tokenizer = load_tokenizer(str(folder))
    template = bool(getattr(tokenizer, "chat_template", None))
    told = "its tokenizer" + (", with its chat template" if template else "")
    return Counter(lambda text: len(chat_ids(tokenizer, text)), told)


def plain_count(folder: Path) -> Count:
    """Tokens of the text alone, by tokenizer.json."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ToolMissing(
            "tokens cannot be counted here: neither transformers nor tokenizers is installed. "
            "pip install tokenizers, or leave --model out.",
        ) from error
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(f"{folder} has no tokenizer.json, which the tokenizers package reads.")
    tokenizer: Any = Tokenizer.from_file(str(path))
    return lambda text: len(tokenizer.encode(text).ids)


def cut(text: str, tokens: int, count: Count) -> Cut:
    """The end of a text that has exactly `tokens` tokens, or the closest below that there is.

    It begins with a whole word if one gives the exact number, else inside a word. A text that has
    fewer tokens stays whole.
    """
    whole = count(text)
    if whole <= tokens:
        return Cut(text, whole)
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    low, high = 0, len(starts) - 1
    # The first word from which no more than `tokens` are left; counts fall from word to word.
    while low < high:
        middle = (low + high) // 2
        if count(text[starts[middle] :]) <= tokens:
            high = middle
        else:
            low = middle + 1
    fitting = Cut(text[starts[low] :], count(text[starts[low] :]))
    if fitting.tokens == tokens:
        return fitting
    inside = [text[at:] for at in range(starts[low] - 1, starts[low - 1], -1)]
    exact = (Cut(part, tokens) for part in inside if count(part) == tokens)
    return next(exact, fitting)
