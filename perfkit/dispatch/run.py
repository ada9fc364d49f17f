"""One part of a dispatch, from its plan to the end of its run folder, whatever happens between."""

import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from perfkit import __version__
from perfkit.collect import facts
from perfkit.collect.claim import check_replaceable, claim_folder
from perfkit.collect.containers import container_of
from perfkit.collect.supervise import now
from perfkit.dispatch import cluster
from perfkit.dispatch.journal import Journal
from perfkit.dispatch.plan import DispatchPlan, check_gpus, check_same
from perfkit.dispatch.prompt_file import PromptFile, open_prompts
from perfkit.dispatch.step import Meeting, Step
from perfkit.errors import ConfigError
from perfkit.schema import RunFolder, open_run, read_if_whole, release, write_json, write_surely
from perfkit.secrets import without_secret_arguments

TASK, STAMP = "dispatch", "%Y%m%d-%H%M%S"


class Story(Protocol):
    """Where the dispatcher says what happens."""

    def tell(self, text: str) -> None:
        """Something to keep."""

    def progress(self, text: str) -> None:
        """Where it stands, until it is said again."""


def default_folder(model: str, step: Step | None) -> Path:
    """runs/MODEL-dispatch-TIME; under srun every task must come to the same name."""
    return Path("runs") / f"{model}-dispatch-{step.launch_id if step else time.strftime(STAMP)}"


def is_dispatch(path: Path) -> bool:
    record = read_if_whole(RunFolder(path).run_json)
    return record is not None and record.get("task") == TASK


def execute(
    plan: DispatchPlan, step: Step | None, meeting: Meeting | None, story: Story
) -> str | None:
    """Answer what is not answered yet; what is wrong with prompts that cannot be answered.

    The folder can be gone on with whenever this ends.
    """
    if step is None:
        check_gpus(plan)
    prompts = open_prompts(plan.prompts)
    launch_id = step.launch_id if step else f"local-{socket.gethostname()}-{os.getpid()}"
    folder, record = open_or_claim(plan, prompts, launch_id)
    journal = Journal(folder, prompts.count)
    if journal.num_answered == prompts.count:
        story.tell(f"all {prompts.count:,} prompts are answered already")
        finish(folder, journal, record, "finished", None)
        return journal.refused.words()
    if journal.num_answered:
        story.tell(f"going on: {journal.num_answered:,} of {prompts.count:,} prompts are answered")
    write_json(folder.run_json, record)
    state, failure = "failed", None
    try:
        with stoppable():
            dispatch(plan, step, meeting, prompts, journal, story)
        state = "finished"
    except (KeyboardInterrupt, SystemExit):
        state, failure = "stopped", {"reason": "stopped by Ctrl-C or a signal"}
        story.tell(
            f"stopped: {journal.num_answered:,} of {prompts.count:,} prompts are answered. The "
            f"same command with --out {plan.folder} goes on."
        )
        raise
    except BaseException as error:
        failure = {"reason": str(error) or type(error).__name__}
        raise
    finally:
        finish(folder, journal, record, state, failure)
    return journal.refused.words()


def dispatch(
    plan: DispatchPlan,
    step: Step | None,
    meeting: Meeting | None,
    prompts: PromptFile,
    journal: Journal,
    story: Story,
) -> None:
    """Workers up, everything answered, the end noted by the clock that all others are told by."""
    # Before distributed is imported: it sets its loggers up then.
    cluster.configure()
    from distributed import Client

    from perfkit.dispatch.attendance import Attendance
    from perfkit.dispatch.dispatcher import Dispatcher
    from perfkit.dispatch.worker import Preparation

    if step:
        # How many of them are CPU workers is known when they come; the bound is for all.
        plan = replace(plan, cpu_workers=step.workers, replicas=step.workers)
    expected = step.workers if step else plan.cpu_workers + plan.replicas
    journal.event("part", start_ns=time.time_ns(), workers=expected)
    story.tell("starting the scheduler" if step else "starting the workers")
    with cluster.running(plan, meeting) as ours, Client(ours, set_as_default=False) as client:
        root = RunFolder(plan.folder.resolve())
        attendance = Attendance(expected, plan.folder, journal, client, story)
        dispatcher = Dispatcher(plan, attendance, prompts, journal, client, story)
        dispatcher.listen()
        client.register_plugin(Preparation(root, plan.settings, dict(plan.model_config)))
        try:
            dispatcher.run()
        finally:
            left = prompts.count - journal.num_answered
            journal.event("end", end_ns=time.time_ns(), left=left)
            if meeting:
                meeting.everyone_came = attendance.complete


@contextmanager
def stoppable() -> Iterator[None]:
    """scancel and time limits end this as Ctrl-C does: with the folder in order."""

    def stop(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def open_or_claim(
    plan: DispatchPlan, prompts: PromptFile, launch_id: str
) -> tuple[RunFolder, dict[str, Any]]:
    """A folder that is gone on with, or a new one, and its run.json as it will be."""
    folder = RunFolder(plan.folder)
    if folder.root.exists() and not plan.force:
        if not folder.run_json.is_file():
            check_replaceable(folder, plan.force)
        _, before = open_run(folder.root)
        if before.get("task") != TASK:
            raise ConfigError(
                f"{folder.root} is a run of another command. Use --force to replace it, or give "
                "another folder with --out.",
            )
        check_same(plan, before, prompts.sha256)
        again = {"state": "running", "ended_at": None, "failure": None}
        return folder, {**before, **again, "supervisor": supervisor(), "launch_id": launch_id}
    folder = claim_folder(plan.folder, plan.force, launch_id)
    return folder, describe(plan, prompts, launch_id)


def describe(plan: DispatchPlan, prompts: PromptFile, launch_id: str) -> dict[str, Any]:
    """run.json as it stands when the first part starts."""
    settings = plan.settings
    config = {"window": plan.window, "queue": plan.queue, "prompts_sha256": prompts.sha256}
    return {
        "id": plan.folder.name,
        "task": TASK,
        "state": "running",
        "started_at": now(),
        "ended_at": None,
        "command": without_secret_arguments(plan.command),
        "launch_id": launch_id,
        "supervisor": supervisor(),
        "config": {**settings.as_dict(), **config, "num_prompts": prompts.count},
        "model": {"id": settings.model_id, "config": dict(plan.model_config)},
        "layout": [],
        "versions": {**facts.versions(), "perfkit": __version__},
        "hardware": facts.host_facts(),
        "container": container_of(os.environ),
        "slurm": facts.slurm_variables(),
        "collectors": {},
        "warnings": [],
        "failure": None,
    }


def supervisor() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid()}


def finish(
    folder: RunFolder,
    journal: Journal,
    record: Mapping[str, Any],
    state: str,
    failure: Mapping[str, Any] | None,
) -> None:
    journal.close()
    refused = journal.refused.words()
    warnings = [refused] if refused else []
    last = {"state": state, "ended_at": now(), "failure": failure, "warnings": warnings}
    write_surely(folder.run_json, {**record, **last})
    release(folder.root)
