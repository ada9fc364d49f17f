"""A disk that the products fill: what says how the run ended is written all the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import save_tiny

from perfkit.schema import RunFolder, read_json

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")

# The mount is seen by these processes alone and ends with them; what was on it is copied out.
IN_A_SMALL_DISK = """set -e
mount -t tmpfs -o size="$2" tmpfs "$1"
code=0
"${@:3}" || code=$?
cp -r "$1/." "$1.copy"
exit $code
"""


class SmallDisk:
    """A command that runs with a small file system of its own at `folder`."""

    def __init__(self, tmp_path: Path, size: str) -> None:
        self.folder, self.copy = tmp_path / "disk", tmp_path / "disk.copy"
        self.folder.mkdir()
        self.copy.mkdir()
        self.size = size

    def perfkit(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        line = ("unshare", "-m", "bash", "-c", IN_A_SMALL_DISK, "bash", str(self.folder), self.size)
        return subprocess.run(
            [*line, sys.executable, "-m", "perfkit", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def test_a_program_that_fills_the_disk_is_told_apart_from_one_that_fails(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path, "6m")
    product = str(disk.folder / "run" / "product")
    fill = (
        "try:\n"
        f"    with open({product!r}, 'wb') as f:\n"
        "        while True: f.write(bytes(65536)); f.flush()\n"
        "except OSError:\n"
        "    raise SystemExit(5)\n"
    )
    program = (sys.executable, "-c", fill)
    done = disk.perfkit("run", "--out", disk.folder / "run", "--", *program)
    assert done.returncode == 5, done.stderr
    folder = RunFolder(disk.copy / "run")
    record = read_json(folder.run_json)
    assert record["state"] == "failed"
    assert "is on a full file system" in record["failure"]["reason"]
    assert read_json(folder.rank_file(0, "status.json"))["exit_code"] == 5
    assert read_json(folder.rank_file(0, "exit.json"))["exit_code"] == 5


@pytest.mark.slow
def test_a_trace_that_does_not_fit_costs_the_trace_alone(tmp_path: Path) -> None:
    """The timed passes and the tokens are there; run.json says why there is no split."""
    disk = SmallDisk(tmp_path, "640k")
    model = save_tiny("llama-untied", tmp_path)
    work = ("--batch", "2", "--prompt-tokens", "8", "--new-tokens", "64", "--repeats", "1")
    done = disk.perfkit("run", model, *work, "--collect", "kineto", "--out", disk.folder / "run")
    assert done.returncode == 0, done.stderr
    folder = RunFolder(disk.copy / "run")
    record = read_json(folder.run_json)
    assert record["state"] == "finished"
    assert record["collectors"]["kineto"]["missing_ranks"] == [0]
    assert record["warnings"] == [
        "kineto failed on ranks [0]: could not be written: No space left on device "
        "(no time split of the ranks)"
    ]
    assert len(folder.outputs.read_text().splitlines()) == 2
    assert not folder.rank_file(0, "kineto.json.gz").exists()
    analyzed = subprocess.run(
        [sys.executable, "-m", "perfkit", "analyze", folder.root, "--format", "json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    report = json.loads(analyzed.stdout)
    assert report["measures"]["ttft_s"]["count"] == 1
    assert record["warnings"][0] in report["warnings"]
