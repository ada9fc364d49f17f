"""What every command promises: stdout and stderr, formats, exit codes, a light --help."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.main import get_command

from perfkit import __version__
from perfkit.cli.main import app

HEAVY = ("torch", "polars", "scipy", "altair", "transformers", "deepspeed", "pyarrow")
READERS = (
    "analyze",
    "compare",
    "memory",
    "predict",
    "calibrate",
    "doctor",
    "submit",
    "status",
    "whatif",
    "accuracy",
    "scaling",
    "validate",
    "verify",
    "prompts",
)
HELP_MAY_TAKE_S = 0.5

LIST_HEAVY = f"""
import sys
sys.argv = ["perfkit", *{{arguments!r}}]
from perfkit.cli.main import main
try:
    main()
except SystemExit:
    pass
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""


def perfkit(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "perfkit", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def best_of_s(*command: str) -> float:
    """The shortest of several wall times: what the command needs, not what else ran."""

    def once() -> float:
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        return time.perf_counter() - start

    return min(once() for _ in range(7))


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["analyze", "--help"], ["predict", "--help"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = LIST_HEAVY.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "Usage" in done.stdout


def test_help_takes_under_half_a_second_more_than_python() -> None:
    helped = best_of_s(sys.executable, "-m", "perfkit", "--help")
    bare = best_of_s(sys.executable, "-c", "")
    assert helped - bare < HELP_MAY_TAKE_S


def test_version() -> None:
    assert perfkit("--version").stdout == f"perfkit {__version__}\n"


def test_every_command_and_option_has_a_help_text() -> None:
    group = get_command(app)
    commands = getattr(group, "commands", {})
    assert set(READERS) <= set(commands)
    for name, command in commands.items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"


@pytest.mark.parametrize("reader", READERS)
def test_every_reading_command_has_the_same_formats(reader: str) -> None:
    text = perfkit(reader, "--help", COLUMNS="200").stdout
    assert "<table|json|csv|md>" in text


def test_the_answer_is_on_stdout_and_the_story_on_stderr() -> None:
    done = perfkit("memory", "llama-3.1-8b", "--format", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["schema_version"] == 1
    assert "Next: perfkit" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_environment_variables_mirror_options() -> None:
    done = perfkit("memory", "llama-3.1-8b", PERFKIT_MEMORY_FORMAT="csv")
    assert done.stdout.splitlines()[0].startswith("model")
    assert "PERFKIT_MEMORY_FORMAT" in perfkit("memory", "--help", COLUMNS="200").stdout


def test_unknown_options_and_commands_exit_2() -> None:
    assert perfkit("run", "x", "--no-such-option").returncode == 2
    assert perfkit("no-such-command").returncode == 2


def test_an_unknown_model_lists_near_names_and_exits_2() -> None:
    done = perfkit("memory", "llama-3.1-8c")
    assert done.returncode == 2
    assert "llama-3.1-8b" in done.stderr
    assert done.stdout == ""


def test_a_closed_pipe_is_no_traceback() -> None:
    """What `perfkit predict ... | head -1` does to the writer."""
    command = [sys.executable, "-m", "perfkit", "predict", "llama-3.1-8b", "--gpu", "h200-sxm"]
    with subprocess.Popen(
        [*command, "--batch", "1:512"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        writer.stdout.readline()
        writer.stdout.close()
        assert "Traceback" not in writer.stderr.read()


def test_shell_completion_is_shipped() -> None:
    done = perfkit("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "_PERFKIT_COMPLETE" in done.stdout


def test_the_nouns_are_found_in_a_checkout() -> None:
    from perfkit.paths import find

    for noun, file in (("models", "gpus.toml"), ("analysis", "prompts.jsonl")):
        assert isinstance(find(noun, file), Path)
