"""What a run gives to the tokens it is fed equals what one Hugging Face forward gives to them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tiny
from transformers import AutoModelForCausalLM

from perfkit.baseline.answers import open_answers
from perfkit.engine.scoring import most_likely_and_own
from perfkit.schema import write_json

# Prompts of several lengths, so that some are padded; paths that no greedy run would take.
PROMPTS = [[5, 9, 33, 71, 12, 90, 31], [8, 120], [77, 3, 15, 61], [42]]
PATHS = [[7, 7, 150, 2, 31, 8], [99, 2, 5], [1, 88, 64, 120, 3, 3], [11]]
TOP = 9


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama-untied", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A run folder with only what is followed."""
    folder = tmp_path_factory.mktemp("followed")
    config = json.loads((model / "config.json").read_text())
    write_json(
        folder / "run.json",
        {"task": "inference", "config": {}, "model": {"id": "tiny", "config": config}},
    )
    lines = [
        {
            "prompt_id": f"p{number}",
            "token_ids": path,
            "prompt_token_ids": prompt,
            "scored": {"token_ids": path, "logprobs": [], "top_ids": [], "top_logprobs": []},
        }
        for number, (prompt, path) in enumerate(zip(PROMPTS, PATHS, strict=True))
    ]
    (folder / "outputs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def perfkit_run(model: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    common = ["--device", "cpu", "--dtype", "float32", "--repeats", "1", "--collect", "none"]
    return subprocess.run(
        [sys.executable, "-m", "perfkit", "run", str(model), *common, *options, "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def expected(model: Path) -> list[dict[str, Any]]:
    """Of every path: log probabilities of its tokens, and the TOP most likely ones."""
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    found = []
    with torch.no_grad():
        for prompt, path in zip(PROMPTS, PATHS, strict=True):
            logits = reference(torch.tensor([prompt + path])).logits[0]
            logprobs = logits[len(prompt) - 1 : -1].log_softmax(-1)
            own = [float(row[token]) for row, token in zip(logprobs, path, strict=True)]
            best = logprobs.topk(TOP)
            found.append({"own": own, "ids": best.indices.tolist(), "values": best.values})
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [
        ("--tp", "1", "--decode", "graph"),
        ("--tp", "2", "--microbatches", "2"),
        ("--pp", "2", "--microbatches", "3"),
        ("--tp", "2", "--pp", "2", "--microbatches", "2", "--decode", "graph"),
    ],
    ids=" ".join,
)
def test_scores_of_fed_tokens_equal_those_of_one_forward(
    layout: tuple[str, ...], model: Path, followed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = perfkit_run(model, out, *layout, "--follow", str(followed), "--logprobs", str(TOP))
    assert done.returncode == 0, done.stderr
    answers = open_answers(out).answers
    assert [list(a.prompt_token_ids or ()) for a in answers] == PROMPTS
    # Its own tokens run on freely, as many as the longest path has.
    assert [len(answer.token_ids or ()) for answer in answers] == [6, 6, 6, 6]
    for answer, path, reference in zip(answers, PATHS, expected(model), strict=True):
        assert answer.scored is not None
        assert list(answer.scored.token_ids) == path
        torch.testing.assert_close(
            torch.tensor(answer.scored.logprobs), torch.tensor(reference["own"]), **CLOSE
        )
        assert [list(ids) for ids in answer.scored.top_ids] == reference["ids"]
        torch.testing.assert_close(
            torch.tensor(answer.scored.top_logprobs), reference["values"], **CLOSE
        )


CLOSE: dict[str, Any] = {"atol": 2e-4, "rtol": 1e-4}


@pytest.mark.slow
def test_without_follow_a_run_scores_its_own_tokens_up_to_their_end(
    model: Path, tmp_path: Path
) -> None:
    prompts = ["--batch", "2", "--prompt-tokens", "6", "--new-tokens", "8"]
    done = perfkit_run(model, tmp_path / "free", *prompts, "--logprobs", "3")
    assert done.returncode == 0, done.stderr
    free = open_answers(tmp_path / "free").answers
    for answer in free:
        assert answer.scored is not None
        assert answer.scored.token_ids == answer.token_ids
        # Greedy: each token is the most likely one where it stands.
        assert tuple(ids[0] for ids in answer.scored.top_ids) == answer.token_ids
        firsts = tuple(values[0] for values in answer.scored.top_logprobs)
        assert firsts == answer.scored.logprobs
    timers = (tmp_path / "free" / "ranks" / "0000" / "timers.jsonl").read_text()
    kinds = {json.loads(line).get("kind") for line in timers.splitlines()[1:]}
    assert kinds == {"warmup", "timed"}


def test_equal_logits_stand_in_the_order_of_argmax() -> None:
    logits = torch.tensor([[1.0, 3.0, 0.0, 3.0, 3.0, -9.0]])
    own, ids, values = most_likely_and_own(logits, torch.tensor([2]), 4)
    assert ids == [[1, 3, 4, 0]]
    assert int(logits.argmax(-1)) == 1
    assert [round(value, 4) for value in values[0]] == [-1.1585, -1.1585, -1.1585, -3.1585]
    assert [round(value, 4) for value in own] == [-4.1585]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--batch", "2"), "--batch and --follow"),
        (("--new-tokens", "9"), "--new-tokens and --follow"),
        (("--logprobs", "161"), "has 160 tokens"),
    ],
)
def test_options_that_contradict_are_refused_before_anything_is_written(
    options: tuple[str, ...], said: str, model: Path, followed: Path, tmp_path: Path
) -> None:
    done = perfkit_run(model, tmp_path / "run", "--follow", str(followed), *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_of_a_model_with_another_tokenizer_cannot_be_followed(
    model: Path, followed: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("run.json", "outputs.jsonl"):
        (other / name).write_text((followed / name).read_text().replace("150", "1500"))
    done = perfkit_run(model, tmp_path / "run", "--follow", str(other))
    assert done.returncode == 2
    assert "has token 1500, but llama-untied has 160 tokens only" in done.stderr


def test_a_run_without_scores_cannot_be_followed_and_says_why(
    model: Path, followed: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "run.json").write_text((followed / "run.json").read_text())
    line = {"prompt_id": "p0", "prompt_tokens": 3, "token_ids": [5, 6]}
    (bare / "outputs.jsonl").write_text(json.dumps(line) + "\n")
    done = perfkit_run(model, tmp_path / "run", "--follow", str(bare))
    assert done.returncode == 2
    assert "Make that run again with --logprobs 64" in done.stderr
