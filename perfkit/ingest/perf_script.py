"""perf-script.txt of a rank (`perf script`) -> folded stacks: where its CPU time goes.

A sample is a head line and one line for each frame, leaf first, up to an empty line. Python's own
frames are those that its perf trampolines name: `py::function:/path/to/file.py`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.errors import ConfigError
from perfkit.ingest.frames import finding

STACKS = pl.Schema(
    {
        "rank": pl.Int32(),
        "comm": pl.String(),  # the thread's name
        "event": pl.String(),  # what was sampled: cycles, cpu-clock
        "stack": pl.String(),  # frames from the root to the leaf, with ; between
        "samples": pl.Int64(),
    }
)

HOTTEST = pl.Schema(
    {
        "rank": pl.Int32(),
        "function": pl.String(),  # or [library] where it has no name
        "samples": pl.Int64(),  # taken in the function itself
        "share": pl.Float64(),  # of the rank's samples, 0..1
    }
)

UNKNOWN = "[unknown]"
NO_STACK = "[no stack]"
UNNAMED_SHARE = 0.5  # more samples than this without a (named) caller make a finding

HEAD = re.compile(
    r"(?P<comm>\S.*?)\s+(?P<pid>-?\d+)(?:/-?\d+)?\s+(?:\[\d+\]\s+)?\d+\.\d+:"
    r"\s+(?:\d+\s+)?(?P<event>\S+?):(?:[ukpPHG]+:)?\s*(?P<only_frame>\S.*)?"
)
FRAME = re.compile(r"\s*[0-9a-f]+ (?P<symbol>.+) \((?P<dso>[^()]*(?:\(deleted\))?)\)")
OFFSET = re.compile(r"\+0x[0-9a-f]+$")
PYTHON = re.compile(r"py::(?P<function>[^/]*?):(?P<file>.+)")

Sample = tuple[str, str, str]
"""comm, event, stack"""


def read_perf_script(path: Path, rank: int) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """One rank's stacks (STACKS) and what was wrong; ConfigError if it is no perf script output."""
    source = f"ranks/{rank:04d}/{path.name}"
    counts: Counter[Sample] = Counter()
    broken, first = 0, ""
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for block, whole in _blocks(lines):
                first = first or block[0]
                sample = _sample(block) if whole else None
                broken += sample is None
                if sample is not None:
                    counts[sample] += 1
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if first and not counts and HEAD.fullmatch(first) is None:
        raise ConfigError(
            f"{path} is no output of perf script: its first line is {first[:80]!r}. "
            "Expected samples such as `python3 123 4.56:  10101010 cpu-clock:` and their frames.",
        )
    return _frame(counts, rank), _findings(counts, broken, rank, source)


def _blocks(lines: Iterable[str]) -> Iterator[tuple[list[str], bool]]:
    """The lines of each sample, and whether its empty line came: without it the file was cut."""
    block: list[str] = []
    for line in lines:
        if line.startswith("#"):
            continue
        if line.strip():
            block.append(line.rstrip("\n"))
        elif block:
            yield block, True
            block = []
    if block:
        yield block, False


def _sample(block: list[str]) -> Sample | None:
    """One folded sample; None when any of its lines cannot be read."""
    head = HEAD.fullmatch(block[0])
    if head is None:
        return None
    texts = [*filter(None, [head["only_frame"]]), *block[1:]]
    names = [frame_name(text) for text in texts]
    if not all(names):
        return None
    # Frames without a name say nothing by their number: interpreters without frame pointers
    # leave what happened to lie on the stack.
    folded = [
        name for at, name in enumerate(names) if name != UNKNOWN or names[at - 1 : at] != [UNKNOWN]
    ]
    return head["comm"], head["event"], ";".join(reversed([n for n in folded if n])) or NO_STACK


@lru_cache(maxsize=100_000)
def frame_name(line: str) -> str | None:
    """One frame's name for people; None when the line is no frame.

    `7f80 py::inner:/home/me/spin.py+0x5 (/tmp/perf-1.map)` -> `inner (spin.py)`;
    without a symbol, the library stands for it: `[libcuda.so.1]`.
    """
    match = FRAME.fullmatch(line)
    if match is None:
        return None
    symbol, library = OFFSET.sub("", match["symbol"]), Path(match["dso"]).name
    if symbol == UNKNOWN:
        return f"[{library.strip('[]')}]"
    if python := PYTHON.fullmatch(symbol):
        symbol = f"{python['function']} ({Path(python['file']).name})"
    return symbol.replace(";", ":")


def hottest(stacks: pl.DataFrame, top: int) -> pl.DataFrame:
    """The `top` functions of each rank in which most samples were taken (HOTTEST).

    Samples in the function itself, not in what it called: that is right also where the stacks
    could not be followed to their roots.
    """
    function = pl.col("stack").str.split(";").list.last().alias("function")
    taken = stacks.group_by("rank", function).agg(pl.col("samples").sum())
    share = pl.col("samples") / pl.col("samples").sum().over("rank")
    order = taken.with_columns(share=share).sort(
        "rank", "samples", "function", descending=[False, True, False]
    )
    longest = order.group_by("rank", maintain_order=True).head(top)
    return longest.select(pl.col(name).cast(dtype) for name, dtype in HOTTEST.items())


def _frame(counts: Counter[Sample], rank: int) -> pl.DataFrame:
    rows = [
        {"rank": rank, "comm": comm, "event": event, "stack": stack, "samples": samples}
        for (comm, event, stack), samples in counts.items()
    ]
    return pl.DataFrame(rows, schema=STACKS).sort("samples", "stack", descending=[True, False])


def _findings(counts: Counter[Sample], broken: int, rank: int, source: str) -> list[dict[str, Any]]:
    total = counts.total()
    unnamed = sum(n for (_, _, stack), n in counts.items() if UNKNOWN in stack.split(";")[:-1])
    alone = sum(n for (_, _, stack), n in counts.items() if ";" not in stack)
    said = (
        ("perf-script-empty", int(not total), "no whole sample"),
        ("perf-script-broken", broken, f"{broken} sample(s) cut off or unreadable were left out"),
        (
            "perf-stacks-short",
            alone if total and alone / total > UNNAMED_SHARE else 0,
            f"{alone} of {total} samples have no caller: their stacks could not be unwound",
        ),
        (
            "perf-stacks-unnamed",
            unnamed if total and unnamed / total > UNNAMED_SHARE else 0,
            f"{unnamed} of {total} samples have callers without names: the program has no frame "
            "pointers; `perf record --call-graph dwarf` names them",
        ),
    )
    return [
        finding(
            code,
            f"{source}: {text}",
            rank=rank,
            source=source,
            count=count,
            severity="info" if code == "perf-stacks-short" else "warning",
        )
        for code, count, text in said
        if count
    ]
