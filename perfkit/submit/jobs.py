"""The points of a plan as Slurm jobs, and what would make all of them fail."""

import os
import sys
from pathlib import Path

from perfkit.errors import ConfigError
from perfkit.study.checks import check_system
from perfkit.study.model import check_weights
from perfkit.submit.plan import Planned, Setting, values_of
from perfkit.submit.script import Job


def check(setting: Setting) -> None:
    """ConfigError for what would make every point fail, found before the first is submitted."""
    study, system, wishes = setting.study, setting.system, setting.wishes
    check_system(study, system)
    if wishes.dry_run:
        return
    if "safetensors" in values_of(study, "load", "safetensors"):
        check_weights(setting.model)
    if wishes.image is not None and not wishes.image.exists():
        raise ConfigError(f"--container {wishes.image}: there is no such image.")
    if system.account_required and not (wishes.account or os.environ.get("SBATCH_ACCOUNT")):
        raise ConfigError(
            f"{system.name} charges every job to a project. Give --account PROJECT, or set "
            "PERFKIT_SUBMIT_ACCOUNT or SBATCH_ACCOUNT.",
        )


def jobs_of(setting: Setting, plan: list[Planned]) -> list[tuple[Planned, Job]]:
    """Each point that is to be submitted, with its job."""
    study, wishes = setting.study, setting.wishes
    binds = container_binds(setting) if wishes.image else ()
    return [
        (
            one,
            Job(
                study=study.name,
                kind=study.kind,
                point=one.point,
                hash=one.hash,
                system=setting.system,
                folder=one.folder.root,
                model=setting.model.argument,
                time_limit_s=study.time_limit_s,
                account=wishes.account,
                memory=study.memory,
                python=sys.executable,
                image=wishes.image,
                binds=binds,
            ),
        )
        for one in plan
        if one.todo and one.hash
    ]


def container_binds(setting: Setting) -> tuple[str, ...]:
    """What the container must see: results, model, prompts, collectors, then the user's binds."""
    study, wishes = setting.study, setting.wishes
    prompts = sorted(values_of(study, "prompts", None) - {None})
    collectors = sorted(values_of(study, "collectors_dir", None) - {None})
    ours = [
        wishes.root,
        setting.model.folder,
        *(Path(path).parent for path in prompts),
        *map(Path, collectors),
    ]
    paths = [str(path) for path in ours if path is not None]
    for path in paths:
        if ":" in path or "," in path:
            raise ConfigError(
                f"{path} cannot be bound into a container: --bind reads ':' and ',' as separators."
            )
    return (*dict.fromkeys(paths), *wishes.binds)
