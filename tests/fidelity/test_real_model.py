"""Real weights through the real engine: what is healthy passes, each planted damage is caught."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damaged import DAMAGE, damaged
from small_endpoint import Takes, small_endpoint

from perfkit.baseline.answers import Answer, open_answers
from perfkit.compare.fidelity import verify
from perfkit.engine.models import staged_folder

pytestmark = pytest.mark.slow

QUESTIONS = """What is the capital of France, and what is it known for?
Explain in two sentences why the sky is blue.
How do I boil an egg so that the yolk stays soft?
What does a compiler do? Answer for a child of ten.
Give me a recipe for a simple tomato soup.
Summarise the story of Romeo and Juliet in three sentences.
What is the sum of 17 and 25? Show your steps.
Write an email that asks a colleague to move a meeting to Friday.
What is the difference between weather and climate?
Explain what a prime number is and give five examples.
"""
NEW_TOKENS = "16"


@pytest.fixture(scope="module")
def model() -> Path:
    folder = staged_folder("smollm2-135m-instruct")
    if not (folder / "config.json").is_file():
        pytest.skip("the demo model is not staged: perfkit fetch smollm2-135m-instruct")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fidelity")
    (folder / "questions.txt").write_text(QUESTIONS)
    return folder


def perfkit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "perfkit", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def a_run(out: Path, model: Path, dtype: str, *options: str | Path) -> Path:
    common = ["--device", "cpu", "--dtype", dtype, "--repeats", "1", "--collect", "none"]
    perfkit("run", model, *common, *options, "--out", out)
    return out


def own_prompts(root: Path) -> list[str | Path]:
    prompts: list[str | Path] = ["--prompts", root / "questions.txt", "--batch", "10"]
    return [*prompts, "--new-tokens", NEW_TOKENS, "--logprobs", "64"]


@pytest.fixture(scope="module")
def base(root: Path, model: Path) -> Path:
    return a_run(root / "base", model, "bfloat16", *own_prompts(root))


@pytest.fixture(scope="module")
def healthy(root: Path, model: Path, base: Path) -> Path:
    return a_run(root / "tp2", model, "bfloat16", "--tp", "2", "--follow", base)


def test_bfloat16_over_two_ranks_is_healthy(base: Path, healthy: Path) -> None:
    found = verify(healthy, base)
    assert found.judged.verdict == "healthy", found.judged.reasons
    assert found.figures.places == found.figures.new_tokens == 160
    assert found.figures.kl_mean is not None
    assert 1e-4 < found.figures.kl_mean < 5e-3


@pytest.mark.parametrize("kind", DAMAGE)
def test_planted_damage_is_broken(
    kind: str, model: Path, base: Path, healthy: Path, root: Path, tmp_path: Path
) -> None:
    run = a_run(root / kind, damaged(kind, model, tmp_path), "bfloat16", "--follow", base)
    found = verify(run, base)
    assert found.judged.verdict == "broken"
    assert any("KL, mean" in reason for reason in found.judged.reasons)
    assert verify(run, base, healthy).judged.verdict == "broken"


def test_float32_over_two_ranks_has_equal_tokens(root: Path, model: Path) -> None:
    one = a_run(root / "fp32", model, "float32", *own_prompts(root))
    two = a_run(root / "fp32-tp2", model, "float32", "--tp", "2", "--follow", one)
    found = verify(two, one)
    assert found.judged.verdict == "healthy", found.judged.reasons
    assert found.judged.precision == "float32"
    assert (found.figures.equal, found.figures.prompts) == (10, 10)
    assert found.figures.kl_mean is not None
    assert found.figures.kl_mean < 1e-6


def replayed(answers: tuple[Answer, ...], texts: Callable[[int], str], *, ids: bool) -> Any:
    """A server that answers what a run answered, five tokens a place, as vLLM or as OpenAI."""
    by_prompt = {a.prompt_token_ids: a for a in answers}
    by_place = iter([*answers, *answers])

    def name(token: int) -> str:
        return f"token_id:{token}" if ids else texts(token)

    def model(body: dict[str, Any]) -> dict[str, Any]:
        asked = body["prompt"]
        answer = by_prompt[tuple(asked)] if isinstance(asked, list) else next(by_place)
        scored = answer.scored
        assert scored is not None
        top = [
            {name(t): v for t, v in zip(i[:5], v_[:5], strict=True)}
            for i, v_ in zip(scored.top_ids, scored.top_logprobs, strict=True)
        ]
        logprobs = {
            "tokens": [name(token) for token in scored.token_ids],
            "token_logprobs": list(scored.logprobs),
            "top_logprobs": top,
        }
        choice = {"text": answer.text, "finish_reason": "length", "logprobs": logprobs}
        usage = {"prompt_tokens": len(answer.prompt_token_ids or ())}
        return {"choices": [choice], "usage": usage}

    return model


@pytest.mark.parametrize("kind", ["vllm", "openai"])
def test_an_endpoint_is_followed_and_tells_healthy_from_broken(
    kind: str, model: Path, base: Path, healthy: Path, root: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    answers = open_answers(base).answers
    ids = kind == "vllm"
    server_model = replayed(answers, lambda one: str(tokenizer.decode([one])), ids=ids)
    takes = Takes(ids_in=ids, refuses_unknown=not ids, most_logprobs=5)
    out = tmp_path / "hosted.parquet"
    with small_endpoint(takes, server_model) as server:
        options: list[str | Path] = ["--new-tokens", NEW_TOKENS, "--tokenizer", model, "-o", out]
        asked = ["--endpoint", server.url, "--model", "smol"]
        perfkit("baseline", *asked, *options, "--prompts", root / "questions.txt")
    hosted = open_answers(out)
    assert [a.prompt_token_ids for a in hosted.answers] == [a.prompt_token_ids for a in answers]
    assert [a.token_ids for a in hosted.answers] == [a.token_ids for a in answers]
    assert hosted.top == 5
    # A run that followed the original has the same prompts and the same path.
    found = verify(healthy, out)
    assert found.judged.verdict == "healthy"
    assert found.figures.covered_mean is not None
    assert 0.5 < found.figures.covered_mean < 1.0


def test_damage_shows_against_five_tokens_a_place(
    model: Path, base: Path, root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "hosted.parquet"
    server_model = replayed(open_answers(base).answers, str, ids=True)
    with small_endpoint(Takes(most_logprobs=5), server_model) as server:
        asked = ["--endpoint", server.url, "--model", "smol", "--new-tokens", NEW_TOKENS]
        # This server breaks over a question for the log probabilities of a prompt.
        asked += ["--retries", "0", "--prompts", str(base)]
        done = perfkit("baseline", *asked, "-o", out)
    assert "the endpoint does not score the tokens it is given" in done.stderr
    folder = damaged("half-mlp", model, tmp_path)
    found = verify(a_run(tmp_path / "run", folder, "bfloat16", "--follow", out), out)
    assert found.judged.verdict == "broken"


def test_an_endpoint_scores_the_tokens_of_a_run(base: Path, tmp_path: Path) -> None:
    answers = open_answers(base).answers
    by_prompt = {a.prompt_token_ids: a for a in answers}

    def scoring(body: dict[str, Any]) -> dict[str, Any]:
        ids = tuple(body["prompt"])
        if ids in by_prompt:
            return generated(by_prompt[ids])
        prompt = next(p for p in by_prompt if p is not None and ids[: len(p)] == p)
        scored = by_prompt[prompt].scored
        assert scored is not None
        told = [
            {str(t): {"logprob": v} for t, v in zip(i, v_, strict=True)}
            for i, v_ in zip(scored.top_ids, scored.top_logprobs, strict=True)
        ]
        choice = {"text": "", "prompt_logprobs": [None, *[{}] * (len(prompt) - 1), *told]}
        return {"choices": [choice]}

    def generated(answer: Answer) -> dict[str, Any]:
        # What the host would have said itself is another text.
        return {"choices": [{"text": answer.text, "token_ids": [7, *(answer.token_ids or ())[1:]]}]}

    out = tmp_path / "scored.parquet"
    with small_endpoint(Takes(), scoring) as server:
        asked = ["--endpoint", server.url, "--model", "smol", "--new-tokens", NEW_TOKENS]
        done = perfkit("baseline", *asked, "--prompts", base, "-o", out)
    assert "the endpoint scores the tokens it is given" in done.stderr
    found = verify(base, out)
    assert found.figures.places == 160
    assert found.figures.kl_mean == pytest.approx(0.0, abs=1e-5)
    assert found.figures.equal == 0
    assert found.divergences["place"].to_list() == [0] * 10
