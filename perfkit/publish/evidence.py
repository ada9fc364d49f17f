"""The recorded runs in traces/: each a scrubbed copy, small, with a line on how it was made."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfkit.errors import ConfigError
from perfkit.publish.clean import clean
from perfkit.publish.scrub import scrub
from perfkit.schema import open_run
from perfkit.secrets import without_secret_arguments

MOST_BYTES = 3_000_000
PAGE = "README.md"


def add(run: Path, folder: Path, name: str, note: str) -> Path:
    """A scrubbed copy of a run as folder/name, told in folder/README.md; ConfigError if too big."""
    _folder, record = open_run(run)
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder. Give the checkout's traces/ with --folder.")
    if "/" in name or name.startswith("."):
        raise ConfigError(f"--name {name!r}: use letters, digits and dashes.")
    target = folder / name
    scrub(run, target, smaller=True)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    if size > MOST_BYTES:
        shutil.rmtree(target)
        raise ConfigError(
            f"{run} is {size / 1e6:.1f} MB when scrubbed, more than {MOST_BYTES / 1e6:.0f} MB. "
            "Record fewer tokens or layers, or fewer ranks with --profile-ranks.",
        )
    page = folder / PAGE
    before = page.read_text(encoding="utf-8") if page.is_file() else "# traces\n"
    page.write_text(f"{before.rstrip()}\n\n{entry(name, note, record)}", encoding="utf-8")
    return target


def entry(name: str, note: str, record: Mapping[str, Any]) -> str:
    """The paragraph of one run: what it is, the machine, versions, date, and the command."""
    hardware, versions = record.get("hardware") or {}, record.get("versions") or {}
    gpus = hardware.get("gpus") or []
    cpu = hardware.get("cpu", "unknown processor")
    machine = f"{len(gpus)} x {gpus[0]['name']}" if gpus else cpu
    packages = ", ".join(
        f"{key} {versions[key]}" for key in ("perfkit", "torch") if key in versions
    )
    words = clean(" ".join(without_secret_arguments(record.get("command") or ["?"])))
    day = str(record.get("started_at", ""))[:10]
    return f"## {name}\n\n{note}\n\n{machine}, {packages}, {day}.\n\n    {words}\n"
