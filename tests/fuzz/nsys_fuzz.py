"""Damages nsys exports in every way it knows and analyses them.

    python tests/fuzz/nsys_fuzz.py --seconds 300 --seed 1 [--keep FOLDER]

A damaged export may be analysed or refused with a ConfigError that names it, within a time; nothing
else. What is analysed must add up (compute + exposed_comm + copy + idle = window), be the same
whether the database is read by its pages or by queries, and leave the file as it was. Cases that
fail are kept in FOLDER. Exit code 1 when there were any.
"""

import random
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

from fuzzing import check_adds_up, main
from nsys_mutations import damaged
from nsys_seeds import seeds

from perfkit.errors import ConfigError
from perfkit.ingest import nsys_sqlite
from perfkit.ingest.nsys_sqlite import SqliteSource
from perfkit.ingest.sqlite_pages import NotPlain
from perfkit.timeline.analysis import Analysis, analyze_traces


def analysed(path: Path) -> Analysis | None:
    """The analysis; None when it is refused by name."""
    try:
        return analyze_traces([path])
    except ConfigError as error:
        if path.name not in str(error):
            raise AssertionError(f"does not name the file: {error}") from error
        return None


def check(path: Path) -> str:
    """What became of the case; anything wrong is an exception."""
    before = content(path)
    # Every table by its pages, however short it is, and then none.
    with patch.object(nsys_sqlite, "MANY_ROWS", -1):
        by_pages = analysed(path)
    with patch.object(SqliteSource, "_by_pages", side_effect=NotPlain):
        by_queries = analysed(path)
    assert content(path) == before, "the file has changed"
    # Pages that nothing but sqlite looks at may be broken: then one of the two refuses.
    if by_pages is None or by_queries is None:
        return "refused" if by_pages is by_queries else "refused one way"
    check_adds_up(by_pages.split)
    check_adds_up(by_queries.split)
    if is_sound(path):
        assert by_pages.activities.equals(by_queries.activities), "other activities by pages"
        assert by_pages.ranges.equals(by_queries.ranges), "other ranges by pages"
    return "told" if by_pages.warnings else "analysed"


def is_sound(path: Path) -> bool:
    """Whether sqlite finds nothing wrong with a database; in a broken one its queries miss rows."""
    if path.is_dir():
        return True
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as file:
        try:
            return bool(file.execute("pragma integrity_check").fetchone() == ("ok",))
        except (sqlite3.Error, UnicodeDecodeError):
            return False


def content(path: Path) -> dict[str, bytes]:
    files = path.rglob("*") if path.is_dir() else [path]
    return {str(file): file.read_bytes() for file in files if file.is_file()}


def case(seed: int, number: int, folder: Path) -> str:
    """Damage, write and check one export; the same for the same numbers."""
    chance = random.Random(f"{seed}/{number}")
    return check(damaged(chance, chance.choice(seeds()), folder))


if __name__ == "__main__":
    sys.exit(main(case, __doc__))
