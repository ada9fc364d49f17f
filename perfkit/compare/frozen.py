"""Predictions made before the runs: what `perfkit predict --format json -o FILE` wrote, kept.

A run is set beside the row with its own model, GPU, layout and lengths, and only if the file was
made before the run started. Its sha256 says which file that was.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from perfkit.errors import ConfigError
from perfkit.schema import read_json

SAME = (
    *("tp", "pp", "microbatches", "batch", "prompt_tokens", "new_tokens"),
    *("dtype", "decode"),
)
"""what a row and a run's plan must agree in"""
MILLISECONDS = ("ttft", "ttft_p05", "ttft_p95", "tpot", "tpot_p05", "tpot_p95")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """One file of predictions."""

    path: Path
    sha256: str
    made_at: datetime
    rows: Sequence[Mapping[str, Any]]


def read_frozen(path: Path) -> Frozen:
    """ConfigError for a file that is no such prediction."""
    document = read_json(path)
    if document.get("kind") != "predicted" or "made_at" not in document:
        raise ConfigError(
            f"{path} is no frozen prediction. Make one before the run: perfkit predict MODEL "
            f"--gpu ID ... --format json -o {path}"
        )
    return Frozen(
        path=path,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        made_at=datetime.fromisoformat(document["made_at"]),
        rows=document["rows"],
    )


def frozen_prediction(
    files: Sequence[Frozen],
    model: str,
    gpu: str,
    plan: Mapping[str, Any],
    started_at: str,
) -> dict[str, Any]:
    """Seconds, tokens a second and bytes of the newest prediction made before the run.

    ConfigError when there is none, or only later ones.
    """
    asked = {"model": model, "machine": gpu, **{name: plan[name] for name in SAME}}
    matching = [
        (one.made_at, row)
        for one in files
        for row in one.rows
        if row["refused"] is None and all(row[name] == asked[name] for name in asked)
    ]
    if not matching:
        raise ConfigError("no frozen prediction of this configuration")
    started = datetime.fromisoformat(started_at)
    before = [(made_at, row) for made_at, row in matching if made_at < started]
    if not before:
        raise ConfigError(f"its prediction was made after it started at {started_at}")
    _, row = max(before, key=lambda pair: pair[0])
    return {
        **{f"{name}_s": row[f"{name}_ms"] / 1e3 for name in MILLISECONDS},
        "tokens_per_s": row["tokens_per_s"],
        "allocated_bytes": row["total_bytes"] - row["overhead_bytes"],
    }
