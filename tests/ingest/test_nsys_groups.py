"""Communicators that an export does not name, seen from when their kernels ran."""

from pathlib import Path

from nsys_builder import Row, an_export, kernel

from perfkit.ingest.nsys import read_nsys

ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096>)"
BROADCAST = "ncclDevKernel_Broadcast_RING_LL(ncclDevKernelArgsStorage<4096>)"


def some(
    pid: int, starts: tuple[int, ...], *, stream: int = 9, name: str = ALL_REDUCE
) -> list[Row]:
    """Kernels of 10 ns each."""
    return [kernel(name, start, start + 10, pid=pid, streamId=stream) for start in starts]


def groups(path: Path, *rows: list[Row]) -> list[set[tuple[str | None, int | None]]]:
    """(group, ranks) of the collectives of each rank."""
    traces = read_nsys(an_export(path, *rows))
    return [set(trace.activities.select("group", "num_ranks").rows()) for trace in traces]


def test_kernels_that_overlap_each_time_are_of_one_communicator(tmp_path: Path) -> None:
    found = groups(tmp_path / "a.sqlite", some(1, (10, 30, 50, 70)), some(2, (15, 25, 59, 70)))
    assert found == [{("seen 0", 2)}, {("seen 0", 2)}]


def test_one_kernel_that_ran_alone_says_that_they_are_not(tmp_path: Path) -> None:
    found = groups(tmp_path / "a.sqlite", some(1, (10, 30, 50, 70)), some(2, (15, 40, 59, 70)))
    assert found == [{(None, None)}, {(None, None)}]


def test_pairs_of_ranks_have_communicators_of_their_own(tmp_path: Path) -> None:
    early, late = (10, 30, 50, 70), (20, 40, 60, 80)
    found = groups(
        tmp_path / "a.sqlite", some(1, early), some(2, late), some(3, early), some(4, late)
    )
    assert found == [{("seen 0", 2)}, {("seen 1", 2)}, {("seen 0", 2)}, {("seen 1", 2)}]


def test_streams_of_one_rank_are_different_communicators(tmp_path: Path) -> None:
    early, late = (10, 30, 50, 70), (20, 40, 60, 80)
    rows = [some(pid, times, stream=n) for pid in (1, 2) for n, times in ((5, early), (6, late))]
    found = groups(tmp_path / "a.sqlite", *rows)
    assert found == [{("seen 0", 2), ("seen 1", 2)}] * 2


def test_other_counts_other_operations_and_too_few_are_not_matched(tmp_path: Path) -> None:
    four, three = (10, 30, 50, 70), (10, 30, 50)
    nothing = [{(None, None)}, {(None, None)}]
    assert groups(tmp_path / "count.sqlite", some(1, four), some(2, (*four, 90))) == nothing
    assert groups(tmp_path / "few.sqlite", some(1, three), some(2, three)) == nothing
    rooted = [some(pid, four, name=BROADCAST) for pid in (1, 2)]
    assert groups(tmp_path / "rooted.sqlite", *rooted) == nothing
    mixed = (some(1, four), some(2, four[:2]) + some(2, four[2:], name=BROADCAST))
    assert groups(tmp_path / "mixed.sqlite", *mixed) == nothing
