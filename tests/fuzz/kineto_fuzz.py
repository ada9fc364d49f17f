"""Damages Kineto traces in every way it knows and analyses them.

    python tests/fuzz/kineto_fuzz.py --seconds 300 --seed 1 [--keep FOLDER]

A damaged trace may be analysed or refused with a ConfigError, within a time; nothing else. What is
analysed must add up (compute + exposed_comm + copy + idle = window) and be the same however the
file is cut into pieces. Cases that fail are kept in FOLDER. Exit code 1 when there were any.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from kineto_mutations import damaged
from kineto_seeds import seeds

from perfkit.errors import ConfigError
from perfkit.ingest import kineto_text
from perfkit.ingest.kineto import read_kineto
from perfkit.ingest.trace import Trace
from perfkit.timeline.analysis import analyze_traces

MOST_S = 20
SMALL_BLOCKS = (64, 256, 1000, 5000)
PARTS = ("compute_ns", "exposed_comm_ns", "copy_ns", "idle_ns")


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


def read_in_blocks(path: Path, block_bytes: int) -> Trace | None:
    """The trace; None when it is refused."""
    usual = kineto_text.BLOCK_BYTES
    kineto_text.BLOCK_BYTES = block_bytes
    try:
        return read_kineto(path)
    except ConfigError:
        return None
    finally:
        kineto_text.BLOCK_BYTES = usual


def check(path: Path, block_bytes: int) -> str:
    """What became of the case; anything wrong is an exception."""
    cut, at_once = read_in_blocks(path, block_bytes), read_in_blocks(path, 2**30)
    assert (cut is None) == (at_once is None), "refused only when cut in one way"
    if cut is None or at_once is None:
        return "refused"
    assert cut.activities.equals(at_once.activities), "other activities when cut in another way"
    assert cut.ranges.equals(at_once.ranges), "other ranges when cut in another way"
    split = analyze_traces([path]).split
    for row in split.iter_rows(named=True):
        assert sum(row[part] for part in PARTS) == row["window_ns"], f"does not add up: {row}"
        assert min(row[part] for part in PARTS) >= 0, f"less than nothing: {row}"
    return "repaired" if cut.findings else "analysed"


def one_case(number: int, seed: int, path: Path) -> tuple[str, bytes]:
    """Damage, write and check one trace; the same for the same numbers."""
    chance = random.Random(f"{seed}/{number}")
    content = damaged(chance, chance.choice(seeds()))
    path.write_bytes(content)
    with time_limit(MOST_S):
        return check(path, chance.choice(SMALL_BLOCKS)), content


def run(seed: int, keep: Path | None, *, seconds: float = 1e9, cases: int = 2**62) -> Counter[str]:
    """How many cases came to which end; `failed` are those that should not be."""
    ends: Counter[str] = Counter()
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        path = Path(folder) / "case.json"
        while ends.total() < cases and time.monotonic() < until:
            number = ends.total()
            try:
                end, _content = one_case(number, seed, path)
            except BaseException as error:  # a Rust panic is no Exception
                if isinstance(error, KeyboardInterrupt):
                    raise
                end = "failed"
                print(f"seed {seed} case {number}: {last_lines(error)}", file=sys.stderr)
                if keep:
                    (keep / f"{seed}-{number}.json").write_bytes(path.read_bytes())
            ends[end] += 1
    return ends


def last_lines(error: BaseException) -> str:
    """Where and what, in short."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "perfkit" in f.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{place} {type(error).__name__}: {str(error)[:200]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
    ends = run(given.seed, given.keep, seconds=given.seconds)
    print(", ".join(f"{count} {end}" for end, count in sorted(ends.items())))
    return 1 if ends["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
