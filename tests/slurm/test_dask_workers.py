"""`perfkit analyze --executor` with workers that srun has started on two nodes."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from dev_cluster import Cluster, end_step, wait_until

pytestmark = pytest.mark.slow

RUN = Path(__file__).parents[2] / "traces" / "h200-smollm2-pp2"
DASK = [sys.executable, "-m", "dask"]


@pytest.fixture
def scheduler(cluster: Cluster, shared: Path) -> Iterator[Path]:
    """The file of a scheduler whose two workers are tasks of one step."""
    file, log = shared / "scheduler.json", (shared / "dask.log").open("ab")
    with log, ExitStack() as stack:
        start = [*DASK, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        ours = subprocess.Popen([*start, "--scheduler-file", str(file)], stdout=log, stderr=log)
        stack.callback(ours.wait)
        stack.callback(ours.terminate)
        wait_until(file.exists, "the scheduler is up", within_s=60)
        worker = [*DASK, "worker", "--scheduler-file", str(file), "--no-nanny", "--no-dashboard"]
        step = subprocess.Popen(
            ["srun", "-N2", "-n2", *worker, "--nthreads", "1", "--local-directory", str(shared)],
            env=cluster.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        stack.callback(end_step, step)
        yield file


def test_workers_started_by_srun_read_their_ranks(
    scheduler: Path, shared: Path, tmp_path: Path
) -> None:
    shutil.copytree(RUN, shared / "run-for-workers")
    command = [sys.executable, "-m", "perfkit", "analyze", str(shared / "run-for-workers")]
    alone = subprocess.run(command, capture_output=True, text=True, check=True)
    spread = subprocess.run(
        [*command, "--executor", str(scheduler), "--out", str(shared / "tables")],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert spread.stdout == alone.stdout
    written = sorted(path.name for path in (shared / "tables" / "activities").iterdir())
    assert written == ["0000.parquet", "0001.parquet"]
