"""`perfkit run -- CMD`: any program inside the collectors, its exit code and signals its own."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from perfkit.collect.launch import local_place, program_environment
from perfkit.collect.tasks import ProgramTask
from perfkit.schema import RunFolder, read_json

PERFKIT = (sys.executable, "-m", "perfkit")


def run_program(
    out: Path, code: str, *options: str, arguments: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """`perfkit run OPTIONS -- python -c CODE`, to its end."""
    program = (sys.executable, "-c", code, *arguments)
    return subprocess.run(
        [*PERFKIT, "run", "--out", str(out), *options, "--", *program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_its_output_and_exit_code_are_the_programs(tmp_path: Path) -> None:
    done = run_program(tmp_path / "run", "print('hello'); raise SystemExit(7)")
    assert done.returncode == 7
    assert done.stdout == "hello\n"
    assert "rank 0 on" in done.stderr
    assert "exited with code 7" in done.stderr
    record = read_json(tmp_path / "run" / "run.json")
    assert (record["task"], record["state"]) == ("program", "failed")
    assert record["failure"]["rank"] == 0


def test_a_good_program_leaves_a_finished_run(tmp_path: Path) -> None:
    done = run_program(tmp_path / "run", "print('fine')", "--collect", "none")
    assert (done.returncode, done.stdout) == (0, "fine\n")
    folder = RunFolder(tmp_path / "run")
    assert read_json(folder.run_json)["state"] == "finished"
    assert read_json(folder.rank_file(0, "exit.json"))["exit_code"] == 0
    assert not list(folder.root.rglob(".reserve"))


def test_options_of_the_program_are_not_perfkits(tmp_path: Path) -> None:
    code = "import sys; print(sys.argv[1:])"
    done = run_program(tmp_path / "run", code, arguments=("--force", "--", "--tp", "2"))
    assert done.stdout == "['--force', '--', '--tp', '2']\n"


def test_several_ranks_find_each_other_and_the_failing_one_is_named(tmp_path: Path) -> None:
    code = (
        "import os, time\n"
        "rank = int(os.environ['RANK'])\n"
        "assert os.environ['WORLD_SIZE'] == '3' and os.environ['MASTER_PORT'].isdigit()\n"
        "if rank == 1: raise SystemExit(9)\n"
        "time.sleep(60)\n"
    )
    done = run_program(tmp_path / "run", code, "--ranks", "3", "--collect", "none")
    assert done.returncode == 9, done.stderr
    record = read_json(tmp_path / "run" / "run.json")
    assert record["failure"]["rank"] == 1
    folder = RunFolder(tmp_path / "run")
    states = [read_json(folder.rank_file(rank, "status.json"))["state"] for rank in range(3)]
    assert states == ["stopped", "failed", "stopped"]


def test_one_rank_gets_no_rendezvous() -> None:
    """torchrun and servers take RANK for a promise that others come."""
    environment = program_environment(local_place(1), 0, ("h", 1), {"PATH": "/bin"})
    assert environment == {"PATH": "/bin"}
    two = program_environment(local_place(2), 1, ("h", 1), {"RANK": "5"})
    assert two["RANK"] == "1"


WAITING = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGUSR1, lambda *_: print('checkpoint', flush=True))\n"
    "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(3)))\n"
    "print('ready', flush=True)\n"
    "while True: time.sleep(0.05)\n"
)


def test_signals_reach_the_program_itself(tmp_path: Path) -> None:
    """SIGUSR1 would end perf around it; at SIGTERM the program may save something first."""
    out = tmp_path / "run"
    command = [*PERFKIT, "run", "--out", str(out), "--", sys.executable, "-c", WAITING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == b"checkpoint\n"
        process.send_signal(signal.SIGTERM)
        rest, _stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert rest == b"saved\n"
    folder = RunFolder(out)
    record = read_json(folder.run_json)
    assert record["state"] == "stopped"
    assert record["failure"]["reason"] == "stopped by SIGTERM (scancel, a time limit or kill)"
    assert read_json(folder.rank_file(0, "exit.json"))["exit_code"] == 3


def test_secrets_of_the_command_line_are_not_written_down(tmp_path: Path) -> None:
    planted = ("--api-key", "planted-1", "--token=planted-2", "hf_plantedplanted3")
    done = run_program(tmp_path / "run", "pass", arguments=planted)
    assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) >= 4
    for path in files:
        assert b"planted" not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give a model"),
        (("--",), "no program after --"),
        (("model", "--", "true"), "both a model (model) and a program"),
        (("--tp", "2", "--", "true"), "--tp is an option of perfkit's own engine"),
        (("--ranks", "2", "model"), "--ranks belongs to"),
        (("--", "no-such-program"), "cannot run no-such-program"),
        (("--collect", "kineto", "--", "true"), "only perfkit's own engine records it"),
        (("--profile-ranks", "1", "--", "true"), "there is no rank 1 of 1"),
    ],
)
def test_bad_input_is_one_error(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*PERFKIT, "run", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "title"),
    [
        (("vllm", "serve", "m"), "vllm"),
        (("/opt/bin/python3.12", "train.py"), "train"),
        (("python3", "-m", "pkg"), "python3"),
    ],
)
def test_the_run_folder_is_called_after_the_program(argv: tuple[str, ...], title: str) -> None:
    assert ProgramTask(argv, 1).title == title


FAILS_ON_RANK = """#!{python}
# As nsys 2022.4 once did on one of 16 ranks: an error, exit code 1, the program never started.
import os, sys
separator = sys.argv.index("--")
if os.environ["RANK"] == "{rank}":
    sys.exit("RuntimeException: ClientProxy::GetLocalEndpoint")
open(sys.argv[1], "w").write("recorded")
os.execvp(sys.argv[separator + 1], sys.argv[separator + 1:])
"""
TOOL = """summary = "s"
scope = "rank"
absence = "no recording"
[program]
names = ["{program}"]
[wrap]
command = ["{{program}}", "{{folder}}/tool.txt", "--"]
[products]
files = ["tool.txt"]
"""


def test_a_profiler_that_dies_first_costs_one_of_16_ranks_its_trace(tmp_path: Path) -> None:
    """Not the run: the rank starts again without it, and everything says so."""
    program = tmp_path / "tool"
    program.write_text(FAILS_ON_RANK.format(python=sys.executable, rank=11))
    program.chmod(0o755)
    (tmp_path / "collectors").mkdir()
    (tmp_path / "collectors" / "tool.toml").write_text(TOOL.format(program=program))
    out = tmp_path / "run"
    collect = ("--collect", "tool", "--collectors-dir", str(tmp_path / "collectors"))
    done = run_program(out, "pass", "--ranks", "16", *collect)
    assert done.returncode == 0, done.stderr
    record = read_json(out / "run.json")
    assert record["state"] == "finished"
    state = record["collectors"]["tool"]
    assert state["state"] == "failed"
    assert state["missing_ranks"] == [11]
    assert state["ranks"] == [rank for rank in range(16) if rank != 11]
    assert "exited with 1 before the rank's program started" in state["reason"]
    assert "RuntimeException: ClientProxy::GetLocalEndpoint" in state["reason"]
    assert any("tool failed on ranks [11]" in text for text in record["warnings"])
    analyzed = subprocess.run(
        [*PERFKIT, "analyze", str(out), "--format", "json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    report = json.loads(analyzed.stdout)
    assert len(report["processes"]) == 16
    assert any("tool failed on ranks [11]" in text for text in report["warnings"])
