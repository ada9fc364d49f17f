"""Finds a model: a card of models/cards, a folder with a config.json, or the file itself."""

import difflib
from pathlib import Path
from typing import Any

from perfkit.errors import ConfigError
from perfkit.paths import find, listing
from perfkit.predict.spec import ModelSpec, spec_from_config
from perfkit.schema import read_json

CONFIG = "config.json"


def load_spec(name_or_path: str, models_dir: Path | None = None) -> ModelSpec:
    """The spec of a card id, a folder with config.json, or a config.json path.

    Of families that the engine cannot run, too: a spec is for predictions.
    """
    model_id, config = load_config(name_or_path, models_dir)
    return spec_from_config(config, model_id=model_id, to_run=False)


def load_config(name_or_path: str, models_dir: Path | None = None) -> tuple[str, dict[str, Any]]:
    """(model id, content of its config.json). A card wins over a folder of the same name."""
    path = find("models", f"cards/{name_or_path}/{CONFIG}", models_dir) or _by_path(name_or_path)
    if path is None:
        raise ConfigError(_unknown(name_or_path, card_ids(models_dir)))
    return path.parent.name, read_json(path)


def card_ids(models_dir: Path | None = None) -> list[str]:
    """Every card id, sorted; the user's own folder included."""
    return sorted({path.parent.name for path in listing("models", f"cards/*/{CONFIG}", models_dir)})


def _by_path(name_or_path: str) -> Path | None:
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        path = path / CONFIG
    return path.resolve() if path.is_file() else None


def _unknown(name: str, ids: list[str]) -> str:
    near = difflib.get_close_matches(name.lower(), ids, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return (
        f"no model {name!r}: not a card and not a path to a config.json.{hint} "
        f"Cards: {', '.join(ids)}."
    )
