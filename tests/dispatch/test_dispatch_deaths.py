"""Workers that are killed while they work: every prompt is answered, once, as if nothing was."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from dev_cluster import wait_until
from talking_tiny import (
    TIMEOUT_S,
    answers,
    command,
    done,
    events,
    figures,
    outputs,
    pid_of,
    save_talking_tiny,
    started,
    wait_for_batches,
    write_prompts,
)

from perfkit.collect.witness import alive
from perfkit.engine.batch import load_tokenizer

pytestmark = pytest.mark.slow

NEW_TOKENS = 40
PROMPTS = 48
OPTIONS = ("--batch", 4, "--new-tokens", NEW_TOKENS, "--cpu-workers", 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dispatch")


@pytest.fixture(scope="module")
def model(place: Path) -> Path:
    return save_talking_tiny(place)


@pytest.fixture(scope="module")
def prompts(place: Path) -> Path:
    return write_prompts(place / "prompts.jsonl", PROMPTS)


@pytest.fixture(scope="module")
def undisturbed(place: Path, model: Path, prompts: Path) -> Path:
    """The folder of a dispatch that nobody disturbed."""
    folder = place / "undisturbed"
    run = done(command(model, prompts, folder, *OPTIONS, "--replicas", 2))
    assert run.returncode == 0, run.stderr
    return folder


def test_every_prompt_has_the_tokens_that_generate_gives(undisturbed: Path, model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    known = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32)
    tokenizer = load_tokenizer(str(model))
    found = answers(undisturbed)
    assert [name for name, _ in found] == [f"p{number}" for number in range(PROMPTS)]
    for number in (0, 11, 47):
        text = " ".join(f"w{(number + step) % 150}" for step in range(1 + number % 12))
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        whole = known.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=NEW_TOKENS,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=None,
            do_sample=False,
        )
        assert found[number][1] == whole[0, ids.shape[1] :].tolist()


def test_busy_and_idle_are_the_wall_time_and_busy_holds_what_the_engine_timed(
    undisturbed: Path,
) -> None:
    content = figures(undisturbed)
    assert [row["prompts"] > 0 for row in content["replicas"]] == [True, True]
    for row in content["replicas"]:
        assert row["busy_s"] + row["idle_s"] == pytest.approx(row["wall_s"], abs=1e-9)
        assert 0 < timed_s(undisturbed, row["name"]) <= row["busy_s"] < row["wall_s"]
    assert sum(row["prompts"] for row in content["replicas"]) == PROMPTS
    assert content["cpu_workers"][0]["prompts"] == PROMPTS
    summary = {row["measure"]: row["value"] for row in content["summary"]}
    assert summary["preprocessing_per_prompt"] > 0
    waits = [summary[f"queue_wait_{name}"] for name in ("p50", "p90", "p99", "max")]
    assert waits == sorted(waits)
    assert 0 < summary["replica_idle"] < 1
    assert content["missing"] == []


def timed_s(folder: Path, name: str) -> float:
    """Seconds of the replica's requests by the engine's own clock."""
    path = folder / "ranks" / f"{int(name.rpartition('-')[2]):04d}" / "timers.jsonl"
    phases: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    requests = [p for p in phases if p["phase"] == "request" and p["kind"] == "timed"]
    return float(sum(p["end_ns"] - p["start_ns"] for p in requests) / 1e9)


def test_a_replica_that_is_killed_costs_no_answer(
    place: Path, model: Path, prompts: Path, undisturbed: Path
) -> None:
    folder = place / "killed-replica"
    with started(command(model, prompts, folder, *OPTIONS, "--replicas", 2)) as process:
        wait_for_batches(folder, 2)
        os.kill(worker := pid_of(folder, "replica"), signal.SIGKILL)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    assert "was killed by signal 9 and was started again: what it had is run again" in err
    assert answers(folder) == answers(undisturbed)
    assert not alive(worker)
    assert sum(row["deaths"] for row in figures(folder)["replicas"]) == 1


def test_a_cpu_worker_that_is_killed_costs_no_answer(
    place: Path, prompts: Path, undisturbed: Path
) -> None:
    """It counts to ten million for each prompt, so that it is killed at its work."""
    slow, folder = save_talking_tiny(place / "slow", loops=4), place / "killed-cpu"
    with started(command(slow, prompts, folder, *OPTIONS, "--window", 2)) as process:
        wait_for_batches(folder, 1)
        assert len(events(folder, "window")) < PROMPTS // 8
        os.kill(pid_of(folder, "cpu"), signal.SIGKILL)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    assert "CPU worker cpu-1" in err
    assert answers(folder) == answers(undisturbed)
    (row,) = figures(folder)["cpu_workers"]
    assert row["deaths"] == 1


def test_a_rank_of_a_replica_that_is_killed_costs_no_answer(
    place: Path, model: Path, prompts: Path, undisturbed: Path
) -> None:
    """Two tensor-parallel ranks: the second is a child of the worker."""
    folder = place / "killed-rank"
    with started(command(model, prompts, folder, *OPTIONS, "--tp", 2)) as process:
        wait_for_batches(folder, 1)
        worker = pid_of(folder, "replica")
        os.kill(child_of(worker), signal.SIGKILL)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    assert answers(folder) == answers(undisturbed)
    assert not alive(worker)
    (row,) = figures(folder)["replicas"]
    assert row["deaths"] == 1
    log = (folder / "ranks" / "0002" / "log.txt").read_text()
    assert "a rank of this replica, ended with -9" in log


def child_of(pid: int) -> int:
    """The one that follows; Python's own helpers are children, too."""
    children = Path("/proc").glob(f"{pid}/task/*/children")
    pids = [int(one) for file in children for one in file.read_text().split()]
    follows = [one for one in pids if b"followers" in Path(f"/proc/{one}/cmdline").read_bytes()]
    (found,) = follows
    return found


