"""`perfkit dispatch`: prompts batched on CPU ranks and answered by replicas of the engine."""

import json
import os
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, result, story
from perfkit.cli.progress import Progress
from perfkit.errors import ConfigError

if TYPE_CHECKING:
    from perfkit.dispatch.job import DispatchJob
    from perfkit.dispatch.plan import Options
    from perfkit.dispatch.step import Meeting, Step

EVERY_IN_A_LOG_S = 30.0
SLURM = "As a Slurm job"


def command(
    model: str = typer.Argument(
        help="Model folder or the id of a staged one; or the folder of a dispatch, to show what it "
        "measured."
    ),
    prompts: Path | None = typer.Option(
        None, help="Prompts: .jsonl or .parquet, of any size.", show_default=False
    ),
    cpu_workers: int = typer.Option(2, min=1, help="CPU workers, which tokenise and batch."),
    replicas: int = typer.Option(1, min=1, help="Replicas of the model."),
    tp: int = typer.Option(1, min=1, help="Tensor-parallel ranks of a replica."),
    pp: int = typer.Option(1, min=1, help="Pipeline stages of a replica, all on its node."),
    batch: int = typer.Option(8, min=1, help="Prompts of a batch."),
    new_tokens: int = typer.Option(32, min=1, help="Tokens to generate for each prompt."),
    stop_at_eos: bool = typer.Option(
        False, help="Let sequences end at EOS instead of running to --new-tokens."
    ),
    dtype: str | None = typer.Option(
        None, help="float32, bfloat16 or float16. [default: bfloat16 on GPUs, float32 on CPUs]"
    ),
    load: str = typer.Option("safetensors", help="safetensors, or dummy for random weights."),
    device: str | None = typer.Option(
        None, help="cuda or cpu. [default: cuda where nvidia-smi shows a GPU]"
    ),
    seed: int = typer.Option(0, help="Seed of random weights."),
    window: int = typer.Option(
        4, min=1, help="Batches that are cut, by length, from one tokenised part of the file."
    ),
    queue: int = typer.Option(4, min=1, help="Batches that may wait for each replica."),
    models_dir: Path | None = typer.Option(None, help="Folder that holds model folders."),
    out: Path | None = typer.Option(
        None, help="Run folder; one that was begun is gone on with. [default: runs/MODEL-TIME]"
    ),
    force: bool = typer.Option(False, "--force", help="Replace an existing run folder."),
    system: str | None = typer.Option(
        None,
        help="A system of models/systems, or a TOML file of your own: submit a heterogeneous job.",
        rich_help_panel=SLURM,
    ),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Print the job's script, submit nothing.", rich_help_panel=SLURM
    ),
    time_limit: str = typer.Option(
        "01:00:00", "--time", help="Time limit of the job.", rich_help_panel=SLURM
    ),
    account: str | None = typer.Option(
        None, help="Project that the job is charged to.", rich_help_panel=SLURM
    ),
    partition: str | None = typer.Option(
        None, help="Partition, instead of the system's.", rich_help_panel=SLURM
    ),
    cpu_partition: str | None = typer.Option(
        None, help="Partition of the CPU workers, where it is another.", rich_help_panel=SLURM
    ),
    gpus_per_node: int | None = typer.Option(
        None, min=0, help="GPUs of a node, instead of the system's.", rich_help_panel=SLURM
    ),
    container: Path | None = typer.Option(
        None, help="Image that has perfkit and torch: run inside it.", rich_help_panel=SLURM
    ),
    role: str | None = typer.Option(
        None,
        help="Of a task under srun: cpu or replica; the first cpu task dispatches. [default: by "
        "the component of a heterogeneous job]",
        rich_help_panel=SLURM,
    ),
    format: Format = FORMAT_OPTION,
) -> None:
    """Answer a file of prompts: CPU ranks tokenise and batch, replicas of the model answer.

    Prints what preparing costs, how long batches wait, and why replicas were idle. Stopped at any
    moment, the same command with the same --out goes on.
    """
    from perfkit.dispatch.plan import Options
    from perfkit.dispatch.run import default_folder
    from perfkit.dispatch.step import slurm_step

    if prompts is None:
        show(dispatch_folder(model), format)
        return
    step = slurm_step(os.environ, role)
    options = Options(
        model=model,
        models_dir=models_dir,
        prompts=prompts,
        out=out or default_folder(Path(model).name, step),
        force=force,
        command=tuple(sys.argv),
        cpu_workers=cpu_workers,
        replicas=replicas,
        tp=tp,
        pp=pp,
        batch=batch,
        new_tokens=new_tokens,
        stop_at_eos=stop_at_eos,
        dtype=dtype,
        load=load,
        device=device,
        seed=seed,
        window=window,
        queue=queue,
    )
    if system is not None:
        from perfkit.dispatch.job import make_job

        site = {"partition": partition, "gpus_per_node": gpus_per_node}
        job = make_job(options, system, time_limit, site)
        image = container.resolve() if container else None
        job = replace(job, account=account, cpu_partition=cpu_partition, image=image)
        submit(job, dry_run)
    elif dry_run:
        raise ConfigError("--dry-run shows the script of a Slurm job. Say where: --system NAME.")
    elif step is None:
        dispatch(options, None, None, format)
    else:
        take_part(options, step, format)


