"""Hardware counters are asked for as each nsys spells it, and a refusal costs only them.

The nsys here is a stand-in: it prints what the real one prints of its options and counters.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perfkit.collect.collectors import (
    AUTO,
    AUTO_OF_PROGRAMS,
    probe,
    probe_items,
    read_collector,
    read_collectors,
)
from perfkit.paths import find
from perfkit.schema import RunFolder, read_json

STAND_IN = """#!{python}
import pathlib, subprocess, sys
options = [word for word in sys.argv[2:] if word.startswith("--")]
if sys.argv[1:] == ["--version"]:
    print("NVIDIA Nsight Systems version {version}")
elif "--help" in sys.argv:
    print("--trace= --sample= --cpuctxsw= --kill= --capture-range= --capture-range-end=")
    print("--cuda-graph-trace= --gpu-metrics-{option}= --gpu-metrics-frequency= --include-blobs=")
elif any(word.endswith("=help") for word in options):
    if not options[0].startswith("--gpu-metrics-{option}="):
        sys.exit("unrecognised option '" + options[0] + "'")
    print({answer!r})
    sys.exit({code})
elif sys.argv[1] == "export":
    pathlib.Path(sys.argv[sys.argv.index("-o") + 1]).write_text("x")
else:
    if any("gpu-metrics" in word for word in options) and {code}:
        sys.exit({answer!r} + "\\n\\nusage: nsys profile [<args>]\\nTry 'nsys profile --help'")
    at = sys.argv.index("-o")
    pathlib.Path(sys.argv[at + 1] + ".nsys-rep").write_text("x")
    rest = [word for word in sys.argv[at + 2 :]]
    while rest[0].startswith("--"):
        rest.pop(0)
    sys.exit(subprocess.run(rest).returncode)
"""
GIVEN = "Possible --gpu-metrics-devices values are:\\n\\t0: NVIDIA H100 80GB HBM3\\n\\tall: ..."
REFUSED = (
    "None of the installed GPUs are supported:\\n\\tNVIDIA H100 80GB HBM3 - Insufficient "
    "privilege, see https://developer.nvidia.com/ERR_NVGPUCTRPERM"
)
NEW = "--gpu-metrics-devices=cuda-visible --gpu-metrics-frequency=10000"
OLD = "--gpu-metrics-device=all --gpu-metrics-frequency=10000"


def a_collector(folder: Path, option: str, answer: str, code: int) -> Path:
    """The shipped file, on a machine without a GPU, for a stand-in of nsys."""
    program = folder / "bin" / "nsys"
    program.parent.mkdir()
    text = answer.encode().decode("unicode_escape")
    values = {"option": option, "answer": text, "code": code, "version": "2025.3.1"}
    program.write_text(STAND_IN.format(python=sys.executable, **values))
    program.chmod(0o755)
    shipped = find("collectors", "nsys-metrics.toml")
    assert shipped is not None
    changed = shipped.read_text().replace('names = ["nsys"]', f'names = ["{program}"]')
    path = folder / "collectors" / "nsys-metrics.toml"
    path.parent.mkdir()
    path.write_text(changed.replace('needs = "gpu"\n', ""))
    return path


@pytest.mark.parametrize(("option", "given"), [("devices", NEW), ("device", OLD)])
def test_the_option_is_spelt_as_this_nsys_knows_it(option: str, given: str, tmp_path: Path) -> None:
    collector = read_collector(a_collector(tmp_path, option, GIVEN, 0))
    probed = probe(collector, {})
    assert probed.items[-1] == given
    assert probed.dropped == ()


def test_words_count_whatever_the_exit_code(tmp_path: Path) -> None:
    """Versions differ in how `=help` ends."""
    collector = read_collector(a_collector(tmp_path, "devices", GIVEN, 1))
    items, dropped = probe_items(collector, str(tmp_path / "bin" / "nsys"))
    assert items[-1] == NEW
    assert dropped == ()


def test_auto_does_not_ask_for_it() -> None:
    assert "nsys-metrics" in read_collectors()
    assert "nsys-metrics" not in (*AUTO, *AUTO_OF_PROGRAMS)


def recorded(folder: Path, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(run.json, status.json) of a run under the collector."""
    out = folder / "run"
    done = subprocess.run(
        [sys.executable, "-m", "perfkit", "run", "--out", str(out), "--collect", "nsys-metrics"]
        + ["--collectors-dir", str(path.parent), "--", sys.executable, "-c", "print('ran')"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("ran\n")
    files = RunFolder(out)
    return read_json(files.run_json), read_json(files.rank_file(0, "status.json"))


def test_refused_counters_leave_the_timeline_and_are_told(tmp_path: Path) -> None:
    record, status = recorded(tmp_path, a_collector(tmp_path, "devices", REFUSED, 1))
    state = status["collectors"]["nsys-metrics"]
    assert state["state"] == "ran"
    refusal = (
        f"{NEW} (NVIDIA H100 80GB HBM3 - Insufficient privilege, see "
        "https://developer.nvidia.com/ERR_NVGPUCTRPERM)"
    )
    assert state["not_possible_here"][0] == refusal
    assert not [word for word in status["command"] if "gpu-metrics" in word]
    assert "--trace=cuda,nvtx" in status["command"]
    (warning,) = [text for text in record["warnings"] if "ERR_NVGPUCTRPERM" in text]
    assert warning.startswith(f"nsys-metrics without {refusal}")


def test_a_refusal_that_the_probe_did_not_see_costs_the_trace_and_not_the_run(
    tmp_path: Path,
) -> None:
    """nsys then ends before the program has started, and its reason is not its last line."""
    path = a_collector(tmp_path, "devices", REFUSED, 1)
    path.write_text(path.read_text().replace('["values are"]', '["None of the installed"]'))
    record, status = recorded(tmp_path, path)
    assert record["state"] == "finished"
    assert "nsys exited with 1 before the rank's program started" in status["without_wrappers"]
    assert "ERR_NVGPUCTRPERM" in status["without_wrappers"]
    assert status["collectors"]["nsys-metrics"]["state"] == "failed"
    assert "ERR_NVGPUCTRPERM" in json.dumps(record["warnings"])