def test_a_dispatcher_that_is_killed_leaves_nobody_and_is_gone_on_with(
    place: Path, model: Path, prompts: Path, undisturbed: Path
) -> None:
    folder = place / "killed-dispatcher"
    arguments = command(model, prompts, folder, *OPTIONS)
    with started(arguments) as process:
        wait_for_batches(folder, 3)
        process.kill()
        process.communicate(timeout=TIMEOUT_S)
    pids = [pid_of(folder, role) for role in ("cpu", "replica")]
    wait_until(lambda: not any(map(alive, pids)), "the workers have ended", 30)
    before = outputs(folder)
    assert 12 <= len(before) < PROMPTS
    # As if the dispatcher had been killed in the middle of a line.
    with (folder / "outputs.jsonl").open("a") as file:
        file.write('{"schema_version":1,"index":')
    partial = figures(folder)
    assert partial["missing"] == [
        "this dispatch is not finished (state running)",
        "its last part has no end (it still runs, or was killed): measured to its last event",
    ]
    again = done(arguments)
    assert again.returncode == 0, again.stderr
    assert f"going on: {len(before)} of {PROMPTS} prompts are answered" in again.stderr
    assert answers(folder) == answers(undisturbed)
    assert outputs(folder)[: len(before)] == before
    assert figures(folder)["parts"] == 2


def test_a_dispatch_that_is_stopped_says_how_to_go_on(
    place: Path, model: Path, prompts: Path
) -> None:
    folder = place / "stopped"
    with started(command(model, prompts, folder, *OPTIONS)) as process:
        wait_for_batches(folder, 1)
        process.terminate()
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 143
    count = len(outputs(folder))
    assert err.splitlines()[-1] == (
        f"stopped: {count} of {PROMPTS} prompts are answered. The same command with --out {folder} "
        "goes on."
    )
    pids = [pid_of(folder, role) for role in ("cpu", "replica")]
    wait_until(lambda: not any(map(alive, pids)), "the workers have ended", 30)
    assert figures(folder)["missing"] == [
        "this dispatch is not finished (state stopped: stopped by Ctrl-C or a signal)"
    ]
