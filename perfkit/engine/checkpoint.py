"""Safetensors files seen from outside: which tensors, which shapes, is any file cut short?

Standard library only, so that `perfkit run` refuses a bad checkpoint before any rank starts.
Format: 8 bytes little-endian header length, a JSON header, then the data; source: safetensors
documentation, "Format".
"""

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.engine.disk_names import on_disk
from perfkit.errors import ConfigError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# The format's own limit, https://github.com/huggingface/safetensors "Format".
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor stands on disk."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def read_checkpoint(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a model folder by name; ConfigError naming the file that cannot be used."""
    stored: dict[str, StoredTensor] = {}
    for file in checkpoint_files(folder):
        for name, entry in read_header(file).items():
            stored[name] = StoredTensor(file, tuple(entry["shape"]), str(entry["dtype"]))
    return stored


def checkpoint_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, from its index when it has one."""
    index = folder / INDEX
    if not index.is_file():
        if (folder / SINGLE).is_file():
            return [folder / SINGLE]
        raise ConfigError(
            f"{folder} has neither {SINGLE} nor {INDEX}. "
            "Convert the weights to safetensors, or use --load dummy for random weights.",
        )
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ConfigError(f"cannot read {index}: {error}. Copy the model folder again.") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"{folder} lacks {len(missing)} of {len(names)} weight files, first {missing[0]}. "
            "Copy the model folder again.",
        )
    return [folder / name for name in names]


def read_header(file: Path) -> dict[str, Mapping[str, Any]]:
    """Name -> {dtype, shape, data_offsets}; the file's size must match its header exactly."""
    try:
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
            if not 0 < length <= MAX_HEADER_BYTES:
                raise ValueError("it does not start with a safetensors header")
            header: dict[str, Mapping[str, Any]] = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        for entry in header.values():
            if len(entry["data_offsets"]) != 2 or {"shape", "dtype"} - entry.keys():
                raise ValueError("its header is not one of safetensors")
        ends = [int(entry["data_offsets"][1]) for entry in header.values()]
        expected = 8 + length + max(ends, default=0)
        found = file.stat().st_size
        if found != expected:
            raise ValueError(f"it has {found:,} bytes, its header promises {expected:,}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{file} is damaged or cut short: {error}. Copy the file again.",
        ) from error
    return header


def check_shapes(
    stored: Mapping[str, StoredTensor],
    expected: Iterable[tuple[str, tuple[int, ...]]],
    folder: Path,
) -> None:
    """ConfigError when a tensor that config.json implies is absent or has another shape."""
    whole = [shaped for entry in expected for shaped in on_disk(*entry, stored)]
    for name, shape in whole:
        if name not in stored:
            raise ConfigError(
                f"{folder} has no tensor {name}, which its config.json implies. "
                "Copy config.json and the weights from the same place.",
            )
        if stored[name].shape != shape:
            raise ConfigError(
                f"tensor {name} in {stored[name].file} has shape {list(stored[name].shape)}, "
                f"config.json implies {list(shape)}. Copy both from the same place.",
            )
