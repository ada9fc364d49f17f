"""ranks/NNNN/nccl-log.txt (NCCL_DEBUG=INFO) -> which NCCL ran, and over what it moved data.

NCCL's own log is the proof of the transport: which network a node has says nothing about it.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.errors import ConfigError
from perfkit.ingest.frames import finding
from perfkit.ingest.rank_words import listed

NCCL = pl.Schema(
    {
        "rank": pl.Int32(),
        "nccl_version": pl.String(),  # 2.28.9+cuda13.0
        "network": pl.String(),  # what it would use between nodes: IB, Socket, AWS Libfabric
        "num_channels": pl.Int32(),  # for collectives, of the communicator that has most
        # what it did use, the most connections first: P2P/CUMEM, SHM, NET/IB/GDRDMA; between GPUs
        # of one node only the sending rank says so, and one that only receives has null
        "transports": pl.String(),
    }
)

SOCKETS = "NET/Socket"
WARNING_LENGTH = 160

LINE = re.compile(r"NCCL (?P<level>INFO|WARN) (?P<text>.*)")
# Old versions print it without the prefix of the other lines. RCCL is AMD's, with the same log.
VERSION = re.compile(r"[NR]CCL version :?\s*(\S+)")
NETWORK = re.compile(r"Using network (.+?)\s*$")
# `24 coll channels, ...`; versions that do not count them list each: `Channel 00/24 : 0 1 2 3`.
CHANNELS = re.compile(r"(\d+) coll channels|Channel \d+/(\d+) :(?:\s+\d+)+\s*$")
# `Channel 00/0 : 0[0] -> 8[0] [send] via NET/IB/0/GDRDMA`; old versions say Ring, RCCL adds comm.
VIA = re.compile(r"(?:Channel|Ring) .*-> .*\bvia (.+?)(?: comm 0x.*)?\s*$")


def read_nccl_log(path: Path, rank: int) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """One rank's row (NCCL) and what was wrong; ConfigError if NCCL did not write the file."""
    source = f"ranks/{rank:04d}/{path.name}"
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    said = [match for line in lines if (match := LINE.search(line)) is not None]
    if any(line.strip() for line in lines) and not said:
        raise ConfigError(
            f"{path} is no log of NCCL: its first line is {lines[0][:80]!r}. "
            "Expected lines such as `node0:12:34 [0] NCCL INFO Using network IB`.",
        )
    texts = [match["text"] for match in said]
    row = {
        "rank": rank,
        "nccl_version": _joined(_found(VERSION, lines)),
        "network": _joined(_found(NETWORK, texts)),
        "num_channels": max((int(text) for text in _found(CHANNELS, texts)), default=None),
        "transports": _joined(map(transport, _found(VIA, texts))),
    }
    warned = [match["text"] for match in said if match["level"] == "WARN"]
    return pl.DataFrame([row], schema=NCCL), _findings(len(said), warned, rank, source)


def transport(via: str) -> str:
    """How a connection is made, without device numbers and details of buffers.

    NET/IB/3/GDRDMA/Shared -> NET/IB/GDRDMA; P2P/CUMEM/read -> P2P/CUMEM; SHM/direct/direct -> SHM
    """
    kind, *rest = via.split("/")
    if kind == "SHM":
        return kind
    kept = [part for part in rest if part not in ("read", "Shared") and not part[:1].isdigit()]
    return "/".join([kind, *kept])


def socket_findings(nccl: pl.DataFrame) -> list[dict[str, Any]]:
    """Ranks whose NCCL went over TCP: many times slower than a cluster's own network."""
    slow = nccl.filter(pl.col("transports").str.contains(SOCKETS, literal=True))["rank"].to_list()
    if not slow:
        return []
    text = (
        f"NCCL moved data over TCP sockets on {listed(slow)}: if the nodes have InfiniBand, it was "
        f"not used (see NET/ in ranks/{slow[0]:04d}/nccl-log.txt)"
    )
    return [finding("nccl-sockets", text, count=len(slow))]


def _found(pattern: re.Pattern[str], texts: Iterable[str]) -> list[str]:
    """The first group that matched in each text that has the pattern."""
    matches = (pattern.search(text) for text in texts)
    return [next(filter(None, match.groups())) for match in matches if match is not None]


def _joined(names: Iterable[str]) -> str | None:
    """Each name once, the most frequent first; None of nothing."""
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(sorted(counts, key=lambda name: -counts[name])) or None


def _findings(lines: int, warned: list[str], rank: int, source: str) -> list[dict[str, Any]]:
    first = warned[0][:WARNING_LENGTH] if warned else ""
    said = (
        ("nccl-log-empty", int(not lines), "empty: NCCL was not used, or ended before it wrote"),
        ("nccl-warnings", len(warned), f"NCCL warned {len(warned)} time(s), first: {first}"),
    )
    return [
        finding(code, f"{source}: {text}", rank=rank, source=source, count=count)
        for code, count, text in said
        if count
    ]
