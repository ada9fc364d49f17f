"""Who may write a run folder: rank 0 claims it, the other ranks of a Slurm step join it."""

import shutil
import time
from pathlib import Path
from typing import Any

from perfkit.collect.plan import RunPlan
from perfkit.errors import ConfigError
from perfkit.schema import RunFolder, read_if_whole, reserve, write_json

# How long the ranks of a Slurm step wait for rank 0 to create the run folder.
JOIN_S, JOIN_POLL_S = 60.0, 0.2


def claim_folder(root: Path, force: bool, launch_id: str) -> RunFolder:
    """An empty run folder; ConfigError when it exists without --force or cannot be written.

    It appears whole, with a run.json that says whose it is: a folder without one is never ours,
    so that the other ranks can refuse it at once (see join).
    """
    folder = RunFolder(root)
    if root.exists():
        check_replaceable(folder, force)
    prepared = root.with_name(f".{root.name}.{launch_id}")
    replaced = root.with_name(f".{root.name}.{launch_id}.replaced")
    try:
        content = {"state": "preparing", "launch_id": launch_id}
        write_json(RunFolder(prepared).run_json, content)
        reserve(prepared)
        if root.exists():
            root.rename(replaced)
        prepared.rename(root)
    except OSError as error:
        shutil.rmtree(prepared, ignore_errors=True)
        raise unwritable(root, error) from error
    shutil.rmtree(replaced, ignore_errors=True)
    return folder


def check_replaceable(folder: RunFolder, force: bool) -> None:
    """An existing folder may be replaced only with --force, and only when it is a run."""
    if not force:
        raise ConfigError(
            f"{folder.root} exists already. Use --force to replace it, or give another folder "
            "with --out.",
        )
    if not folder.run_json.is_file():
        raise ConfigError(
            f"{folder.root} is not a run folder (it has no run.json), so --force will not delete "
            "it. Give another folder with --out.",
        )


def unwritable(root: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot write the run folder {root}: {error.strerror}. "
        "Give a folder you may write to with --out.",
    )


def join(plan: RunPlan) -> dict[str, Any]:
    """Wait for the run.json of this launch, which rank 0's process writes.

    What makes rank 0 refuse the folder makes every rank refuse it, at once: nobody waits for a
    rank 0 that has gone.
    """
    folder, launch_id = RunFolder(plan.folder), plan.place.launch_id
    try:
        folder.root.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder.root, error) from error
    deadline, looks = time.monotonic() + JOIN_S, 0
    while time.monotonic() < deadline:
        # In this order: a folder that was there before its run.json was read is not a new one.
        existed, record = folder.root.exists(), read_if_whole(folder.run_json)
        ours = record is not None and record.get("launch_id") == launch_id
        if record is not None and ours and "config" in record:
            return record
        # Twice in a row: with --force rank 0 may replace the folder between the two questions.
        not_replaceable = existed and not ours and (record is None or not plan.force)
        looks = looks + 1 if not_replaceable else 0
        if looks == 2:
            check_replaceable(folder, plan.force)
        time.sleep(JOIN_POLL_S)
    raise ConfigError(
        f"rank 0 did not create {folder.root} within {JOIN_S:.0f} s. "
        "--out must be on a file system that every node of the job shares.",
    )
