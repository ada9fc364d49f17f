"""The jobs of one or more studies' folders as they stand now: one row a point."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perfkit.errors import ConfigError
from perfkit.study.states import run_s
from perfkit.study.store import (
    PointFolder,
    Record,
    of_job,
    point_folders,
    read_record,
    read_run,
)
from perfkit.submit.queue import Answer, SlurmJob
from perfkit.submit.states import ask_of, current_state

RUNS = Path("runs")


def studies_at(wanted: str | None) -> list[Path]:
    """Folders of studies: one by folder or by name, or every one in runs/."""
    if wanted is None:
        found = sorted({folder.root.parent for folder in point_folders(RUNS, "*/*")})
        if not found:
            raise ConfigError(
                f"no study was submitted or run from here: {RUNS}/*/*/point.json is empty."
            )
        return found
    path = Path(wanted)
    folder = path if path.is_dir() else RUNS / path.stem
    if not point_folders(folder):
        raise ConfigError(
            f"{folder} holds no point.json: no study was submitted to it, or run there. Give "
            "the folder that `perfkit submit --out` or `perfkit run --out` had.",
        )
    return [folder]


def status_rows(roots: Sequence[Path]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """(one row a point, what Slurm could not be asked)."""
    found = [
        (folder, record)
        for root in roots
        for folder in point_folders(root)
        for record in [read_record(folder)]
        if record is not None
    ]
    answer = ask_of([record for _folder, record in found])
    return [_row(folder, record, answer) for folder, record in found], answer.problems


def _row(folder: PointFolder, record: Record, answer: Answer) -> dict[str, Any]:
    state = current_state(folder, record, answer)
    slurm = answer.jobs.get(record.last.job_id)
    run = read_run(folder)
    own = run if run is not None and of_job(run, record.last) else None
    return {
        "study": record.study,
        "point": folder.root.name,
        "system": record.system,
        "job_id": record.last.job_id,
        "jobs": len(record.jobs),
        "submitted_at": record.last.submitted_at,
        "slurm_state": slurm.state if slurm else None,
        "slurm_reason": slurm.reason if slurm else None,
        "run_state": state.run,
        "state": state.name,
        "elapsed_s": elapsed_s(slurm, own),
        "cause": state.cause,
        "folder": str(folder.root),
        "output": str(folder.output(record.last.job_id)),
    }


def elapsed_s(slurm: SlurmJob | None, run: Mapping[str, Any] | None) -> float | None:
    """Seconds of the job by Slurm; of the run by itself where Slurm says nothing."""
    if slurm is not None and slurm.elapsed_s is not None and not slurm.waiting:
        return float(slurm.elapsed_s)
    return run_s(run)
