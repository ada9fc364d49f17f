"""The ranks of a replica beside its first: children of its worker, which tells them what to run.

    python -m perfkit.dispatch.followers    what to load, then each batch, a line of JSON on stdin

A child ends when its standard input does. When a child ends before, the worker ends, too: its nanny
starts the replica again, and dask runs its batch again.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from perfkit.collect.settings import RunSettings, settings_from_dict
from perfkit.collect.witness import die_with_parent
from perfkit.schema import RunFolder

LEAVE_S = 10.0
LOST_S = 5.0
"""A lost peer is seen by its connection a little before its end is."""


class Followers:
    """None where the replica has one rank."""

    def __init__(self) -> None:
        self.children: list[subprocess.Popen[str]] = []
        self.closing = False

    def start(
        self,
        settings: RunSettings,
        model_config: Mapping[str, Any],
        folder: RunFolder,
        timers: Path,
        places: Sequence[Mapping[str, str]],
    ) -> None:
        """A child for each place; they load while the worker does."""
        for place in places:
            # Their output goes where the worker's goes.
            child = subprocess.Popen(
                [sys.executable, "-m", "perfkit.dispatch.followers"],
                stdin=subprocess.PIPE,
                text=True,
                env={**os.environ, **place},
                preexec_fn=die_with_parent,
            )
            self.children.append(child)
            threading.Thread(target=self.watch, args=(child,), daemon=True).start()
        own = {"settings": settings.as_dict(), "model_config": dict(model_config)}
        self.send({**own, "folder": str(folder.root), "timers": str(timers)})

    def watch(self, child: "subprocess.Popen[str]") -> None:
        code = child.wait()
        if not self.closing:
            sys.stderr.write(f"process {child.pid}, a rank of this replica, ended with {code}\n")
            sys.stderr.flush()
            os._exit(1)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """An error that comes of a child's end is no answer: the watch ends this worker then."""
        try:
            yield
        except Exception:
            for child in self.children:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(LOST_S)
            raise

    def send(self, content: Any) -> None:
        line = json.dumps(content) + "\n"
        for child in self.children:
            assert child.stdin is not None
            child.stdin.write(line)
            child.stdin.flush()

    def close(self) -> None:
        self.closing = True
        for child in self.children:
            assert child.stdin is not None
            child.stdin.close()
        for child in self.children:
            try:
                child.wait(LEAVE_S)
            except subprocess.TimeoutExpired:
                child.kill()


def main() -> None:
    """One follower, until its standard input ends."""
    from perfkit.dispatch.replica import EngineRank

    asked = json.loads(sys.stdin.readline())
    folder = RunFolder(Path(asked["folder"]))
    settings = settings_from_dict(asked["settings"])
    timers = Path(asked["timers"])
    engine = EngineRank(settings, asked["model_config"], int(timers.parent.name))
    engine.load(folder, timers.with_name(f"rank-{os.environ['RANK']}-{timers.name}"))
    for line in sys.stdin:
        engine.answer(json.loads(line))
    engine.recorder.close()


if __name__ == "__main__":
    main()
