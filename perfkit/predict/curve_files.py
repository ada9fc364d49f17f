"""models/calibrations/*.toml: the curves of a GPU, where each number comes from, how well it fits.

gpu, dtype, date              which GPU of gpus.toml, and when
[versions]                    torch, nccl, driver of the measurement
[gemm] [vector] ...           parameters of a curve, its errors, `source`
[all_reduce.2]                start_s and bytes_per_s, a list each: one entry a regime
[norm] [choice] [grouped]     the same, not in older files
[host]                        dispatch_s, pass_s (not in older files), spread, source
[steps]                       replay_s, hop_s, return_s, source
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from perfkit.errors import ConfigError
from perfkit.paths import noun_folders
from perfkit.predict.curves import KERNELS, LATER_KERNELS, MOVED, Collective, Curves, Regime


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvesFile:
    """One calibration of one GPU in one dtype."""

    gpu: str
    dtype: str
    date: str
    curves: Curves
    dispatch_s: float
    held_in: tuple[str, ...]
    """recorded runs that some of the numbers come from: no test of a prediction"""


def find_curves(gpu: str, dtype: str, models_dir: Path | None = None) -> CurvesFile | None:
    """The user's own or the shipped curves of a GPU; None when nobody measured them."""
    for folder in noun_folders("models", models_dir):
        path = folder / "calibrations" / f"{gpu}-{dtype}.toml"
        if path.is_file():
            return read_curves(path)
    return None


def read_curves(path: Path) -> CurvesFile:
    """ConfigError names the file and what is missing or unknown in it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    try:
        return _curves_file(content)
    except KeyError as error:
        raise ConfigError(f"{path} has no {error}. Calibrate again: perfkit calibrate.") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}. Calibrate again: perfkit calibrate.") from error


def _curves_file(content: Mapping[str, Any]) -> CurvesFile:
    return CurvesFile(
        gpu=content["gpu"],
        dtype=content["dtype"],
        date=content["date"],
        dispatch_s=content["host"]["dispatch_s"],
        held_in=tuple(content.get("held_in", ())),
        curves=curves_from_tables(content),
    )


def curves_from_tables(content: Mapping[str, Any]) -> Curves:
    """The curves of a file's tables; KeyError names one that is missing."""
    steps, host = content["steps"], content["host"]
    tables = {name: content[name] for name in KERNELS}
    tables |= {name: content[name] for name in LATER_KERNELS if name in content}
    forms = {**KERNELS, **LATER_KERNELS}
    collectives = {
        (kind, int(group)): _collective(kind, int(group), table)
        for kind in MOVED
        for group, table in content.get(kind, {}).items()
    }
    sources = {name: table["source"] for name, table in tables.items()}
    sources |= {
        f"{kind}.{group}": content[kind][str(group)]["source"] for kind, group in collectives
    }
    return Curves(
        **{name: _curve(forms[name], table) for name, table in tables.items()},
        collectives=collectives,
        replay_s=steps["replay_s"],
        hop_s=steps.get("hop_s"),
        return_s=steps.get("return_s"),
        pass_host_s=host.get("pass_s"),
        spread={
            **{name: table["spread"] for name, table in tables.items()},
            "host": host["spread"],
        },
        provenance={**sources, "host": host["source"], "steps": steps["source"]},
    )


def _curve(kind: type, table: Mapping[str, Any]) -> Any:
    return kind(**{f.name: table[f.name] for f in fields(kind) if f.name in table})


def _collective(kind: str, group: int, table: Mapping[str, Any]) -> Collective:
    pairs = zip(table["start_s"], table["bytes_per_s"], strict=True)
    return Collective(kind, group, tuple(Regime(start, rate) for start, rate in pairs))
