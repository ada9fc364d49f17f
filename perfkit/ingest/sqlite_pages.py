"""Integer columns of a long SQLite table, straight from the pages of its file.

An export of nsys has tables of many million rows, and SQLite hands them out value by value. Here
numpy takes a column of a thousand pages at once, which is several times as fast. It reads plain
rows only, and raises NotPlain at whatever it does not expect (a long text in front of a column, a
column added later, a damaged page), upon which the caller asks SQLite itself.

Source of the format: sqlite.org/fileformat2.html, 1.6 (b-tree pages) and 2.1 (records).
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

LEAF, INTERIOR = 13, 5
PAGES_A_PART = 256
MOST_THREADS = 4
NULL = np.iinfo(np.int64).min
# Bytes behind the last page: a value at its end is read as eight bytes.
SPARE = 8
# What of a page a record cannot have: 35 bytes, and what is kept free at its end (255 at most).
MOST_BESIDE = 35 + 255
# A byte from here on is not the last one of its varint.
GOES_ON = 128
# Bytes of a value by its serial type: null, whole numbers, a float, 0, 1; then texts and blobs.
SIZES = np.array([0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0, *((n - 12) // 2 for n in range(12, GOES_ON))])
NULL_TYPE, FLOAT_TYPE, ZERO_TYPE, ONE_TYPE, TEXT_TYPES = 0, 7, 8, 9, 10

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Part = TypeVar("Part")


class NotPlain(Exception):
    """The table has something that only SQLite can read."""


def read_columns(
    path: Path,
    root: int,
    positions: Mapping[str, int],
    finish: Callable[[Mapping[str, Ints]], Part],
) -> list[Part]:
    """The columns at some positions of every row, in parts and in order; NULL stands for null.

    `root` is the number of the table's first page, by sqlite_master; `finish` makes of each part
    what is kept of it.
    """
    with path.open("rb") as file:
        pages = Pages(file.fileno())
        leaves = pages.leaves(root)
        parts = [leaves[i : i + PAGES_A_PART] for i in range(0, len(leaves), PAGES_A_PART)]

        def read(part: Ints) -> Part:
            try:
                return finish(decoded(pages.read(part), pages.size, positions))
            except IndexError as error:
                raise NotPlain from error

        with ThreadPoolExecutor(min(MOST_THREADS, len(os.sched_getaffinity(0)))) as pool:
            return list(pool.map(read, parts))


class Pages:
    """The pages of an open SQLite file."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        size = int.from_bytes(os.pread(descriptor, 2, 16), "big")
        self.size = 65536 if size == 1 else size

    def read(self, numbers: Ints) -> Bytes:
        """Some pages, end to end; pages that stand together in the file are read together."""
        data = np.empty(len(numbers) * self.size + SPARE, dtype=np.uint8)
        data[-SPARE:] = 0
        view, filled = data.data, 0
        for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
            size = len(run) * self.size
            place = view[filled : filled + size]
            filled += os.preadv(self.descriptor, [place], (int(run[0]) - 1) * self.size)
        if filled != len(numbers) * self.size:
            raise NotPlain
        return data

    def leaves(self, root: int) -> Ints:
        """The pages that hold the table's rows, in order of rowid."""
        level = np.array([root])
        while self.read(level[:1])[0] != LEAF:
            level = np.concatenate([self._children(number) for number in level])
        return level

    def _children(self, number: int) -> Ints:
        """The pages below an interior page: one a cell, and the one beyond the last."""
        page = self.read(np.array([number]))
        if page[0] != INTERIOR:
            raise NotPlain
        count = int(page[3:5].view(">u2")[0])
        cells = page[12 : 12 + 2 * count].view(">u2").astype(np.int64)
        pointers = page[cells[:, None] + np.arange(4)].copy().view(">u4")[:, 0]
        return np.append(pointers, page[8:12].view(">u4")).astype(np.int64)


def decoded(data: Bytes, page_size: int, positions: Mapping[str, int]) -> dict[str, Ints]:
    """Columns of the rows on some leaf pages."""
    rows = row_offsets(data[:-SPARE].reshape(-1, page_size))
    header, body = records(data, rows, page_size, max(positions.values()))
    # Any eight bytes as one number: overlapping, one starts at each byte.
    numbers = np.ndarray((len(data) - 7,), dtype=">i8", buffer=data, strides=(1,))
    wanted = {position: name for name, position in positions.items()}
    found = {}
    for position in range(max(wanted) + 1):
        kind = data[header + position]
        low, high = int(kind.min(initial=GOES_ON)), int(kind.max(initial=0))
        if high >= GOES_ON:
            raise NotPlain
        # Most columns have values of one size on a thousand rows: then that is one number.
        sizes = SIZES[kind] if low < high else SIZES[high]
        if position in wanted:
            found[wanted[position]] = values(numbers, body, kind, sizes)
        body = body + sizes
    return found


def row_offsets(pages: Bytes) -> Ints:
    """Where each row begins in the pages laid end to end."""
    count, size = pages.shape
    if (pages[:, 0] != LEAF).any():
        raise NotPlain
    rows = pages[:, 3].astype(np.int64) * 256 + pages[:, 4]
    most = int(rows.max())
    pointers = pages[:, 8 : 8 + 2 * most].astype(np.int64)
    offsets = pointers[:, ::2] * 256 + pointers[:, 1::2]
    there = np.arange(most) < rows[:, None]
    places: Ints = (offsets + size * np.arange(count)[:, None])[there]
    if (offsets[there] >= size).any():
        raise NotPlain
    return places


def records(data: Bytes, rows: Ints, page_size: int, last: int) -> tuple[Ints, Ints]:
    """Where the serial types and the values of each row begin; it has a column number `last`.

    A row is the length of its record and its rowid as varints, then the record: the length of its
    header, a serial type for each column, and the values.
    """
    first, more = data[rows].astype(np.int64), data[rows] >= GOES_ON
    length = np.where(more, (first - GOES_ON) * GOES_ON + data[rows + 1], first)
    longer = more & (data[rows + 1] >= GOES_ON)
    # The end of a record that does not fit stands on another page.
    if longer.any() or length.max(initial=0) > page_size - MOST_BESIDE:
        raise NotPlain
    start = after_varint(data, rows + 1 + more)
    header = data[start]
    if header.max(initial=0) >= GOES_ON or header.min(initial=GOES_ON) < last + 2:
        raise NotPlain
    return start + 1, start + header


def after_varint(data: Bytes, position: Ints) -> Ints:
    going = data[position] >= GOES_ON
    while going.any():
        position = position + going
        going &= data[position] >= GOES_ON
    following: Ints = position + 1
    return following


def values(numbers: NDArray[np.int64], body: Ints, kind: Bytes, sizes: Ints | np.int64) -> Ints:
    """Whole numbers at the start of `body`, of some serial types and so many bytes."""
    if kind.max(initial=0) >= TEXT_TYPES or (kind == FLOAT_TYPE).any():
        raise NotPlain
    found: Ints = numbers[body].astype(np.int64) >> np.minimum(8 * (8 - sizes), 63)
    for constant, value in ((NULL_TYPE, NULL), (ZERO_TYPE, 0), (ONE_TYPE, 1)):
        found[kind == constant] = value
    return found
