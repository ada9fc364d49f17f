"""Texts to run: twenty shipped prompts of any length, or a user's own file.

A shipped prompt is a passage and a question about it. A longer context is made by putting other
whole passages in front as numbered background documents. What is too much is cut from the front,
so the question is always complete and stands at the end. Standard library only.
"""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from perfkit import paths
from perfkit.errors import ConfigError

PASSAGE_KEYS = ("id", "title", "passage", "question")
TEXT_KEYS = ("text", "prompt")

_T = TypeVar("_T")
# An entry as found in the file, where it stands (for messages), and its number from 1.
_Entry = tuple[Any, str, int]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a user's file."""

    id: str
    text: str


def shipped_prompts() -> list[dict[str, str]]:
    """The shipped prompts in file order, each with id, title, passage and question."""
    path = paths.find("analysis", "prompts.jsonl")
    if path is None:
        raise ConfigError(
            "analysis/prompts.jsonl was not found. Install perfkit again, or set "
            "PERFKIT_ANALYSIS_DIR to a folder that holds prompts.jsonl.",
        )
    prompts = [_passage(entry, where) for entry, where, _ in _json_lines(path)]
    return _not_empty(prompts, path)


def compose(
    prompts: Sequence[dict[str, str]],
    index: int,
    *,
    num_tokens: int | None,
    count: Callable[[str], int],
) -> str:
    """The text of one shipped prompt: background documents, its passage, its question.

    `count` gives the tokens of a piece of text. With `num_tokens` the background is the fewest
    whole documents that reach it, so the text holds at least that many tokens; see fit_token_ids.
    """
    passage, question = _own_pieces(prompts[index])
    room = (num_tokens or 0) - count(passage) - count(question)
    return "".join([*_background(prompts, index, room, count), passage, question])


def fit_token_ids(
    tokenize: Callable[[str], list[int]],
    prompts: Sequence[dict[str, str]],
    index: int,
    num_tokens: int | None,
) -> list[int]:
    """Exactly `num_tokens` ids of one shipped prompt; passage and question when None.

    The background loses its front first, then the passage; the question is never cut. Pieces are
    tokenised one by one, so lengths add up; `tokenize` must not add special tokens.
    """
    ids_of = functools.cache(tokenize)
    passage, question = (ids_of(piece) for piece in _own_pieces(prompts[index]))
    own = passage + question
    if num_tokens is None:
        return own
    if num_tokens < len(question):
        raise ConfigError(
            f"the question of prompt {prompts[index]['id']} has {len(question)} tokens, "
            f"--prompt-tokens is {num_tokens}. Ask for {len(question)} or more.",
        )
    texts = _background(prompts, index, num_tokens - len(own), lambda text: len(ids_of(text)))
    ids = [token for text in texts for token in ids_of(text)] + own
    return ids[len(ids) - num_tokens :]


def _own_pieces(prompt: dict[str, str]) -> tuple[str, str]:
    return f"{prompt['passage']}\n\n", f"Question: {prompt['question']}\nAnswer:"


def _background(
    prompts: Sequence[dict[str, str]], index: int, room: int, count: Callable[[str], int]
) -> list[str]:
    """The fewest documents, in order, that hold at least `room` tokens together."""
    chosen: list[str] = []
    for document in _documents(prompts, index):
        if room <= 0:
            break
        chosen.append(document)
        room -= count(document)
    if room > 0:
        raise ConfigError(
            f"the context is {room} tokens short and there is no other passage to fill it. "
            "Use a prompts.jsonl with two passages or more, or ask for fewer tokens.",
        )
    return chosen


def _documents(prompts: Sequence[dict[str, str]], index: int) -> Iterator[str]:
    """The other passages, from the one after `index` on and round again without end."""
    others = [*prompts[index + 1 :], *prompts[:index]]
    number = 0
    while others:
        for other in others:
            number += 1
            yield f"Document {number}: {other['title']}\n{other['passage']}\n\n"


def read_prompts(path: Path) -> list[Prompt]:
    """A user's prompts from .txt (one a line), .jsonl or .json (strings, or objects with text).

    An object has its prompt under "text" or "prompt", and may have an "id". Blank lines are
    skipped. A prompt without an id is named after its line, or its place in a .json list.
    """
    readers = {".txt": _text_lines, ".jsonl": _json_lines, ".json": _json_list}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(
            f"{path} is not named .txt, .jsonl or .json. Name the file after what it holds: "
            "lines of text, lines of JSON, or one JSON list.",
        )
    prompts = [_prompt(entry, where, number) for entry, where, number in reader(path)]
    return _not_empty(prompts, path)


def _not_empty(prompts: list[_T], path: Path) -> list[_T]:
    if not prompts:
        raise ConfigError(f"{path} holds no prompts. Write at least one.")
    return prompts


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist. Check the path of the prompts.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Name a text file.") from error


def _text_lines(path: Path) -> Iterator[_Entry]:
    # Not splitlines(): it also breaks at U+2028 and form feeds, which JSON strings may hold.
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if line.strip():
            yield line.strip(), f"{path} line {number}", number


def _json_lines(path: Path) -> Iterator[_Entry]:
    for line, where, number in _text_lines(path):
        try:
            yield json.loads(line), where, number
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"{where} is not JSON: {error.msg} at column {error.colno}, found {_short(line)}. "
                'Write one object a line, such as {"text": "..."}.',
            ) from error


def _json_list(path: Path) -> Iterator[_Entry]:
    text = _read(path)
    try:
        entries = json.loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path} line {error.lineno} is not JSON: {error.msg} at column {error.colno}. "
            'Write one list, such as ["...", {"text": "..."}].',
        ) from error
    if not isinstance(entries, list):
        raise ConfigError(
            f"{path} holds {_kind(entries)}, not a list. "
            'Write one list, such as ["...", {"text": "..."}].',
        )
    for number, entry in enumerate(entries, start=1):
        yield entry, f"{path} entry {number}", number


def _prompt(entry: Any, where: str, number: int) -> Prompt:
    fields = {"text": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, dict):
        raise ConfigError(
            f'{where} is {_kind(entry)}. Write a string, or an object with the key "text".',
        )
    key = next((key for key in TEXT_KEYS if key in fields), None)
    if key is None:
        found = ", ".join(sorted(fields)) or "none"
        raise ConfigError(
            f'{where} has neither "text" nor "prompt" (keys found: {found}). '
            'Put the prompt under "text".',
        )
    named = fields.get("id")
    prompt_id = f"prompt-{number}" if named is None else str(named)
    return Prompt(prompt_id, _filled(fields[key], key, where))


def _passage(entry: Any, where: str) -> dict[str, str]:
    """An entry of a prompts.jsonl with passages, checked: it may be the user's own."""
    if not isinstance(entry, dict):
        raise ConfigError(
            f"{where} is {_kind(entry)}. Write an object with {', '.join(PASSAGE_KEYS)}."
        )
    return {key: _filled(entry.get(key), key, where) for key in PASSAGE_KEYS}


def _filled(value: Any, key: str, where: str) -> str:
    if isinstance(value, str) and value.strip():
        return value
    found = "an empty string" if isinstance(value, str) else _kind(value)
    raise ConfigError(f'{where}: "{key}" is {found}. Write some text there.')


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null or missing" if value is None else names.get(type(value), "a number")


def _short(line: str) -> str:
    return repr(line if len(line) <= 40 else line[:37] + "...")
