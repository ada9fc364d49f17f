"""What each collector did in a run, by run.json: which ranks it recorded, which it missed, why.

A collector that the run did not ask for is a row too, so that a reader sees what could be had.
"""

import contextlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.paths import listing

COLLECTORS = pl.Schema(
    {
        "collector": pl.String(),
        # ran; failed: some rank lacks its product; missing: not possible here; partial: had not
        # settled; asked: the run never came to its end; not asked
        "state": pl.String(),
        "ranks": pl.List(pl.Int32()),  # that it recorded, or whose node; empty for one of the job
        "missing_ranks": pl.List(pl.Int32()),  # that it should have recorded
        "reason": pl.String(),  # why it is not whole
        "lost": pl.String(),  # what a run without it cannot say
        "version": pl.String(),
        "not_possible": pl.List(pl.String()),  # events and options that this machine refused
    }
)
WHOLE = "ran"
NOT_ASKED = "not asked"


def collectors_table(run: Mapping[str, Any]) -> pl.DataFrame:
    """COLLECTORS: those of run.json first, then the others that this perfkit knows."""
    known = {path.stem: path for path in reversed(list(listing("collectors", "*.toml")))}
    files = {name: _content(path) for name, path in sorted(known.items())}
    asked: Mapping[str, Any] = run.get("collectors") or {}
    rows = [_row(name, state, files.get(name, {})) for name, state in asked.items()]
    others = [
        _row(name, {"state": NOT_ASKED}, content)
        for name, content in files.items()
        if name not in asked and not content.get("untested")
    ]
    return pl.DataFrame(rows + others, schema=COLLECTORS)


def _content(path: Path) -> dict[str, Any]:
    """A collector's file; empty where it cannot be read: a run can be read without it."""
    with contextlib.suppress(OSError, ValueError):
        return tomllib.loads(path.read_text(encoding="utf-8"))
    return {}


def _row(name: str, state: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    word = state.get("state", "unknown")
    return {
        "collector": name,
        "state": word,
        "ranks": state.get("ranks", []),
        "missing_ranks": state.get("missing_ranks", []),
        "reason": state.get("reason") if word != WHOLE else None,
        "lost": content.get("absence"),
        "version": state.get("version"),
        "not_possible": state.get("not_possible_here", []),
    }
