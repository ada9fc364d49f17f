"""Reading the file itself: exact times, and files that are not whole."""

import gzip
from pathlib import Path

import msgspec
import pytest
from trace_builder import BASE_NS, a_trace, operation

from perfkit.errors import ConfigError
from perfkit.ingest.kineto import read_kineto
from perfkit.ingest.kineto_file import read_kineto_file
from perfkit.ingest.kineto_rows import lines, whole_ns

RECORDED = Path(__file__).parent.parent / "data" / "kineto" / "gloo-tp2" / "ranks" / "0000"
RECORDED_FILE = RECORDED / "kineto.json.gz"


def test_times_become_ns_without_passing_through_a_float() -> None:
    texts = [b"4525994086981.967", b"9007199254740.993", b"12", b"0.5", b"1e3"]
    found = whole_ns([lines([msgspec.Raw(text) for text in texts])])
    assert found.to_list() == [4525994086981967, 9007199254740993, 12000, 500, 1000000]


def test_start_is_unix_time(tmp_path: Path) -> None:
    trace = read_kineto(a_trace(tmp_path / "t.json", operation("aten::mm", 1.5, 2.5)))
    assert trace.activities.select("start_ns", "end_ns").row(0) == (BASE_NS + 1500, BASE_NS + 2500)


def test_a_truncated_gzip_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "kineto.json.gz"
    path.write_bytes(RECORDED_FILE.read_bytes()[:2000])
    with pytest.raises(ConfigError, match=r"kineto\.json\.gz its gzip data is cut off"):
        read_kineto_file(path)


def test_half_written_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "kineto.json"
    path.write_bytes(gzip.decompress(RECORDED_FILE.read_bytes())[:5000])
    with pytest.raises(ConfigError, match=r"kineto\.json is not whole JSON"):
        read_kineto_file(path)


@pytest.mark.parametrize("content", [b"", b"  \n", gzip.compress(b"")])
def test_an_empty_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kineto.json.gz"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is empty"):
        read_kineto_file(path)


@pytest.mark.parametrize("content", [b"{}", b'{"traceEvents": 3}', b"[1, 2]", b'"text"'])
def test_other_json_is_no_trace(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is JSON but no Kineto trace"):
        read_kineto_file(path)


def test_a_damaged_gzip_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "kineto.json.gz"
    content = bytearray(RECORDED_FILE.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(bytes(content))
    with pytest.raises(ConfigError, match=r"kineto\.json\.gz"):
        read_kineto_file(path)


def test_bytes_that_are_not_utf8_are_replaced_and_told(tmp_path: Path) -> None:
    path = a_trace(tmp_path / "t.json", operation("aten::NAME", 0, 1))
    path.write_bytes(path.read_bytes().replace(b"NAME", b"a\xff\x01b"))
    trace = read_kineto(path)
    assert trace.activities["name"].to_list() == ["aten::a\ufffd b"]
    assert [row["code"] for row in trace.findings] == ["repaired"]


def test_an_event_without_a_usable_time_is_left_out(tmp_path: Path) -> None:
    broken = {**operation("aten::mm", 0, 1), "ts": "soon"}
    path = a_trace(tmp_path / "t.json", broken, operation("aten::add", 0, 1))
    trace = read_kineto(path)
    assert trace.activities["name"].to_list() == ["aten::add"]
    assert [(row["code"], row["count"]) for row in trace.findings] == [("no-time", 1)]


def test_reading_leaves_the_file_as_it_was() -> None:
    before = RECORDED_FILE.read_bytes()
    read_kineto(RECORDED_FILE)
    assert RECORDED_FILE.read_bytes() == before


def test_the_old_list_form_without_a_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rank3.json"
    path.write_bytes(msgspec.json.encode([operation("aten::mm", 0, 1)]))
    trace = read_kineto(path)
    assert (trace.rank, trace.activities.height) == (3, 1)


def test_a_trace_in_which_nothing_ran_is_told(tmp_path: Path) -> None:
    trace = read_kineto(a_trace(tmp_path / "t.json"))
    assert trace.activities.is_empty()
    assert [row["code"] for row in trace.findings] == ["empty-trace"]
