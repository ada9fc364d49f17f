"""Writing a file that a person named: never over another one unless told. Standard library only."""

from pathlib import Path

from perfkit.errors import ConfigError


def check_free(path: Path | None, *, force: bool) -> None:
    """ConfigError when the output file exists; asked before anything is computed."""
    if path is not None and path.exists() and not force:
        raise ConfigError(f"{path} exists already. Use --force to replace it.")


def write_text(path: Path, text: str) -> None:
    """Write the file and the folders above it; ConfigError where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}. Give a file you may write to with -o.",
        ) from error
