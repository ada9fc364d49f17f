"""What the fuzzers share: cases by number, each within a time, and what failed."""

import argparse
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import polars as pl

MOST_S = 20
PARTS = ("compute_ns", "exposed_comm_ns", "copy_ns", "idle_ns")

# seed, number of the case, an empty folder -> what became of it; what is wrong is an exception
Case = Callable[[int, int, Path], str]


class TooSlow(Exception):
    """An analysis that took longer than its limit."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check_adds_up(split: pl.DataFrame) -> None:
    """compute + exposed_comm + copy + idle = window in every row, and none is negative."""
    for row in split.iter_rows(named=True):
        assert sum(row[part] for part in PARTS) == row["window_ns"], f"does not add up: {row}"
        assert min(row[part] for part in PARTS) >= 0, f"less than nothing: {row}"


def run(
    case: Case, seed: int, keep: Path | None, *, seconds: float = 1e9, cases: int = 2**62
) -> Counter[str]:
    """How many cases came to which end; `failed` are those that should not be."""
    ends: Counter[str] = Counter()
    until = time.monotonic() + seconds
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while ends.total() < cases and time.monotonic() < until:
            with tempfile.TemporaryDirectory() as folder:
                ends[_end(case, seed, ends.total(), Path(folder), keep)] += 1
    return ends


def _end(case: Case, seed: int, number: int, folder: Path, keep: Path | None) -> str:
    try:
        with time_limit(MOST_S):
            return case(seed, number, folder)
    except BaseException as error:  # a Rust panic is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        print(f"seed {seed} case {number}: {last_lines(error)}", file=sys.stderr)
        if keep:
            shutil.copytree(folder, keep / f"{seed}-{number}", dirs_exist_ok=True)
        return "failed"


def last_lines(error: BaseException) -> str:
    """Where and what, in short."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "perfkit/" in f.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{place} {type(error).__name__}: {str(error)[:200]}"


def main(case: Case, description: str | None) -> int:
    """The command line of a fuzzer; exit code 1 when a case failed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
    ends = run(case, given.seed, given.keep, seconds=given.seconds)
    print(", ".join(f"{count} {end}" for end, count in sorted(ends.items())))
    return 1 if ends["failed"] else 0
