"""Two traces side by side: what grew, what is new, what is gone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from perfkit.compare.diff import Difference, diff
from perfkit.timeline.analysis import analyze_paths

HANDMADE = Path(__file__).parents[1] / "data" / "kineto" / "handmade-gpu.json"


def compared(a: Path, b: Path) -> Difference:
    return diff(analyze_paths([a])[0], analyze_paths([b])[0])


def test_a_trace_does_not_differ_from_itself() -> None:
    found = compared(HANDMADE, HANDMADE)
    for frame in (found.split, found.families, found.operations):
        assert frame["difference_ns"].drop_nulls().abs().sum() == 0
        assert frame.height > 0


def test_an_operation_of_one_side_only_has_no_ratio(tmp_path: Path) -> None:
    events = json.loads(HANDMADE.read_text())["traceEvents"]
    kernels = [event["name"] for event in events if event.get("cat") == "kernel"]
    old = next(name for name in kernels if "nccl" not in name.lower())
    b = tmp_path / "b.json"
    b.write_text(HANDMADE.read_text().replace(json.dumps(old)[1:-1], "renamed_kernel"))
    rows = {row["name"]: row for row in compared(HANDMADE, b).operations.to_dicts()}
    gone, new = rows[old], rows["renamed_kernel"]
    assert gone["b_ns"] is None
    assert gone["ratio"] is None
    assert gone["difference_ns"] == -gone["a_ns"]
    assert new["a_ns"] is None
    assert new["difference_ns"] == new["b_ns"] == gone["a_ns"]


@pytest.mark.parametrize("format", ["table", "json", "csv", "md"])
def test_every_format_names_both_sides_or_their_rows(format: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "perfkit", "diff", HANDMADE, HANDMADE, "--format", format],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    if format == "json":
        report = json.loads(done.stdout)
        assert report["a"]["ranks"] == report["b"]["ranks"] == 1
        assert [row["name"] for row in report["split"]][:2] == ["window", "compute"]
    else:
        assert "window" in done.stdout


def test_a_side_without_a_trace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema_version": 1, "state": "finished"}')
    done = subprocess.run(
        [sys.executable, "-m", "perfkit", "diff", HANDMADE, tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "has no trace to compare" in done.stderr
