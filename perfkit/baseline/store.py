"""A baseline of an endpoint on disk: a parquet file, and a journal while it is being made.

The journal has one line an answer, written as it comes, so that nothing is asked twice when the
making was interrupted.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfkit.baseline.answers import Answer, Answers, Scored
from perfkit.errors import ConfigError
from perfkit.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    import polars as pl

METADATA = "perfkit"


def baseline_schema() -> "pl.Schema":
    """Columns of a baseline; null where the endpoint told no such thing."""
    import polars as pl

    text, ids, numbers = pl.String(), pl.List(pl.Int32), pl.List(pl.Float64)
    return pl.Schema(
        {
            "prompt_id": text,
            "prompt": text,  # the text asked; null where token ids were
            "prompt_sha256": text,
            "prompt_token_ids": ids,
            "token_ids": ids,  # what the endpoint chose
            "text": text,
            "finish_reason": text,
            "asked_at": text,  # UTC
            "scored_token_ids": ids,  # those chosen, or those of the run whose prompts were asked
            "scored_logprobs": numbers,
            "scored_top_ids": pl.List(ids),
            "scored_top_logprobs": pl.List(numbers),
        }
    )


class Journal:
    """FILE.partial.jsonl beside the baseline: a line of settings, then one an answer."""

    def __init__(self, out: Path) -> None:
        self.path = out.with_name(f"{out.name}.partial.jsonl")

    def resume(self, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The answers that are there; ConfigError when they were asked with other settings."""
        if not self.path.exists():
            self._append({"schema_version": SCHEMA_VERSION, "settings": dict(settings)})
            return []
        first, *rows = self._lines()
        before = first.get("settings", {})
        if changed := sorted(k for k, v in settings.items() if before.get(k) != v):
            raise ConfigError(
                f"{self.path} was begun with another {' and '.join(changed)}. Use the same "
                "options to go on, or --force to begin again.",
            )
        return rows

    def keep(self, row: Mapping[str, Any]) -> None:
        """On disk before the next question is asked."""
        self._append(row)

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)

    def _append(self, content: Mapping[str, Any]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(content, separators=(",", ":")) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigError(
                f"cannot write {self.path}: {error.strerror}. Give a file you may write to with -o."
            ) from error

    def _lines(self) -> list[dict[str, Any]]:
        """All whole lines; the last may have been cut by what ended the making, and is dropped."""
        whole = self.path.read_bytes()
        kept = whole[: whole.rfind(b"\n") + 1]
        if len(kept) < len(whole):
            os.truncate(self.path, len(kept))
        try:
            lines = [json.loads(line) for line in kept.splitlines()]
        except ValueError as error:
            raise ConfigError(f"{self.path} is damaged: {error}. Begin again: --force") from error
        return lines or [{}]


def write_baseline(
    out: Path, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> None:
    """The finished file, whole or not at all."""
    import polars as pl

    frame = pl.DataFrame(list(rows), schema=baseline_schema())
    about = json.dumps({"schema_version": SCHEMA_VERSION, "settings": dict(settings)})
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        frame.write_parquet(partial, metadata={METADATA: about})
        partial.replace(out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {out}: {error.strerror}.") from error


def read_baseline(path: Path) -> Answers:
    """The answers of a file that write_baseline wrote; ConfigError for another one."""
    import polars as pl

    if not path.is_file():
        raise ConfigError(f"{path} does not exist. `perfkit baseline -o {path}` makes it.")
    try:
        about = json.loads(pl.read_parquet_metadata(path)[METADATA])
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError, KeyError, ValueError) as error:
        raise ConfigError(
            f"{path} is not a baseline that `perfkit baseline` wrote ({type(error).__name__}).",
        ) from error
    if about["schema_version"] != SCHEMA_VERSION:
        raise ConfigError(
            f"{path} has schema_version {about['schema_version']}; this perfkit reads "
            f"{SCHEMA_VERSION}. Make the baseline again.",
        )
    settings = about["settings"]
    return Answers(
        source=path,
        kind="endpoint",
        settings=settings,
        model_id=settings["model"],
        vocabulary=None,
        answers=tuple(_answer(row) for row in frame.to_dicts()),
    )


def _answer(row: Mapping[str, Any]) -> Answer:
    scored = row["scored_token_ids"]
    return Answer(
        prompt_id=row["prompt_id"],
        prompt_sha256=row["prompt_sha256"],
        prompt_token_ids=_tuple(row["prompt_token_ids"]),
        token_ids=_tuple(row["token_ids"]),
        text=row["text"],
        scored=None
        if scored is None
        else Scored(
            token_ids=tuple(scored),
            logprobs=tuple(row["scored_logprobs"]),
            top_ids=tuple(map(tuple, row["scored_top_ids"])),
            top_logprobs=tuple(map(tuple, row["scored_top_logprobs"])),
        ),
    )


def _tuple(value: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if value is None else tuple(value)
