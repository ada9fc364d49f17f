"""The tasks that dask workers run, and the plugin that makes each worker ready for them.

A worker has one thread and one resource: "cpu" for those that tokenise, "replica" for those that
hold the model. What it needs is loaded in that thread before its first task, so that heartbeats
go on meanwhile.
"""

import os
import signal
import socket
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker

from perfkit.collect.settings import RunSettings
from perfkit.dispatch.prepare import Wanted, Window, prepare, tokeniser
from perfkit.dispatch.prompt_file import Asked
from perfkit.dispatch.replica import Answered, Replica
from perfkit.dispatch.step import CPU, REPLICA, rank_of
from perfkit.schema import RunFolder

TOPIC = "perfkit-dispatch"
"""what workers tell the dispatcher: that they are born, and that they are ready"""
PLUGIN = "perfkit-dispatch"


class Preparation(WorkerPlugin):  # type: ignore[misc]
    """Loads the tokenizer or the model as soon as a worker is there, also after a restart."""

    name = PLUGIN

    def __init__(
        self, folder: RunFolder, settings: RunSettings, model_config: dict[str, Any]
    ) -> None:
        self.folder, self.settings, self.model_config = folder, settings, model_config
        self.replica: Replica | None = None
        self.ready: Future[None]

    def setup(self, worker: Worker) -> None:
        # Ctrl-C is for the dispatcher, which then ends its workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.number = rank_of(str(worker.name))
        print_to(self.folder.rank_file(self.number, "log.txt"))
        self.facts = {
            # Not "worker": the scheduler puts the address under that.
            "name": str(worker.name),
            "role": CPU if CPU in worker.state.total_resources else REPLICA,
            "address": worker.address,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "born_ns": time.time_ns(),
        }
        worker.log_event(TOPIC, {"kind": "born", **self.facts})
        self.ready = worker.executors["default"].submit(self.load, worker)

    def load(self, worker: Worker) -> None:
        if self.facts["role"] == CPU:
            assert self.settings.model_folder is not None
            tokeniser(self.settings.model_folder)
        else:
            self.replica = Replica(self.settings, self.model_config, self.number)
            self.replica.load(self.folder, place_on_node())
        loaded = {"kind": "ready", **self.facts, "ready_ns": time.time_ns()}
        worker.loop.add_callback(worker.log_event, TOPIC, loaded)

    def teardown(self, worker: Worker) -> None:
        if self.replica is not None:
            self.replica.close()


def print_to(log: Path) -> None:
    """From now on this process and what it starts print there."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def place_on_node() -> int:
    """Which of the node's replicas: the task's number there, or what the dispatcher gave."""
    return int(os.environ.get("PERFKIT_LOCAL_RANK") or os.environ.get("SLURM_LOCALID", "0"))


def prepare_window(asked: Asked, wanted: Wanted) -> Window:
    """On a CPU worker."""
    plugin = get_worker().plugins[PLUGIN]
    plugin.ready.result()
    return prepare(asked, wanted, plugin.facts["name"])


def answer_batch(window: Window, batch: int) -> Answered:
    """On a replica. The first batch of a window brings back the prompts that were refused."""
    plugin = get_worker().plugins[PLUGIN]
    plugin.ready.result()
    answered: Answered = plugin.replica.answer(window.batches[batch])
    facts = {
        **answered.facts,
        "window": window.number,
        "batch": batch,
        "worker": plugin.facts["name"],
        "prepared": window.facts,
    }
    return Answered(answered.records + (window.refused if batch == 0 else ()), facts)
