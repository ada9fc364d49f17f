"""A Slurm cluster for tests, beside any other on this machine, by slurm/dev-cluster.sh."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from perfkit.collect.witness import alive
from perfkit.schema import RunFolder, read_json

SCRIPT = Path(__file__).parents[2] / "slurm" / "dev-cluster.sh"
PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "srun", "mariadbd", "munged")
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
# The controller, slurmdbd, and from +10 on the nodes.
PORT_OFFSETS = (0, 1, 10, 11, 12)
# By name: Slurm takes other nodes while these still clean up after the job before.
TWO_BY_TWO = "--nodelist=node0,node1 --ntasks=4 --ntasks-per-node=2"

Done = subprocess.CompletedProcess[str]


def reason_to_skip() -> str | None:
    """Why no cluster can be started here; None when one can."""
    if os.environ.get("PERFKIT_SKIP_SLURM"):
        return "PERFKIT_SKIP_SLURM is set"
    if os.geteuid() != 0:
        return "slurm/dev-cluster.sh needs root"
    path = f"{os.environ['PATH']}:{SBIN}"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        return f"{missing[0]} is not installed. Install Slurm with: slurm/dev-cluster.sh install"
    return None


@dataclass(frozen=True, slots=True)
class Cluster:
    """Three nodes that run; `environ` is what a person's shell has after `eval env`."""

    environ: Mapping[str, str]
    settings: Mapping[str, str]

    @property
    def folder(self) -> Path:
        """Its state: etc, log, run with a pid file for each daemon."""
        return Path(self.settings["PERFKIT_CLUSTER_DIR"])

    def stop_daemon(self, name: str) -> None:
        """End one of its daemons; `up` starts it again."""
        pid = int((self.folder / "run" / f"{name}.pid").read_text())
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not alive(pid), f"{name} has ended", within_s=30)

    def up(self) -> None:
        script("up", self.settings)

    def sbatch(self, text: str, folder: Path) -> str:
        """Submit a batch script; returns the job's number. (--wait polls only now and then.)"""
        path = folder / "job.sbatch"
        path.write_text(text)
        done = self.run("sbatch", "--parsable", path, cwd=folder)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait_for_job(self, job: str, within_s: float) -> None:
        wait_until(
            lambda: not self.run("squeue", "-h", "-j", job).stdout, f"job {job} is gone", within_s
        )

    def run(self, *command: str | Path, cwd: Path | None = None, timeout_s: float = 120) -> Done:
        """A command of this cluster (sacct, scancel, srun ...) to its end."""
        return subprocess.run(
            [*map(str, command)],
            env=self.environ,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def perfkit(self, srun: str, *arguments: str | Path, cwd: Path, timeout_s: float = 120) -> Done:
        """`srun ... perfkit ARGUMENTS`; a step that takes too long is cancelled and fails."""
        process = self.start(srun, *arguments, cwd=cwd)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            end_step(process)
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(self, srun: str, *arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["srun", *srun.split(), sys.executable, "-m", "perfkit", *map(str, arguments)],
            env=self.environ,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def end_step(process: subprocess.Popen[str]) -> None:
    """srun's own way: a first SIGINT asks, a second one within a second ends the step."""
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    try:
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def running_cluster(nodes: int = 3, memory: str = "none") -> Iterator[Cluster]:
    """A cluster in a folder of its own, on ports of its own, down at the end.

    Not under pytest's folder: munged and MariaDB must be able to enter it, and a socket's path is
    short. Without cgroups unless asked: their names hold only the node's, which clusters share.
    """
    folder = Path(tempfile.mkdtemp(prefix="pk-slurm-", dir="/tmp"))
    folder.chmod(0o755)
    ours = {
        "PERFKIT_CLUSTER_DIR": str(folder),
        "PERFKIT_CLUSTER_PORT": str(free_ports()),
        "PERFKIT_CLUSTER_NODES": str(nodes),
        "PERFKIT_CLUSTER_MEMORY": memory,
    }
    try:
        script("up", ours)
        line = script("env", ours).stdout.strip()
        name, _, value = line.removeprefix("export ").partition("=")
        yield Cluster({**outside_slurm(), name: value}, ours)
    finally:
        script("down", ours)
        shutil.rmtree(folder)


def script(command: str, settings: Mapping[str, str]) -> Done:
    """dev-cluster.sh COMMAND; what it says is the message when it fails."""
    done = subprocess.run(
        [str(SCRIPT), command],
        env={**outside_slurm(), **settings},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def outside_slurm() -> dict[str, str]:
    """This environment without what another cluster or job has put there."""
    return {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}


def free_ports() -> int:
    """The first of a row of ports that nobody listens on; below those given to clients."""
    for first in range(18_000 + os.getpid() % 500 * 20, 32_000, 20):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for offset in PORT_OFFSETS:
                stack.enter_context(socket.socket()).bind(("", first + offset))
            return first
    raise AssertionError("no free ports between 18000 and 32000")


class LongRun:
    """Four ranks on two nodes that would go on for minutes, in their timed passes."""

    def __init__(self, cluster: Cluster, model: Path, folder: Path) -> None:
        self.folder = RunFolder(folder)
        options = "--tp 2 --pp 2 --batch 2 --prompt-tokens 8 --new-tokens 24 --repeats 5000"
        run = ["run", str(model), *options.split(), "--collect", "none", "--out", str(folder)]
        self.process = cluster.start(TWO_BY_TWO, *run, cwd=folder.parent)
        try:
            wait_until(self._timed, "every rank is in its timed passes", within_s=180)
        except BaseException:
            end_step(self.process)
            raise

    def _timed(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()
        timers = [self.folder.rank_file(rank, "timers.jsonl") for rank in range(4)]
        return all(path.is_file() and '"timed"' in path.read_text() for path in timers)

    def pids(self, file: str = "exit.json") -> list[int]:
        """Of the ranks' own programs. The nodes share this machine's process numbers."""
        return [read_json(self.folder.rank_file(rank, file))["pid"] for rank in range(4)]

    def end(self) -> tuple[int, str, float]:
        """Exit code and stderr of srun, and the seconds it took from now."""
        start = time.monotonic()
        _, stderr = self.process.communicate(timeout=90)
        return self.process.returncode, stderr, time.monotonic() - start


def wait_until(condition: Callable[[], bool], what: str, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.1)
