"""One GPU of models/gpus.toml. What is unknown is None, never a guess."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.errors import ConfigError
from perfkit.paths import noun_folders

FLOPS_KEY = {
    "bfloat16": "bf16_flops_per_s",
    "float16": "fp16_flops_per_s",
    "float32": "fp32_flops_per_s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """Dense peak rates, per direction for the link, as the vendor states them."""

    id: str
    name: str
    source: str
    checked_on: str
    dense: bool
    nominal_memory_gb: float
    memory_bytes_per_s: float
    link_bytes_per_s: float
    link: str
    memory_bytes: int | None = None
    """what NVML reports"""
    power_w: float | None = None
    bf16_flops_per_s: float | None = None
    fp16_flops_per_s: float | None = None
    fp32_flops_per_s: float | None = None
    smi_names: tuple[str, ...] = ()
    """names that nvidia-smi gives this GPU"""
    unverified: tuple[str, ...] = ()

    def flops_per_s(self, dtype: str) -> float:
        """Dense peak in one dtype; ConfigError when the GPU has none or it is unknown."""
        rate = getattr(self, FLOPS_KEY[dtype], None) if dtype in FLOPS_KEY else None
        if rate is None:
            known = [name for name, key in FLOPS_KEY.items() if getattr(self, key) is not None]
            raise ConfigError(f"{self.id} has no known {dtype} rate. Use {', '.join(known)}.")
        return float(rate)


def load_gpu(gpu_id: str, models_dir: Path | None = None) -> Gpu:
    """One GPU by id; unknown ids raise ConfigError with the near ones and the list."""
    tables = gpu_tables(models_dir)
    if gpu_id not in tables:
        near = difflib.get_close_matches(gpu_id.lower(), tables, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"no GPU {gpu_id!r}.{hint} GPUs: {', '.join(sorted(tables))}.")
    values = dict(tables[gpu_id])
    for key in ("smi_names", "unverified"):
        values[key] = tuple(values.get(key, ()))
    try:
        return Gpu(id=gpu_id, **values)
    except TypeError as error:
        raise ConfigError(f"gpus.toml [{gpu_id}]: {error}") from error


def gpu_tables(models_dir: Path | None = None) -> dict[str, dict[str, Any]]:
    """Every table of every gpus.toml; the user's own folder wins."""
    found: dict[str, dict[str, Any]] = {}
    for folder in reversed(noun_folders("models", models_dir)):
        path = folder / "gpus.toml"
        if path.is_file():
            found.update(_read(path))
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def gpu_of_device(
    devices: Sequence[Mapping[str, str]], models_dir: Path | None = None
) -> str | None:
    """The id of the GPU whose `smi_names` hold the name that nvidia-smi gives; None when none.

    "NVIDIA H200" is h200-sxm, "NVIDIA H100 80GB HBM3" is h100-sxm.
    """
    if not devices:
        return None
    tables = gpu_tables(models_dir)
    named = {alias: gpu for gpu, table in tables.items() for alias in table.get("smi_names", ())}
    return named.get(str(devices[0].get("name")))
