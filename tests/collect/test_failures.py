"""A run that goes wrong ends within seconds, names the cause, and leaves a valid run folder."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import save_tiny

from perfkit.collect.witness import alive
from perfkit.schema import RunFolder, read_json

pytestmark = pytest.mark.slow

MUST_END_WITHIN_S = 15.0


def perfkit(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "perfkit", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama-untied", tmp_path_factory.mktemp("models"))


class LongRun:
    """A run of four ranks that would go on for minutes."""

    def __init__(self, model: Path, out: Path) -> None:
        self.folder = RunFolder(out)
        command = [sys.executable, "-m", "perfkit", "run", str(model), "--tp", "2", "--pp", "2"]
        options = ["--batch", "2", "--prompt-tokens", "8", "--new-tokens", "60"]
        self.process = subprocess.Popen(
            [*command, *options, "--repeats", "500", "--out", str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_timed(self) -> None:
        """Return once every rank has written a whole timed pass."""
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            timers = [self.folder.rank_file(rank, "timers.jsonl") for rank in range(4)]
            if all(path.is_file() and '"timed"' in path.read_text() for path in timers):
                return
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.1)
        pytest.fail("the run never came to its timed passes")

    def pids(self, file: str = "exit.json") -> list[int]:
        """Of the ranks' own programs; in status.json, of what stands outermost around them."""
        return [read_json(self.folder.rank_file(rank, file))["pid"] for rank in range(4)]

    def end(self) -> tuple[int, str, float]:
        """Exit code, stderr, and the seconds it took from now."""
        start = time.monotonic()
        _, stderr = self.process.communicate(timeout=60)
        return self.process.returncode, stderr, time.monotonic() - start


@pytest.fixture
def long_run(tiny: Path, tmp_path: Path) -> Iterator[LongRun]:
    run = LongRun(tiny, tmp_path / "run")
    run.wait_until_timed()
    yield run
    if run.process.poll() is None:
        run.process.kill()
        run.process.communicate()


def wait_until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_until_gone(pids: list[int]) -> None:
    wait_until(lambda: not any(map(alive, pids)), within_s=5)


def test_a_killed_rank_ends_the_run_and_is_named(long_run: LongRun) -> None:
    pids = long_run.pids()
    os.kill(pids[2], signal.SIGKILL)
    code, stderr, seconds = long_run.end()
    assert code == 1
    assert seconds < MUST_END_WITHIN_S
    assert "rank 2" in stderr
    assert "SIGKILL" in stderr
    assert "Traceback" not in stderr
    wait_until_gone(pids)
    record = read_json(long_run.folder.run_json)
    assert record["state"] == "failed"
    assert record["failure"]["rank"] == 2
    states = [read_json(long_run.folder.rank_file(r, "status.json"))["state"] for r in range(4)]
    assert states[2] == "failed"
    assert "running" not in states


def test_a_killed_collector_does_not_end_its_rank(long_run: LongRun) -> None:
    """perf stat around rank 2 is killed: the rank goes on for a whole pass, which takes many
    seconds where others use the cores, until the run is stopped."""
    os.kill(long_run.pids("status.json")[2], signal.SIGKILL)
    timers = long_run.folder.rank_file(2, "timers.jsonl")
    size = timers.stat().st_size
    wait_until(lambda: timers.stat().st_size > size, within_s=150)
    long_run.process.send_signal(signal.SIGTERM)
    long_run.end()
    record = read_json(long_run.folder.run_json)
    assert record["state"] == "stopped"
    assert record["collectors"]["perf-stat"]["missing_ranks"] == [2]


