"""NCCL's own log: which version, and over what it really moved data."""

from pathlib import Path

import polars as pl
import pytest

from perfkit.errors import ConfigError
from perfkit.ingest.nccl_log import NCCL, read_nccl_log, socket_findings, transport

DATA = Path(__file__).parents[1] / "data" / "nccl"


def log(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "nccl-log.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("name", "transports"), [("p2p", "P2P/CUMEM"), ("shm", "SHM"), ("socket", "NET/Socket")]
)
def test_recorded_logs(name: str, transports: str) -> None:
    frame, findings = read_nccl_log(DATA / f"{name}.txt", 3)
    assert dict(frame.schema) == dict(NCCL)
    assert frame.row(0) == (3, "2.28.9+cuda13.0", "Socket", 2, transports)
    assert findings == []


@pytest.mark.parametrize(
    ("via", "read"),
    [
        ("P2P/CUMEM/read", "P2P/CUMEM"),
        ("P2P/IPC", "P2P/IPC"),
        ("P2P/direct pointer", "P2P/direct pointer"),
        ("P2P/indirect/2[60]", "P2P/indirect"),
        ("SHM/direct/direct", "SHM"),
        ("NET/IB/3/GDRDMA/Shared", "NET/IB/GDRDMA"),
        ("NET/IB/0(4)/GDRDMA", "NET/IB/GDRDMA"),
        ("NET/AWS Libfabric/0", "NET/AWS Libfabric"),
        ("NET/Socket/0", "NET/Socket"),
    ],
)
def test_transports_without_device_numbers(via: str, read: str) -> None:
    assert transport(via) == read


def test_the_one_with_most_connections_comes_first(tmp_path: Path) -> None:
    path = log(
        tmp_path,
        "NCCL version 2.12.7+cuda11.4",
        "n0:1:2 [0] NCCL INFO Using network AWS Libfabric",
        "n0:1:2 [0] NCCL INFO Channel 00/02 :    0   1   2",
        "n0:1:2 [0] NCCL INFO Channel 00/0 : 1[0] -> 0[0] [receive] via NET/IBext_v8/0/GDRDMA",
        "n0:1:2 [0] NCCL INFO Channel 00/0 : 0[c3000] -> 2[1] via P2P/IPC/read comm 0x5 nRanks 3",
        "n0:1:2 [0] NCCL INFO Channel 01/0 : 0[c3000] -> 2[1] via P2P/IPC/read comm 0x5 nRanks 3",
    )
    frame, _findings = read_nccl_log(path, 0)
    assert frame.row(0) == (
        *(0, "2.12.7+cuda11.4", "AWS Libfabric", 2),
        "P2P/IPC, NET/IBext_v8/GDRDMA",
    )


def test_a_rank_that_only_receives_is_not_told_over_what(tmp_path: Path) -> None:
    line = "n0:1:2 [1] NCCL INFO 24 coll channels, 24 collnet channels, 0 nvls channels"
    frame, findings = read_nccl_log(log(tmp_path, line), 1)
    assert frame.row(0) == (1, None, None, 24, None)
    assert findings == []


def test_warnings_of_nccl_are_counted_and_the_first_is_shown(tmp_path: Path) -> None:
    path = log(
        tmp_path,
        "n0:1:2 [0] misc/socket.cc:537 NCCL WARN socketProgress: Connection closed by remote peer",
        "n0:1:2 [0] NCCL INFO transport/net.cc:860 -> 6",
        "n0:1:2 [0] NCCL WARN another",
    )
    _frame, findings = read_nccl_log(path, 0)
    assert [(row["code"], row["count"], row["text"]) for row in findings] == [
        (
            "nccl-warnings",
            2,
            "ranks/0000/nccl-log.txt: NCCL warned 2 time(s), first: socketProgress: Connection "
            "closed by remote peer",
        )
    ]


def test_an_empty_log_is_a_finding_and_another_file_is_refused(tmp_path: Path) -> None:
    frame, findings = read_nccl_log(log(tmp_path), 0)
    assert frame.row(0) == (0, None, None, None, None)
    assert [row["code"] for row in findings] == ["nccl-log-empty"]
    with pytest.raises(ConfigError, match=r"nccl-log.txt is no log of NCCL"):
        read_nccl_log(log(tmp_path, "Traceback (most recent call last):"), 0)


def test_sockets_are_said_once_for_all_ranks() -> None:
    names = ["NET/Socket", "P2P/CUMEM, NET/Socket", "P2P/CUMEM", None]
    rows = {"rank": [0, 1, 2, 3], "transports": names}
    frame = pl.DataFrame(rows, schema_overrides={"rank": pl.Int32})
    (found,) = socket_findings(frame)
    assert found["text"].startswith("NCCL moved data over TCP sockets on ranks 0, 1: if the nodes")
    assert socket_findings(frame.tail(2)) == []
