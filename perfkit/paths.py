"""Finds the noun folders (models/, collectors/, analysis/ ...) and the cache folder.

In a checkout the noun folders stand beside perfkit/; in an install they travel inside the package
as perfkit/_nouns/. `PERFKIT_MODELS_DIR` and its siblings put a user's own folder in front of both.
Standard library only.
"""

import os
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def noun_folders(noun: str, user_folder: Path | None = None) -> list[Path]:
    """Folders to search for one noun, the user's own first: option, environment, shipped."""
    named = [user_folder, _from_environment(noun), PACKAGE.parent / noun, PACKAGE / "_nouns" / noun]
    return [folder for folder in named if folder is not None and folder.is_dir()]


def _from_environment(noun: str) -> Path | None:
    value = os.environ.get(f"PERFKIT_{noun.upper()}_DIR")
    return Path(value).expanduser() if value else None


def find(noun: str, relative: str, user_folder: Path | None = None) -> Path | None:
    """The first `relative` path that exists in the noun's folders, or None."""
    candidates = (folder / relative for folder in noun_folders(noun, user_folder))
    return next((path for path in candidates if path.exists()), None)


def listing(noun: str, pattern: str, user_folder: Path | None = None) -> Iterator[Path]:
    """Every path that matches a glob pattern in the noun's folders; the user's own come first."""
    for folder in noun_folders(noun, user_folder):
        yield from sorted(folder.glob(pattern))


def cache_folder() -> Path:
    """Where converted models are kept: PERFKIT_CACHE_DIR, else XDG_CACHE_HOME/perfkit."""
    if named := os.environ.get("PERFKIT_CACHE_DIR"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "perfkit"