def test_the_folder_of_a_killed_run_is_still_analysed(long_run: LongRun) -> None:
    os.kill(long_run.pids()[3], signal.SIGKILL)
    long_run.end()
    done = perfkit("analyze", long_run.folder.root, "--format", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert any("rank 3" in warning for warning in report["warnings"])


def test_sigterm_stops_every_rank_and_is_recorded(long_run: LongRun) -> None:
    pids = long_run.pids()
    long_run.process.send_signal(signal.SIGTERM)
    code, _stderr, seconds = long_run.end()
    assert code == 128 + signal.SIGTERM
    assert seconds < MUST_END_WITHIN_S
    wait_until_gone(pids)
    assert read_json(long_run.folder.run_json)["state"] == "stopped"


def test_ctrl_c_exits_130(long_run: LongRun) -> None:
    long_run.process.send_signal(signal.SIGINT)
    code, _stderr, _seconds = long_run.end()
    assert code == 130


def test_no_rank_outlives_a_killed_supervisor(long_run: LongRun) -> None:
    """Nobody could write how the run ended: `perfkit collect` finds out, and does."""
    pids = long_run.pids()
    assert "still running" in perfkit("collect", long_run.folder.root).stderr
    long_run.process.kill()
    long_run.end()
    wait_until_gone(pids)
    assert read_json(long_run.folder.run_json)["state"] == "running"
    assert perfkit("collect", long_run.folder.root).returncode == 0
    record = read_json(long_run.folder.run_json)
    assert record["state"] == "failed"
    assert "supervisor died" in record["failure"]["reason"]


def test_a_rank_that_fails_by_itself_shows_its_own_error_first(tiny: Path, tmp_path: Path) -> None:
    """The weights are whole when the run is planned and gone when rank 1 reads them."""
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    prompts = tmp_path / "long.jsonl"
    prompts.write_text(json.dumps({"text": "x"}) + "\n")
    (model / "tokenizer.json").write_text("{not a tokenizer")
    done = perfkit("run", model, "--tp", "2", "--out", tmp_path / "run", "--prompts", prompts)
    assert done.returncode == 1, done.stderr
    first = next(line for line in done.stderr.splitlines() if line.startswith("perfkit:"))
    assert "rank 0" in first or "rank 1" in first
    assert "peer" not in first
    assert read_json(tmp_path / "run" / "run.json")["state"] == "failed"


def bad_input(tmp_path: Path, *arguments: Any) -> str:
    """The one message of a refused command, which must have written nothing."""
    before = sorted(path for path in tmp_path.rglob("*"))
    done = perfkit(*arguments)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert sorted(path for path in tmp_path.rglob("*")) == before
    return done.stderr


def test_an_unknown_model_says_where_it_was_looked_for(tmp_path: Path) -> None:
    message = bad_input(tmp_path, "run", "no-such-model", "--out", tmp_path / "run")
    assert "no model 'no-such-model'" in message
    assert "Looked for config.json in:" in message
    assert "Stage it" in message


def test_the_demo_model_not_staged_says_how(tmp_path: Path) -> None:
    done = perfkit("run", "smollm2-135m-instruct", PERFKIT_CACHE_DIR=str(tmp_path / "empty"))
    assert done.returncode == 2
    assert "perfkit fetch smollm2-135m-instruct" in done.stderr


def test_a_cut_weight_file_is_named(tiny: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    message = bad_input(tmp_path, "run", model, "--out", tmp_path / "run")
    assert "model.safetensors is damaged or cut short" in message
    weights.write_bytes(b"garbage" * 10)
    assert "damaged" in bad_input(tmp_path, "run", model, "--out", tmp_path / "run")


def test_too_many_tensor_parallel_ranks_are_refused(tiny: Path, tmp_path: Path) -> None:
    message = bad_input(tmp_path, "run", tiny, "--tp", 4, "--out", tmp_path / "run")
    assert "tp=4" in message
    assert "1, 3" in message


def test_more_stages_than_layers_are_refused(tiny: Path, tmp_path: Path) -> None:
    message = bad_input(tmp_path, "run", tiny, "--pp", 6, "--out", tmp_path / "run")
    assert "pp=6 for 5 layers" in message


def test_an_unwritable_output_is_refused(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = bad_input(tmp_path, "run", tiny, "--out", tmp_path / "file" / "run")
    assert "cannot write the run folder" in message


def test_an_existing_run_folder_needs_force(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_text('{"schema_version": 1, "state": "finished"}')
    assert "--force" in bad_input(tmp_path, "run", tiny, "--out", out)


def test_force_never_deletes_a_folder_that_is_no_run(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    message = bad_input(tmp_path, "run", tiny, "--out", tmp_path / "thesis", "--force")
    assert "not a run folder" in message


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("phi3", "fuses q, k and v"),
        ("deepseek_v3", "mixture of experts"),
        ("mamba", "not supported"),
    ],
)
def test_unsupported_models_are_refused_with_the_supported_list(
    model_type: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    message = bad_input(tmp_path, "run", tmp_path, "--load", "dummy", "--out", tmp_path / "run")
    assert reason in message.lower()
    for supported in ("llama", "qwen2", "qwen3", "mistral", "opt"):
        assert supported in message


def test_ranks_that_do_not_match_srun_are_refused(tiny: Path, tmp_path: Path) -> None:
    done = perfkit(
        *("run", tiny, "--tp", "2", "--out", tmp_path / "run"),
        SLURM_STEP_ID="0",
        SLURM_PROCID="0",
        SLURM_LOCALID="0",
        SLURM_NTASKS="3",
    )
    assert done.returncode == 2
    assert "srun started 3 tasks, but tp * pp = 2" in done.stderr


def test_without_torch_a_run_says_what_to_install(tiny: Path, tmp_path: Path) -> None:
    """A light install on a login node: the interpreter sees perfkit but none of the engine."""
    blocked = tmp_path / "site"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)\n"
    )
    done = perfkit("run", tiny, "--out", tmp_path / "run", PYTHONPATH=str(blocked))
    assert done.returncode == 4
    assert "torch cannot be imported" in done.stderr
    assert "pip install 'perfkit[run]'" in done.stderr
    assert not (tmp_path / "run").exists()
