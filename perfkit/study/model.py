"""The model of a study on this machine: its config, and its folder when the weights are here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.engine.models import find_model
from perfkit.errors import ConfigError
from perfkit.predict.spec import ModelSpec, spec_from_config


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a study runs."""

    id: str
    config: Mapping[str, Any]
    folder: Path | None
    """None when only a model card is known"""

    @property
    def spec(self) -> ModelSpec:
        return spec_from_config(dict(self.config), model_id=self.id)

    @property
    def argument(self) -> str:
        """How a job names it: by its folder, so that every node means the same one."""
        return str(self.folder) if self.folder else self.id


def load_model(name: str, models_dir: Path | None) -> Model:
    """A folder, a staged model or a model card; ConfigError says where it was looked for."""
    found = find_model(name, models_dir, weights=False)
    folder = found.folder.resolve() if found.folder else None
    return Model(id=found.id, config=found.config, folder=folder)


def check_weights(model: Model) -> None:
    """ConfigError when no weights are here: a job would find out only after its wait."""
    if model.folder is not None and any(model.folder.glob("*.safetensors")):
        return
    where = f"{model.folder} has no *.safetensors" if model.folder else "only its card is known"
    raise ConfigError(
        f"the weights of {model.id} are not on this machine ({where}). Stage the model folder "
        'where the compute nodes read it, or set load = "dummy" in [run] for random weights.',
    )
