"""What other tools are given: the same times, on one clock."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import polars as pl

TRACES = Path(__file__).parents[2] / "traces"
PP2 = TRACES / "h200-smollm2-pp2"


def export(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "perfkit", "export", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_trace_for_perfetto_has_every_rank_and_where_it_waited(tmp_path: Path) -> None:
    done = export("perfetto", PP2, "-o", tmp_path / "both.json.gz")
    assert done.returncode == 0, done.stderr
    events = json.loads(gzip.decompress((tmp_path / "both.json.gz").read_bytes()))["traceEvents"]
    assert [e["args"]["name"] for e in events if e["ph"] == "M"] == ["rank 0", "rank 1"]
    received = [e for e in events if e["pid"] == 1 and e.get("args", {}).get("wait_ns")]
    assert len(received) == 4
    assert max(e["args"]["wait_ns"] for e in received) > 20_000_000
    assert {e["name"] for e in events if e.get("tid") == "phases"} >= {
        "prefill",
        "decode",
        "pp_recv",
    }
    assert min(e["ts"] for e in events if e["ph"] == "X") == 0


def test_tables_as_csv_hold_exact_values(tmp_path: Path) -> None:
    done = export("csv", PP2, "-o", tmp_path / "tables")
    assert done.returncode == 0, done.stderr
    split = pl.read_csv(tmp_path / "tables" / "split.csv").filter(phase="whole", rank=1)
    row = split.row(0, named=True)
    parts = row["compute_ns"] + row["exposed_comm_ns"] + row["copy_ns"] + row["idle_ns"]
    assert parts == row["window_ns"]


def test_timed_passes_of_several_runs_go_to_extrap(tmp_path: Path) -> None:
    done = export("extrap", PP2, TRACES / "h200-8b-tp2", "-o", tmp_path / "runs.jsonl")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    params = {json.dumps(line["params"], sort_keys=True) for line in lines}
    assert params == {
        '{"batch": 1, "pp": 2, "ranks": 2, "tp": 1}',
        '{"batch": 4, "pp": 1, "ranks": 2, "tp": 2}',
    }
    assert len(lines) == 4 * 2 + 4 * 3


def test_bad_input_is_one_error(tmp_path: Path) -> None:
    both = export("perfetto", PP2, TRACES / "h200-8b-tp2", "-o", tmp_path / "x.json")
    assert both.returncode == 2
    assert "takes one run" in both.stderr
    (tmp_path / "there").write_text("")
    kept = export("perfetto", PP2, "-o", tmp_path / "there")
    assert kept.returncode == 2
    assert "--force" in kept.stderr
