"""Where a machine's calibration is kept, and which one fits a run. Standard library only.

One folder for each (device, dtype, tp, pp): it is the run folder of the microbenchmark, with its
raw points, and the calibration.json made from them. A user's or the shipped
models/calibrations/KEY.json comes after the machine's own.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfkit.collect.settings import RunSettings
from perfkit.paths import cache_folder, find
from perfkit.schema import RunFolder, read_json


def device_name(device: str, facts: Mapping[str, Any]) -> str:
    """The processor's or GPU's name, as collect/facts.py reports it."""
    gpus = facts["gpus"]
    return str(gpus[0]["name"]) if device == "cuda" and gpus else str(facts["cpu"])


def key(settings: RunSettings, name: str) -> str:
    """A file name for what was measured: intel-r-xeon-r-processor-float32-tp2-pp2."""
    text = f"{name}-{settings.dtype}-tp{settings.tp}-pp{settings.pp}"
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def folder_for(settings: RunSettings, name: str) -> Path:
    """The microbenchmark's run folder on this machine."""
    return cache_folder() / "calibrations" / key(settings, name)


def find_calibration(settings: RunSettings, name: str) -> Path | None:
    """This machine's calibration.json for these settings, else a shipped one, else None."""
    own = folder_for(settings, name) / "calibration.json"
    return own if own.is_file() else find("models", f"calibrations/{key(settings, name)}.json")


def collected_points(folder: RunFolder) -> dict[str, Any]:
    """What every rank measured, as one document: the facts of rank 0, the points of all."""
    documents = [read_json(path / "points.json") for _rank, path in folder.ranks()]
    points = [point for document in documents for point in document["points"]]
    return {**documents[0], "points": points}