def dispatch_folder(path: str) -> Path:
    """The folder whose figures are to be shown; ConfigError where it is none."""
    from perfkit.dispatch.run import is_dispatch

    if not is_dispatch(Path(path)):
        raise ConfigError(
            f"{path} is not the folder of a dispatch (it has no run.json of one): nothing can be "
            "shown. To start one, say which prompts: --prompts FILE, .jsonl or .parquet.",
        )
    return Path(path)


def take_part(options: "Options", step: "Step", format: Format) -> None:
    """One task of a Slurm step: the first dispatches, the others work."""
    from perfkit.dispatch.cluster import serve
    from perfkit.dispatch.plan import check_worker
    from perfkit.dispatch.step import Meeting

    meeting = Meeting(options.out, step)
    if step.rank:
        check_worker(options)
        serve(step, meeting, options.tp * options.pp)
        return
    with meeting.hosted():
        if options.device is None:
            raise ConfigError(
                "under srun the first task cannot see what the replicas have: give --device cuda "
                "or --device cpu.",
            )
        dispatch(options, step, meeting, format)


def dispatch(
    options: "Options", step: "Step | None", meeting: "Meeting | None", format: Format
) -> None:
    """Everything answered, and what that took."""
    from perfkit.dispatch.plan import plan_dispatch
    from perfkit.dispatch.run import execute

    plan = plan_dispatch(options)
    telling = Telling()
    try:
        refused = execute(plan, step, meeting, telling)
    finally:
        telling.shown.end()
    show(plan.folder, format)
    if refused:
        raise ConfigError(refused)


def submit(job: "DispatchJob", dry_run: bool) -> None:
    """The job's script, shown or submitted."""
    from perfkit.dispatch.job import check_account, script_of
    from perfkit.dispatch.job import submit as submit_job
    from perfkit.submit.queue import check_sbatch
    from perfkit.submit.trust import unverified_values

    if marks := unverified_values(job.system, in_container=job.image is not None):
        story(f"warning: nobody checked these values of {job.system.name} at the site itself:")
        for mark in marks:
            story(f"  {mark}")
    if dry_run:
        result(script_of(job))
        closing(None, shlex.join(["perfkit", *(a for a in sys.argv[1:] if a != "--dry-run")]))
        return
    check_sbatch()
    check_account(job)
    result(submit_job(job))
    closing(job.script, shlex.join(["perfkit", "dispatch", str(job.options.out)]))


class Telling:
    """What happens as lines; where it stands as one that is rewritten, now and then in a log."""

    def __init__(self) -> None:
        self.shown = Progress()
        self.next_in_a_log = 0.0

    def tell(self, text: str) -> None:
        self.shown.end()
        story(text)

    def progress(self, text: str) -> None:
        if not self.shown.terminal:
            if time.monotonic() < self.next_in_a_log:
                return
            self.next_in_a_log = time.monotonic() + EVERY_IN_A_LOG_S
        self.shown.show(json.dumps({"rank": 0, "text": text}))


def show(folder: Path, format: Format) -> None:
    """What a dispatch measured."""
    from perfkit.dispatch.measure import measure
    from perfkit.dispatch.tables import as_text
    from perfkit.schema import RunFolder

    result(as_text(measure(RunFolder(folder)), format.value))
    closing(None, shlex.join(["perfkit", "dispatch", str(folder), "--format", "json"]))
