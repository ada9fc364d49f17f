"""A TOML file read through a pydantic model: every mistake at once, each with its place."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from perfkit.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


class Table(BaseModel):
    """A TOML table: nothing is converted, unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def must_match(pattern: str, expected: str) -> AfterValidator:
    """A check of a text; `expected` completes "must be ..."."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {expected}")
        return text

    return AfterValidator(check)


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file; ConfigError with the line of a syntax error."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def validate(model: type[M], content: Mapping[str, Any]) -> tuple[M | None, list[str]]:
    """(the model, no mistakes), or (None, what is wrong)."""
    try:
        return model.model_validate(content), []
    except ValidationError as error:
        return None, [_mistake(model, found) for found in error.errors(include_url=False)]


def refuse(path: Path, mistakes: Iterable[str]) -> ConfigError:
    """One error that lists every mistake of a file."""
    return ConfigError("\n  ".join([f"{path} cannot be used:", *mistakes]))


def place(*keys: str | int) -> str:
    """`[axes] tp[1]` for the second value of tp in [axes]; `model` at the top of the file.

    `[[points]] 2 tp` for the second of the tables [[points]].
    """
    first, *rest = keys
    if not rest:
        return str(first)
    if isinstance(rest[0], int):
        return " ".join([f"[[{first}]]", str(rest[0] + 1), _inside(rest[1:])]).rstrip()
    return f"[{first}] {_inside(rest)}"


def _inside(keys: Iterable[str | int]) -> str:
    """`tp[1]`: what stands in a table."""
    numbered = [f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys]
    return "".join(numbered).removeprefix(".")


def _mistake(model: type[BaseModel], found: Mapping[str, Any]) -> str:
    """One of pydantic's errors in our words: place, what is wrong, what was found."""
    keys = found["loc"]
    kind, text = found["type"], found["msg"]
    if kind == "extra_forbidden":
        return f"{place(*keys)}: not a key here. {_known(model, keys)}"
    if kind == "missing":
        return f"{place(*keys)}: is missing."
    text = text.removeprefix("Value error, ").replace("Input should be", "must be")
    text = text.replace("a valid string", "a string").replace("a valid list", "a list")
    text = text.replace("a valid integer", "an integer").replace("a valid dictionary", "a table")
    return f"{place(*keys)}: {text}, found {found['input']!r}."


def _known(model: type[BaseModel], keys: tuple[str | int, ...]) -> str:
    """The keys that the table has, the near ones first."""
    table = model
    for key in keys[:-1]:
        table = _table_of(table, key) or table
    known = list(table.model_fields)
    near = difflib.get_close_matches(str(keys[-1]), known, n=2)
    return f"Did you mean {' or '.join(near)}?" if near else f"Keys: {', '.join(known)}."


def _table_of(model: type[BaseModel], key: str | int) -> type[BaseModel] | None:
    """The table behind a key, or the tables that a list holds."""
    if key not in model.model_fields:
        return None
    annotation = model.model_fields[str(key)].annotation
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
