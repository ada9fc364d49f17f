"""`perfkit baseline` against a small endpoint: ways of asking, resuming, what is kept."""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import polars as pl
import pytest
from answered_run import a_run, an_answer
from small_endpoint import Act, Server, Takes, cut, made_up, send, small_endpoint

from perfkit.baseline.answers import followable, open_answers
from perfkit.baseline.make import checked_endpoint
from perfkit.errors import ConfigError

KEY = "sk-a-very-secret-key-0123456789"
PROMPTS = ["a", "bb", "ccc", "dddd"]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


def baseline(
    server: Server, prompts: Path, *more: str, key: str | None = KEY
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    if key is not None:
        environment["OPENAI_API_KEY"] = key
    out = prompts.with_name("base.parquet")
    command = [sys.executable, "-m", "perfkit", "baseline", "--endpoint", server.url]
    command += ["--model", "colours", "--prompts", str(prompts), "-o", str(out)]
    return subprocess.run(
        [*command, "--new-tokens", "3", "--retries", "0", *more],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_answers_log_probabilities_and_settings_are_kept(prompts: Path) -> None:
    with small_endpoint(Takes(key=KEY)) as server:
        done = baseline(server, prompts, "--logprobs", "4")
    assert done.returncode == 0, done.stderr
    out = prompts.with_name("base.parquet")
    assert done.stdout == f"{out}\n"
    found = open_answers(out)
    assert found.kind == "endpoint"
    assert found.model_id == "colours"
    assert found.settings["endpoint"] == server.url
    assert str(found.settings["asked_at"]).startswith("20")
    first = found.answers[0]
    assert first.token_ids == (1, 2, 3)
    assert first.text == " green blue white"
    assert first.scored is not None
    assert first.scored.top_ids[0] == (1, 2, 3, 4)
    assert first.scored.top_logprobs[0] == (-0.5, -1.5, -2.5, -3.5)
    assert not list(prompts.parent.glob("*.partial*"))


def test_the_key_is_nowhere_but_in_the_header(prompts: Path) -> None:
    with small_endpoint(Takes(key="another")) as server:
        done = baseline(server, prompts)
    assert done.returncode == 2
    assert "401" in done.stderr
    assert server.seen[0][1]["Authorization"] == f"Bearer {KEY}"
    written = [path.read_bytes() for path in prompts.parent.iterdir()]
    assert KEY not in done.stderr + done.stdout
    assert not any(KEY.encode() in content for content in written)


def test_a_key_that_cannot_be_sent_is_refused_unseen(prompts: Path) -> None:
    with small_endpoint() as server:
        done = baseline(server, prompts, key="sk-two\nlines-of-secret")
    assert done.returncode == 2
    assert "OPENAI_API_KEY" in done.stderr
    assert "lines-of-secret" not in done.stderr
    assert server.seen == []


def test_an_interrupted_making_goes_on_and_asks_nothing_twice(prompts: Path) -> None:
    with small_endpoint() as server:
        first = baseline(server, prompts)
        whole = pl.read_parquet(prompts.with_name("base.parquet"))
        server.asked.clear()
        prompts.with_name("base.parquet").unlink()
        server.script = answers_then(server, 2, cut)
        stopped = baseline(server, prompts)
        assert stopped.returncode == 1, stopped.stderr
        assert "What was answered is kept" in stopped.stderr
        journal = prompts.with_name("base.parquet.partial.jsonl")
        assert len(journal.read_text().splitlines()) == 3
        # What a kill in the middle of a write leaves.
        with journal.open("a") as file:
            file.write('{"prompt_id": "prompt-3", "te')
        again = baseline(server, prompts)
    assert first.returncode == again.returncode == 0, again.stderr
    assert [body["prompt"] for body in server.asked] == PROMPTS
    assert "2 of 4 answers are in" in again.stderr
    parts = pl.read_parquet(prompts.with_name("base.parquet"))
    assert parts.drop("asked_at").equals(whole.drop("asked_at"))


def answers_then(server: Server, count: int, failure: Act) -> list[Act]:
    """`count` good answers, then the failure."""

    def good(handler: BaseHTTPRequestHandler) -> None:
        body = server.seen[-1][2]
        server.asked.append(body)
        send(handler, 200, made_up(server.takes, body))

    return [good] * count + [failure]


def test_other_options_do_not_go_on_with_a_journal(prompts: Path) -> None:
    with small_endpoint() as server:
        server.script = answers_then(server, 1, cut)
        assert baseline(server, prompts).returncode == 1
        other = baseline(server, prompts, "--logprobs", "2")
        assert other.returncode == 2
        assert "was begun with another logprobs" in other.stderr
        assert baseline(server, prompts, "--logprobs", "2", "--force").returncode == 0


def test_what_is_there_is_not_replaced(prompts: Path) -> None:
    prompts.with_name("base.parquet").write_text("mine")
    with small_endpoint() as server:
        done = baseline(server, prompts)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert server.seen == []


def test_fewer_log_probabilities_are_asked_for_where_it_refuses_many(prompts: Path) -> None:
    with small_endpoint(Takes(most_logprobs=5, refuses_unknown=True, ids_out=False)) as server:
        done = baseline(server, prompts)
    assert "the endpoint takes prompts as text, 5 log probabilities a place" in done.stderr
    # Three ways are tried on the first prompt only.
    assert len(server.seen) == 3 + len(PROMPTS) - 1


def test_no_log_probabilities_is_said_and_kept_as_answers(prompts: Path) -> None:
    with small_endpoint(Takes(logprobs=False)) as server:
        done = baseline(server, prompts)
    assert done.returncode == 0
    assert "the endpoint tells no log probabilities" in done.stderr
    found = open_answers(prompts.with_name("base.parquet"))
    assert found.top == 0
    assert found.answers[0].token_ids == (1, 2, 3)


def test_texts_alone_cannot_be_followed_and_say_what_to_do(prompts: Path) -> None:
    with small_endpoint(Takes(ids_out=False)) as server:
        done = baseline(server, prompts)
    assert "no token ids" in done.stderr
    found = open_answers(prompts.with_name("base.parquet"))
    assert found.answers[0].token_ids is None
    with pytest.raises(ConfigError, match="again with --tokenizer MODEL_FOLDER"):
        followable(found)


def test_chat_answers_have_the_same_form(prompts: Path) -> None:
    with small_endpoint() as server:
        done = baseline(server, prompts, "--api", "chat", "--logprobs", "3")
    assert done.returncode == 0, done.stderr
    assert server.seen[0][0] == "/v1/chat/completions"
    first = open_answers(prompts.with_name("base.parquet")).answers[0]
    assert first.text == " green blue white"
    assert first.scored is not None
    assert first.scored.top_ids[0] == (1, 2, 3)


def test_an_answer_in_another_form_is_no_traceback(prompts: Path) -> None:
    with small_endpoint(model=lambda _body: {"output": "hello"}) as server:
        done = baseline(server, prompts)
    assert done.returncode == 1
    assert "no OpenAI-compatible completion" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host/v1", "no address such as"),
        ("https://me:secret@host/v1", "Put the key in the environment"),
        ("https://host/v1?api_key=secret", "Put the key in the environment"),
    ],
)
def test_addresses_that_hold_a_secret_or_are_none(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        checked_endpoint(url)
    assert "secret" not in str(error.value)


def test_the_end_of_an_address_may_be_the_whole_path() -> None:
    assert checked_endpoint("http://host:8000/v1/") == "http://host:8000/v1"
    assert checked_endpoint("http://host/v1/chat/completions") == "http://host/v1"


@pytest.mark.parametrize(
    ("takes", "scored"),
    [
        (Takes(), [(4,), (-4.5,)]),
        (Takes(scores_prompts=False, echo=True), [(4,), (-0.5,)]),
        (Takes(scores_prompts=False), None),
    ],
    ids=["prompt_logprobs", "echo", "neither"],
)
def test_tokens_of_a_run_are_scored_in_the_way_the_endpoint_has(
    takes: Takes, scored: list[tuple[float, ...]] | None, tmp_path: Path
) -> None:
    given = [{4: 0.9, 3: 0.1}]
    run = a_run(tmp_path / "run", [an_answer([4], given, prompt=(3, 1, 2))])
    with small_endpoint(takes) as server:
        out = tmp_path / "base.parquet"
        done = baseline(server, run)
    assert done.returncode == 0, done.stderr
    (answer,) = open_answers(out).answers
    # Its own three tokens are what it says freely.
    assert answer.token_ids == (3, 4, 0)
    assert answer.prompt_token_ids == (3, 1, 2)
    assert answer.scored is not None
    if scored is None:
        assert "does not score the tokens it is given" in done.stderr
        assert answer.scored.token_ids == (3, 4, 0)
    else:
        assert [answer.scored.token_ids, answer.scored.logprobs] == scored
