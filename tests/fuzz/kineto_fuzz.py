"""Damages Kineto traces in every way it knows and analyses them.

    python tests/fuzz/kineto_fuzz.py --seconds 300 --seed 1 [--keep FOLDER]

A damaged trace may be analysed or refused with a ConfigError, within a time; nothing else. What is
analysed must add up (compute + exposed_comm + copy + idle = window) and be the same however the
file is cut into pieces. Cases that fail are kept in FOLDER. Exit code 1 when there were any.
"""

import random
import sys
from pathlib import Path

from fuzzing import check_adds_up, main
from kineto_mutations import damaged
from kineto_seeds import seeds

from perfkit.errors import ConfigError
from perfkit.ingest import kineto_text
from perfkit.ingest.kineto import read_kineto
from perfkit.ingest.trace import Trace
from perfkit.timeline.analysis import analyze_traces

SMALL_BLOCKS = (64, 256, 1000, 5000)


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
    check_adds_up(analyze_traces([path]).split)
    return "repaired" if cut.findings else "analysed"


def case(seed: int, number: int, folder: Path) -> str:
    """Damage, write and check one trace; the same for the same numbers."""
    chance = random.Random(f"{seed}/{number}")
    path = folder / "case.json"
    path.write_bytes(damaged(chance, chance.choice(seeds())))
    return check(path, chance.choice(SMALL_BLOCKS))


if __name__ == "__main__":
    sys.exit(main(case, __doc__))
