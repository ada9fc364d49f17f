"""The shipped long prompts: real, different, as long as they say by real tokenizers."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from perfkit.engine.models import staged_folder
from perfkit.engine.prompts import read_prompts
from perfkit.errors import ConfigError
from perfkit.study.prompt_sets import (
    REFERENCE,
    VARIANTS,
    documents,
    in_front,
    make_prompt_set,
    read_prompt_set,
)
from perfkit.study.prompt_tokens import counter_of, cut, plain_count

needs_the_demo_model = pytest.mark.skipif(
    not (staged_folder(REFERENCE) / "tokenizer.json").is_file(),
    reason=f"the demo model is not staged: perfkit fetch {REFERENCE}",
)


@pytest.fixture(scope="module")
def both() -> dict[str, pl.DataFrame]:
    return {variant: read_prompt_set(variant) for variant in VARIANTS}


def perfkit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perfkit", "prompts", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_twenty_prompts_in_two_lengths(both: dict[str, pl.DataFrame]) -> None:
    assert [len(frame) for frame in both.values()] == [20, 20]
    columns = ["id", "variant", "title", "text", "words", "tokens", "source", "licence"]
    assert both["2k"].columns == columns
    assert both["4k"]["id"][0] == "p01-4k"
    assert set(both["2k"]["licence"]) == {"Apache-2.0"}
    for frame in both.values():
        assert frame["words"].to_list() == [len(text.split()) for text in frame["text"]]


@needs_the_demo_model
def test_the_shipped_file_is_what_the_script_makes() -> None:
    made = make_prompt_set(plain_count(staged_folder(REFERENCE)))
    shipped = pl.concat([read_prompt_set(variant) for variant in VARIANTS])
    key = ["id"]
    assert made.sort(key).equals(shipped.sort(key)), "python -m perfkit.study.prompt_sets"


@needs_the_demo_model
@pytest.mark.parametrize(("variant", "low", "high"), [("2k", 2253, 2610), ("4k", 4506, 4860)])
def test_lengths_are_a_tenth_above_by_the_demo_models_tokenizer(
    both: dict[str, pl.DataFrame], variant: str, low: int, high: int
) -> None:
    count = plain_count(staged_folder(REFERENCE))
    found = [count(text) for text in both[variant]["text"]]
    assert both[variant]["tokens"].to_list() == found
    assert low <= min(found)
    assert max(found) <= high


def test_no_two_are_alike(both: dict[str, pl.DataFrame]) -> None:
    """Paragraphs that two prompts share: a third on average of the longer ones, no beginning."""
    for variant, most in (("2k", 0.55), ("4k", 0.65)):
        texts = both[variant]["text"].to_list()
        assert len({text[:60] for text in texts}) > 10
        assert len({text.rpartition("Question about document 1: ")[2] for text in texts}) == 20
        paragraphs = [set(text.split("\n\n")) for text in texts]
        shared = [
            len(a & b) / min(len(a), len(b)) for a, b in itertools.combinations(paragraphs, 2)
        ]
        assert max(shared) < most
        assert sum(shared) / len(shared) < 0.35


def test_no_prompt_repeats_a_paragraph(both: dict[str, pl.DataFrame]) -> None:
    for text in both["4k"]["text"]:
        paragraphs = text.split("\n\n")
        assert len(paragraphs) == len(set(paragraphs))


def test_the_longer_ends_as_the_shorter_does(both: dict[str, pl.DataFrame]) -> None:
    for short, long in zip(both["2k"]["text"], both["4k"]["text"], strict=True):
        assert long.endswith(short)
        assert short.rpartition("\n\n")[2].startswith("Question about document 1: ")
        assert short.endswith("?")


def test_the_order_of_documents_is_the_same_on_every_machine() -> None:
    pool = documents()
    order = [one["id"] for one in in_front(pool[0], pool)]
    assert len(order) == len(pool) - 1 == 41
    assert order[:4] == ["b01", "b14", "p07", "b21"]


def words(text: str) -> int:
    return len(text.split())


def test_a_cut_takes_the_end_that_has_the_number() -> None:
    found = cut("one two three four", 2, words)
    assert (found.text, found.tokens) == ("three four", 2)


def test_a_cut_goes_inside_a_word_where_only_that_gives_the_number() -> None:
    """A tokenizer that makes two tokens of a word of more than four letters."""

    def pieces(text: str) -> int:
        return sum(2 if len(word) > 4 else 1 for word in text.split())

    found = cut("wonderful day", 2, pieces)
    assert (found.text, found.tokens) == ("l day", 2)


def test_a_short_text_stays_whole() -> None:
    found = cut("one two", 5, words)
    assert (found.text, found.tokens) == ("one two", 2)


@needs_the_demo_model
def test_prompts_are_cut_to_the_models_own_tokens_and_its_template(tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    done = perfkit(tmp_path, "--limit", "3", "--model", REFERENCE, "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert "Cut at the front to 2048 tokens" in done.stderr
    assert "with its chat template" in done.stderr
    prompts = read_prompts(out)
    assert [prompt.id for prompt in prompts] == ["p01-2k", "p02-2k", "p03-2k"]
    count = counter_of(staged_folder(REFERENCE)).count
    assert [count(prompt.text) for prompt in prompts] == [2048, 2048, 2048]
    first = json.loads(out.read_text().splitlines()[0])
    assert (first["tokens"], first["model"]) == (2048, REFERENCE)


def test_without_a_model_tokens_are_unknown_and_nothing_is_cut(tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    done = perfkit(tmp_path, "--variant", "4k", "--limit", "2", "-o", str(out), "--format", "json")
    assert done.returncode == 0, done.stderr
    assert [row["tokens"] for row in json.loads(done.stdout)["rows"]] == [None, None]
    assert "Tokens are not counted" in done.stderr
    texts = [prompt.text for prompt in read_prompts(out)]
    assert texts == read_prompt_set("4k", 2)["text"].to_list()


def test_an_output_is_kept_unless_override_is_given(tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    out.write_text("mine\n")
    kept = perfkit(tmp_path, "--limit", "1", "-o", str(out), "--no-override")
    assert kept.returncode == 0
    assert "was kept. Use --override" in kept.stderr
    assert out.read_text() == "mine\n"
    assert perfkit(tmp_path, "--limit", "1", "-o", str(out), "--override").returncode == 0
    assert [prompt.id for prompt in read_prompts(out)] == ["p01-2k"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--variant", "3k"], "Use 2k, 4k."),
        (["-o", "p.txt"], "name it .jsonl or .json"),
        (["--model", "llama-3.1-8b"], "no model 'llama-3.1-8b' on this machine"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = perfkit(tmp_path, *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_model_without_a_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no tokenizer"):
        counter_of(tmp_path)
