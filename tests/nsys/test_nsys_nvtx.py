"""Nsight Systems itself: records the engine's phases on CPU ranks, and its files are read.

Skipped unless PERFKIT_NSYS names a folder that unpack.sh filled. This nsys fails to start once in a
while, and what it leaves behind then stops every later one: so a start is tried again, after it has
been swept away.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from perfkit.ingest.recognise import read_traces
from perfkit.schema import RunFolder, read_json
from perfkit.timeline.analysis import analyze_run

FOLDER = os.environ.get("PERFKIT_NSYS", "")
ATTEMPTS, PATIENCE_S = 3, 90
RANKS, NEW_TOKENS, REPEATS = 2, 3, 2

pytestmark = pytest.mark.skipif(
    not FOLDER, reason="PERFKIT_NSYS names no folder that tests/nsys/unpack.sh filled"
)


@pytest.fixture(scope="module")
def nsys() -> Iterator[Path]:
    folder = Path(FOLDER).resolve()
    assert (folder / "bin" / "nsys").is_file(), f"{folder} was not filled by tests/nsys/unpack.sh"
    yield folder
    sweep(folder)


@pytest.fixture
def on_path(nsys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{nsys}/bin:{os.environ['PATH']}")


@pytest.fixture(scope="module")
def run(nsys: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks of a tiny model, recorded."""
    root = tmp_path_factory.mktemp("nsys") / "run"
    command = ["run", str(tiny), "--tp", str(RANKS), "--device", "cpu", "--prompt-tokens", "8"]
    command += ["--new-tokens", str(NEW_TOKENS), "--repeats", str(REPEATS), "--force"]
    command += ["--collect", "nsys-nvtx", "--out", str(root)]
    for _attempt in range(ATTEMPTS):
        if recorded(nsys, command) and all(state(root, rank) == "ran" for rank in range(RANKS)):
            return root
        sweep(nsys)
    pytest.fail(f"nsys did not record in {ATTEMPTS} attempts: see {root}/ranks/0000/log.txt")


def recorded(nsys: Path, command: list[str]) -> bool:
    """Run perfkit under this nsys; False when it has to be stopped."""
    environment = {
        **os.environ,
        "PATH": f"{nsys}/bin:{os.environ['PATH']}",
        "PYTHONPATH": f"{nsys}/python",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "perfkit", *command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(PATIENCE_S) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False


def state(root: Path, rank: int) -> str | None:
    """What the rank says of its collector."""
    status = read_json(RunFolder(root).rank_file(rank, "status.json"))
    found: str | None = status["collectors"]["nsys-nvtx"]["state"]
    return found


def sweep(nsys: Path) -> None:
    """End the agents that this nsys left, and remove the memory that they share."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            program = (folder / "exe").readlink()
        except OSError:
            continue
        if nsys in program.parents:
            os.kill(int(folder.name), signal.SIGKILL)
    for shared in Path("/dev/shm").glob("NSys-2022.4*"):
        shared.unlink(missing_ok=True)


def test_every_phase_that_the_engine_timed_is_a_range(run: Path) -> None:
    found = analyze_run(run)
    for rank in range(RANKS):
        timed = Counter(found.timers.filter(rank=rank)["phase"])
        ranges = Counter(found.ranges.filter(rank=rank)["phase"])
        passes = 1 + REPEATS
        assert timed == {
            "request": passes,
            "prefill": passes,
            "decode": passes * (NEW_TOKENS - 1),
            "sample": passes * NEW_TOKENS,
        }
        assert ranges == timed


def test_ranges_last_as_long_as_the_engine_says(run: Path) -> None:
    """Two clocks and two places of the same mark: within a tenth, or 2 ms."""
    found = analyze_run(run)
    length = pl.col("end_ns") - pl.col("start_ns")
    for rank in range(RANKS):
        timed, ranges = (
            frame.filter(rank=rank, phase="decode").sort("start_ns").select(length).to_series()
            for frame in (found.timers, found.ranges)
        )
        for engine, nsys in zip(timed, ranges, strict=True):
            assert abs(nsys - engine) <= max(2_000_000, engine / 10)


def test_the_split_is_not_measured_and_the_reason_is_told(run: Path) -> None:
    found = analyze_run(run)
    assert found.split.is_empty()
    assert found.missing_traces == ()
    assert found.recognised == ("Nsight Systems 2022.4.2.1 SQLite export, ranks 0, 1",)
    assert [text for text in found.warnings if "no GPU activity" in text] == [
        "nsys.sqlite has no GPU activity: no CUDA was traced while nsys recorded. The split is not "
        "measured; on a GPU, capture with --trace=cuda"
    ]


def test_no_environment_string_reaches_a_table(run: Path) -> None:
    """The file holds the whole environment of the rank; its PATH names this folder."""
    exported = RunFolder(run).rank_file(0, "nsys.sqlite")
    assert FOLDER.encode() in exported.read_bytes()
    (trace,) = read_traces(exported, 0)
    tables = (trace.activities, trace.ranges, trace.syncs, trace.devices)
    text = "".join(table.write_csv() for table in tables) + str(trace.findings)
    assert FOLDER not in text


@pytest.mark.usefixtures("on_path")
def test_a_report_is_exported_elsewhere_and_read(run: Path, tmp_path: Path) -> None:
    report = Path(shutil.copy(RunFolder(run).rank_file(1, "nsys.nsys-rep"), tmp_path))
    before = report.read_bytes()
    (trace,) = read_traces(report, 1)
    (expected,) = read_traces(RunFolder(run).rank_file(1, "nsys.sqlite"), 1)
    assert trace.ranges.equals(expected.ranges)
    assert report.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["nsys.nsys-rep"]


@pytest.mark.usefixtures("on_path")
def test_a_run_that_kept_only_reports_is_analysed(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    for exported in copy.glob("ranks/*/nsys.sqlite"):
        exported.unlink()
    assert analyze_run(copy).ranges.equals(analyze_run(run).ranges)
