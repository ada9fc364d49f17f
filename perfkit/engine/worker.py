"""One rank of a run, from joining the others to its last line on disk.

Started as `python -m perfkit.engine.worker RUN_FOLDER` with torch.distributed's environment
variables. Everything it is asked to do stands in run.json; everything it finds goes to its folder.
"""

import contextlib
import json
import os
import resource
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.collect.settings import RunSettings, settings_from_dict
from perfkit.collect.supervise import PROGRESS_FD
from perfkit.errors import PerfkitError
from perfkit.schema import RunFolder, read_json, write_surely

# What torch.distributed says when the other side of a connection is gone.
PEER_LOST = (
    "closed by peer",
    "reset by peer",
    "Broken pipe",
    "Socket Timeout",
    "Timed out",
    "NCCL",
)


def main() -> None:
    """Run one rank; its own error goes to error.json, its traceback to the log."""
    folder, rank = RunFolder(Path(sys.argv[1])), int(os.environ["RANK"])
    code = 1
    try:
        run_rank(folder, rank)
        code = 0
    except BaseException as error:
        traceback.print_exc()
        code = error.exit_code if isinstance(error, PerfkitError) else 1
        write_surely(folder.rank_file(rank, "error.json"), describe_error(error, code))
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        # A lost peer leaves communicator threads that would keep the interpreter from ending.
        # After a good run it ends as usual: profilers write their last events then.
        os._exit(code)


def describe_error(error: BaseException, code: int) -> dict[str, Any]:
    """kind is peer-lost when this rank failed only because another one had."""
    message = str(error) if isinstance(error, PerfkitError) else f"{type(error).__name__}: {error}"
    own = isinstance(error, PerfkitError)
    lost = not own and any(sign in message for sign in PEER_LOST)
    return {
        "kind": "peer-lost" if lost else "own",
        "message": message,
        "exit_code": code,
        "time_ns": time.time_ns(),
    }


@dataclass(slots=True)
class Rank:
    """What one rank needs while it runs."""

    folder: RunFolder
    rank: int
    settings: RunSettings
    model_config: dict[str, Any]
    model_id: str
    facts: dict[str, Any]

    def tell(self, text: str) -> None:
        """One progress line to the supervisor; dropped rather than waited for."""
        line = json.dumps({"rank": self.rank, "text": text}) + "\n"
        with contextlib.suppress(OSError, KeyError):
            os.write(int(os.environ[PROGRESS_FD]), line.encode())

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Seconds of one part of the start-up, kept in engine.json."""
        start = time.perf_counter()
        yield
        self.facts[name] = time.perf_counter() - start


def run_rank(folder: RunFolder, number: int) -> None:
    record = read_json(folder.run_json)
    settings = settings_from_dict(record["config"])
    model = record["model"]
    rank = Rank(folder, number, settings, model["config"], model["id"], {"rank": number})
    rank.tell("importing torch and transformers")
    with rank.timed("import_s"):
        from perfkit.engine import microbench, session
    tasks = {"inference": session.run, "calibration": microbench.run}
    tasks[record["task"]](rank)
    write_engine_facts(rank)


def write_engine_facts(rank: Rank) -> None:
    """engine.json: what only the engine knows."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rank.facts |= {"host": socket.gethostname(), "peak_host_bytes": peak}
    write_surely(rank.folder.rank_file(rank.rank, "engine.json"), rank.facts)


if __name__ == "__main__":
    main()
