"""Collectors are data: files are checked, programs probed for real, commands nested in order."""

import shutil
import sys
from pathlib import Path

import pytest

from perfkit.collect.collectors import (
    Collector,
    Probed,
    choose,
    fill,
    probe,
    read_collector,
    read_collectors,
)
from perfkit.collect.wrapping import after, on_rank, parse_ranks, settle, wrap
from perfkit.errors import ConfigError

SHIPPED = (
    "kineto",
    "nccl-log",
    "nsys",
    "nsys-metrics",
    "nsys-nvtx",
    "nvml",
    "perf-record",
    "perf-stat",
    "rocprof",
    "sacct",
)


def a_collector(name: str = "tool", **settings: object) -> Collector:
    return Collector(**{"name": name, "summary": "s", "scope": "rank", "absence": "a", **settings})  # type: ignore[arg-type]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.toml"
    path.write_text('summary = "s"\nscope = "rank"\nabsence = "a"\n' + text)
    return path


def test_the_shipped_files_are_all_read() -> None:
    known = read_collectors()
    assert tuple(known) == SHIPPED
    assert known["rocprof"].untested
    assert known["kineto"].builtin


def test_a_users_file_adds_a_collector_without_python(tmp_path: Path) -> None:
    """What CONTRIBUTING shows for likwid, with a program that is here."""
    write(
        tmp_path,
        "mine",
        '[program]\nnames = ["true"]\n[wrap]\ncommand = ["{program}", "-g", "X"]\n',
    )
    known = read_collectors(tmp_path)
    probed = probe(known["mine"], {})
    assert probed.program == shutil.which("true")
    assert wrap(["cmd"], [probed], tmp_path, tmp_path).command == (probed.program, "-g", "X", "cmd")


def test_a_wrong_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key comand"):
        read_collector(write(tmp_path, "bad", 'comand = "x"\n'))
    with pytest.raises(ConfigError, match="ranks = 'some'"):
        read_collector(write(tmp_path, "bad", 'ranks = "some"\n'))


def test_an_unknown_collector_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no collector 'nsight'.*nsys"):
        choose("nsys,nsight", read_collectors())


def test_a_missing_program_is_a_reason_and_no_error() -> None:
    probed = probe(a_collector(program={"names": ["no-such-program"]}), {})
    assert probed.missing == "no-such-program was not found on this node"


def test_a_program_is_found_in_its_usual_folders(tmp_path: Path) -> None:
    for version in ("2024.1", "2025.3"):
        folder = tmp_path / version / "bin"
        folder.mkdir(parents=True)
        (folder / "hidden-tool").write_text("#!/bin/sh\necho version $0\n")
        (folder / "hidden-tool").chmod(0o755)
    program = {
        "names": ["hidden-tool"],
        "look_in": [f"{tmp_path}/*/bin"],
        "version": ["{program}", "--version"],
    }
    probed = probe(a_collector(program=program), {})
    assert probed.program == f"{tmp_path}/2025.3/bin/hidden-tool"
    assert probed.version is not None
    assert probed.version.startswith("version")


def test_only_what_works_here_goes_on_the_command_line() -> None:
    """perf would refuse to start the program for one unknown event."""
    rules = {
        "items": ["good", "bad"],
        "command": [sys.executable, "-c", "import sys; sys.exit('{item}' == 'bad')"],
        "refused_when": ["not supported"],
    }
    probed = probe(a_collector(program={"names": ["true"]}, probe=(rules,)), {})
    assert (probed.items, probed.dropped) == (("good",), ("bad",))


def test_items_are_one_list_or_many_options() -> None:
    assert fill(["-e", "{items}"], {"items": ("a", "b")}) == ["-e", "a,b"]
    assert fill(["p", "{items}"], {"items": ("--x=1", "--y")}) == ["p", "--x=1", "--y"]


def test_the_lowest_order_stands_outermost(tmp_path: Path) -> None:
    inner = Probed(collector=a_collector("inner", order=50, wrap=("perf", "--")))
    outer = Probed(collector=a_collector("outer", order=10, wrap=("nsys", "-o", "{folder}/x")))
    wrapped = wrap(["python", "x.py"], [inner, outer], tmp_path, tmp_path)
    assert wrapped.command == ("nsys", "-o", f"{tmp_path}/x", "perf", "--", "python", "x.py")


def test_heavy_collectors_record_the_first_and_the_last_rank() -> None:
    heavy = Probed(collector=a_collector("nsys", ranks="ends", excludes=("kineto",)))
    light = Probed(collector=a_collector("kineto", builtin=True))
    names = [
        [p.collector.name for p in on_rank([heavy, light], rank, 4, None)] for rank in range(4)
    ]
    assert names == [["nsys"], ["kineto"], ["kineto"], ["nsys"]]
    assert [p.collector.name for p in on_rank([heavy, light], 2, 4, "1,2")] == ["nsys"]


@pytest.mark.parametrize(
    ("text", "ranks"), [("all", {0, 1, 2, 3}), ("ends", {0, 3}), ("1,2", {1, 2})]
)
def test_profile_ranks(text: str, ranks: set[int]) -> None:
    assert parse_ranks(text, 4) == ranks


def test_a_rank_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="no rank 4 of 4"):
        parse_ranks("0,4", 4)


def test_a_missing_product_says_what_was_kept(tmp_path: Path) -> None:
    probed = Probed(collector=a_collector("nsys", products=("a.rep",), kept=("a.qdstrm",)))
    assert after([probed], tmp_path, tmp_path) == {"nsys": "left no a.rep"}
    (tmp_path / "a.qdstrm").write_text("")
    assert "a.qdstrm was kept" in after([probed], tmp_path, tmp_path)["nsys"]


def test_a_failing_step_afterwards_is_told_with_its_command(tmp_path: Path) -> None:
    step = {"command": ["sh", "-c", "echo no disk >&2; exit 3"]}
    problems = after([Probed(collector=a_collector(after=(step,)))], tmp_path, tmp_path)
    assert "exited with 3: no disk" in problems["tool"]


@pytest.mark.parametrize(
    ("listed", "given"), [("  --blobs=<yes|no>", "--blobs=yes FILE"), ("  --other", "FILE")]
)
def test_options_that_a_version_does_not_know_are_left_out_of_a_step(
    listed: str, given: str, tmp_path: Path
) -> None:
    step = {
        "command": ["echo", "{optional}", "FILE"],
        "stdout": "{folder}/command",
        "optional": ["--blobs=yes"],
        "listed_by": ["echo", listed],
    }
    assert after([Probed(collector=a_collector(after=(step,)))], tmp_path, tmp_path) == {}
    assert (tmp_path / "command").read_text() == f"{given}\n"


def settling(script: str) -> Probed:
    rules = {
        "command": ["sh", "-c", script],
        "stdout": "{folder}/out.psv",
        "until_without": ["RUNNING"],
    }
    return Probed(collector=a_collector("sacct", scope="job", settle=rules))


def test_a_late_source_is_read_until_two_answers_agree(tmp_path: Path) -> None:
    assert settle(settling("echo head; echo COMPLETED"), tmp_path, "7", 20) == (True, None)
    assert (tmp_path / "out.psv").read_text() == "head\nCOMPLETED\n"


def test_what_has_not_settled_is_kept_as_partial(tmp_path: Path) -> None:
    complete, problem = settle(settling("echo head; echo RUNNING"), tmp_path, "7", 0.1)
    assert not complete
    assert problem == "sacct had not settled: `perfkit collect` later"
    assert "RUNNING" in (tmp_path / "out.psv").read_text()
