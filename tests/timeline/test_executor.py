"""The same analysis in one process, on all cores, and on a real dask scheduler with two workers."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import polars as pl
import pytest

from perfkit.errors import ConfigError
from perfkit.executors import Cores, Dask, Here
from perfkit.timeline.analysis import (
    COLLECTED,
    TABLES,
    Analysis,
    analyze_run,
    analyze_traces,
    write_tables,
)

ROOT = Path(__file__).parents[2]
RUN = ROOT / "traces" / "h200-8b-tp2"
NSYS = ROOT / "tests" / "data" / "nsys"
STARTED_WITHIN_S = 60
SCHEDULER = [sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0"]
WORKER = [sys.executable, "-m", "dask", "worker", "--nthreads", "1", "--no-nanny"]


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of a scheduler with two workers, each a process of its own."""
    folder = tmp_path_factory.mktemp("dask")
    file = folder / "scheduler.json"
    with ExitStack() as stack:
        start(stack, [*SCHEDULER, "--no-dashboard", "--scheduler-file", str(file)], folder)
        deadline = time.monotonic() + STARTED_WITHIN_S
        while not file.exists():
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        for _ in range(2):
            where = ["--scheduler-file", str(file), "--local-directory", str(folder)]
            start(stack, [*WORKER, "--no-dashboard", *where], folder)
        yield file


def start(stack: ExitStack, command: list[str], folder: Path) -> None:
    """A process that is ended with the stack."""
    log = stack.enter_context((folder / "log").open("ab"))
    process = stack.enter_context(
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    )
    stack.callback(process.terminate)


@pytest.fixture(scope="module")
def dask(scheduler: Path) -> Iterator[Dask]:
    executor = Dask(str(scheduler))
    executor.client.wait_for_workers(2, timeout=STARTED_WITHIN_S)
    yield executor
    executor.client.close()


@pytest.fixture
def mixed(tmp_path: Path) -> list[Path]:
    """Files of three ranks by two profilers, and one that is cut off."""
    names = [
        RUN / "ranks" / "0001" / "kineto.json.gz",
        NSYS / "h200x2-graph-nodes-2025.3-rank0.sqlite",
        NSYS / "h200x2-graph-nodes-2025.3-rank1.sqlite",
    ]
    for number, path in enumerate(names):
        suffix = ".sqlite" if path.suffix == ".sqlite" else ".json.gz"
        shutil.copyfile(path, tmp_path / f"{number}{suffix}")
    whole = (RUN / "ranks" / "0000" / "kineto.json.gz").read_bytes()
    (tmp_path / "4.json.gz").write_bytes(whole[: len(whole) // 2])
    return [tmp_path]


def assert_same(found: Analysis, expected: Analysis, *, but: tuple[str, ...] = ()) -> None:
    for name in TABLES:
        if name not in but:
            assert getattr(found, name).equals(getattr(expected, name)), name
    for name in COLLECTED:
        assert getattr(found.collected, name).equals(getattr(expected.collected, name)), name
    assert found.recognised == expected.recognised


def test_all_cores_give_the_same_tables(mixed: list[Path]) -> None:
    cores = Cores(lambda function, _row: function.__name__ == "read_place")
    assert_same(analyze_traces(mixed, executor=cores), analyze_traces(mixed, executor=Here()))


def dies_in_a_child(value: int) -> int:
    """Twice the value, but killed in any process that is not pytest's own."""
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * value


def test_a_killed_process_costs_time_and_no_file() -> None:
    assert Cores(lambda _function, _row: True).keep(dies_in_a_child, [(1,), (2,)]) == [2, 4]


def test_two_workers_give_the_same_tables_and_the_same_findings(
    mixed: list[Path], dask: Dask
) -> None:
    found, expected = analyze_traces(mixed, executor=dask), analyze_traces(mixed)
    assert_same(found, expected, but=("activities",))
    assert expected.split["rank"].n_unique() == 3
    assert "unreadable-trace" in found.quality["code"].to_list()


def test_activities_stay_with_the_workers_that_write_them(dask: Dask, tmp_path: Path) -> None:
    shutil.copytree(RUN, tmp_path / "run")
    found, expected = analyze_run(tmp_path / "run", executor=dask), analyze_run(RUN)
    assert_same(found, expected, but=("activities",))
    assert found.activities.is_empty()
    tables = write_tables(found, tmp_path / "tables")
    assert sorted(path.name for path in (tables / "activities").iterdir()) == [
        "0000.parquet",
        "0001.parquet",
    ]
    assert pl.read_parquet(tables / "activities" / "*.parquet").equals(expected.activities)
    split = pl.read_parquet(tables / "split.parquet")
    assert split.equals(expected.split)


def test_both_workers_take_part(mixed: list[Path], dask: Dask) -> None:
    before = tasks_done(dask)
    analyze_traces(mixed * 4, executor=dask)
    assert all(now > then for now, then in zip(tasks_done(dask), before, strict=True))


def tasks_done(dask: Dask) -> list[int]:
    """How much each worker has written in its log of tasks."""
    done: dict[str, int] = dask.client.run(lambda dask_worker: len(dask_worker.state.log))
    return [done[worker] for worker in sorted(done)]


def test_the_command_takes_the_schedulers_file(scheduler: Path, tmp_path: Path) -> None:
    shutil.copytree(RUN, tmp_path / "run")
    command = [sys.executable, "-m", "perfkit", "analyze", str(tmp_path / "run")]
    alone = subprocess.run([*command], capture_output=True, text=True, check=True)
    spread = subprocess.run(
        [*command, "--executor", str(scheduler)], capture_output=True, text=True, check=True
    )
    assert spread.stdout == alone.stdout


def test_no_scheduler_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dask, "CONNECT_S", 1)
    with pytest.raises(ConfigError, match="no dask scheduler answers there within 1 s"):
        Dask("tcp://127.0.0.1:9")


def test_a_scheduler_without_workers_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dask, "WORKERS_S", 1)
    file = tmp_path / "alone.json"
    with ExitStack() as stack:
        start(stack, [*SCHEDULER, "--no-dashboard", "--scheduler-file", str(file)], tmp_path)
        deadline = time.monotonic() + STARTED_WITHIN_S
        while not file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with pytest.raises(ConfigError, match="has no worker after 1 s"):
            Dask(str(file))
