"""Where a model is: an id or a path to a local folder. Nothing is ever fetched at run time."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.errors import ConfigError
from perfkit.paths import cache_folder, find


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model on this machine: its config, and its folder when the weights may be there."""

    id: str
    config: dict[str, Any]
    folder: Path | None


def staged_folder(model_id: str) -> Path:
    """Where `perfkit fetch` puts a model."""
    return cache_folder() / "models" / model_id


def find_model(name: str, models_dir: Path | None, *, weights: bool) -> LocalModel:
    """The model that a name or path means; ConfigError says where it was looked for.

    A path wins; then --models-dir, the perfkit cache, the Hugging Face cache. A model card in
    models/cards is enough when no weights are needed (`weights=False`, --load dummy).
    """
    looked = list(dict.fromkeys([Path(name).expanduser(), *_candidates(name, models_dir)]))
    folder = next((path for path in looked if (path / "config.json").is_file()), None)
    if folder is not None:
        return LocalModel(folder.name if Path(name).exists() else name, _config(folder), folder)
    card = find("models", f"cards/{name}/config.json")
    if card is not None and not weights:
        return LocalModel(name, _config(card.parent), None)
    raise ConfigError(_not_found(name, looked, has_card=card is not None))


def _candidates(name: str, models_dir: Path | None) -> list[Path]:
    folders = [models_dir / name] if models_dir else []
    if own := os.environ.get("PERFKIT_MODELS_DIR"):
        folders.append(Path(own).expanduser() / name)
    folders.append(staged_folder(name))
    hub = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser() / "hub"
    snapshots = hub / f"models--{name.replace('/', '--')}" / "snapshots"
    return folders + sorted(snapshots.glob("*"))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}. Copy the model folder again.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not a JSON object. Copy the model folder again.")
    return content


def _not_found(name: str, looked: list[Path], *, has_card: bool) -> str:
    lines = [f"no model {name!r} on this machine. Looked for config.json in:"]
    lines += [f"  {path}" for path in looked]
    if name == "smollm2-135m-instruct":
        lines.append("Stage it with: perfkit fetch smollm2-135m-instruct")
    else:
        lines.append(
            "Stage it: on a machine with network, download the model folder (config.json, "
            "tokenizer, *.safetensors), copy it here, and give its path or put it under "
            "--models-dir."
        )
    if has_card:
        lines.append(f"A model card {name} is shipped: --load dummy runs it with random weights.")
    return "\n".join(lines)
