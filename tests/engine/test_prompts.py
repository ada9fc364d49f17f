"""The shipped prompts, contexts of exact length made from them, and a user's own prompt files."""

import json
import re
import zlib
from pathlib import Path

import pytest

from perfkit.engine.prompts import Prompt, compose, fit_token_ids, read_prompts, shipped_prompts
from perfkit.errors import ConfigError

LENGTHS = [16, 64, 256, 2048, 4096]
THREE = [
    {"id": "a", "title": "A", "passage": "alpha one two", "question": "Why alpha?"},
    {"id": "b", "title": "B", "passage": "beta one two", "question": "Why beta?"},
    {"id": "c", "title": "C", "passage": "gamma one two", "question": "Why gamma?"},
]


def words(text: str) -> list[int]:
    """A toy tokenizer: one id a word, the same in every process."""
    return [zlib.crc32(word.encode()) for word in text.split()]


def count(text: str) -> int:
    return len(words(text))


def a_file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# The shipped prompts


def test_there_are_twenty_prompts_with_ids_in_order() -> None:
    assert [prompt["id"] for prompt in shipped_prompts()] == [f"p{n:02d}" for n in range(1, 21)]


def test_titles_openings_and_questions_are_all_different() -> None:
    prompts = shipped_prompts()
    assert len({prompt["title"] for prompt in prompts}) == 20
    assert len({prompt["passage"].split()[0] for prompt in prompts}) == 20
    assert len({prompt["question"] for prompt in prompts}) == 20


@pytest.mark.parametrize("index", range(20))
def test_a_shipped_prompt_is_ascii_of_the_promised_size(index: int) -> None:
    prompt = shipped_prompts()[index]
    assert "".join(prompt.values()).isascii()
    assert 230 <= len(prompt["passage"].split()) <= 280
    assert prompt["question"].endswith("?")
    assert len(prompt["question"].split()) <= 10


def test_no_six_words_in_a_row_occur_in_two_passages() -> None:
    seen: dict[tuple[str, ...], str] = {}
    for prompt in shipped_prompts():
        found = re.findall(r"[a-z0-9']+", prompt["passage"].lower())
        for start in range(len(found) - 5):
            run = tuple(found[start : start + 6])
            assert seen.setdefault(run, prompt["id"]) == prompt["id"], run


def test_a_users_folder_comes_before_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_file(tmp_path, "prompts.jsonl", "".join(json.dumps(row) + "\n" for row in THREE))
    monkeypatch.setenv("PERFKIT_ANALYSIS_DIR", str(tmp_path))
    assert shipped_prompts() == THREE


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('["a"]', r"line 1 is a list\. Write an object with id, title, passage, question"),
        ('{"id": "a", "title": "A", "passage": "x"}', r'line 1: "question" is null or missing'),
        ("", "holds no prompts"),
    ],
)
def test_a_users_passages_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str
) -> None:
    a_file(tmp_path, "prompts.jsonl", line + "\n")
    monkeypatch.setenv("PERFKIT_ANALYSIS_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        shipped_prompts()


def test_missing_shipped_prompts_say_how_to_point_at_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perfkit.paths.find", lambda *_: None)
    with pytest.raises(ConfigError, match="PERFKIT_ANALYSIS_DIR"):
        shipped_prompts()


# Text of one prompt


def test_without_a_length_a_prompt_is_its_passage_and_question() -> None:
    text = compose(THREE, 1, num_tokens=None, count=count)
    assert text == "beta one two\n\nQuestion: Why beta?\nAnswer:"


def test_background_starts_after_the_prompts_own_passage_and_goes_round() -> None:
    # Own text 7 words, each document 6: three documents are the fewest that reach 20.
    assert compose(THREE, 1, num_tokens=20, count=count) == (
        "Document 1: C\ngamma one two\n\n"
        "Document 2: A\nalpha one two\n\n"
        "Document 3: C\ngamma one two\n\n"
        "beta one two\n\nQuestion: Why beta?\nAnswer:"
    )


def test_background_stops_as_soon_as_the_length_is_reached() -> None:
    assert "Document" not in compose(THREE, 0, num_tokens=7, count=count)
    assert compose(THREE, 0, num_tokens=8, count=count).count("Document") == 1
    assert compose(THREE, 0, num_tokens=13, count=count).count("Document") == 1
    assert compose(THREE, 0, num_tokens=14, count=count).count("Document") == 2


def test_a_4k_context_repeats_no_passage() -> None:
    prompts = shipped_prompts()
    text = compose(prompts, 7, num_tokens=4096, count=count)
    assert all(text.count(prompt["passage"]) == 1 for prompt in prompts[7:])


# Token ids of one prompt


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_ids_have_exactly_the_length_asked_for(num_tokens: int) -> None:
    prompts = shipped_prompts()
    for index in range(20):
        assert len(fit_token_ids(words, prompts, index, num_tokens)) == num_tokens


@pytest.mark.parametrize("num_tokens", [*LENGTHS, None])
def test_the_question_is_always_whole_and_last(num_tokens: int | None) -> None:
    prompts = shipped_prompts()
    for index, prompt in enumerate(prompts):
        question = words(f"Question: {prompt['question']}\nAnswer:")
        assert fit_token_ids(words, prompts, index, num_tokens)[-len(question) :] == question


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_ids_are_the_end_of_the_composed_text(num_tokens: int) -> None:
    prompts = shipped_prompts()
    text = compose(prompts, 3, num_tokens=num_tokens, count=count)
    assert fit_token_ids(words, prompts, 3, num_tokens) == words(text)[-num_tokens:]


def test_without_a_length_ids_are_the_passage_and_question() -> None:
    assert fit_token_ids(words, THREE, 0, None) == words(
        "alpha one two Question: Why alpha? Answer:"
    )


def test_a_short_context_drops_the_front_of_the_passage() -> None:
    assert fit_token_ids(words, THREE, 0, 5) == words("two Question: Why alpha? Answer:")
    assert fit_token_ids(words, THREE, 0, 4) == words("Question: Why alpha? Answer:")


def test_a_long_context_drops_the_front_of_the_first_document() -> None:
    assert fit_token_ids(words, THREE, 0, 9) == words(
        "one two alpha one two Question: Why alpha? Answer:"
    )


def test_ids_are_the_same_every_time_and_differ_between_prompts() -> None:
    prompts = shipped_prompts()
    first, again = ([fit_token_ids(words, prompts, i, 64) for i in range(20)] for _ in range(2))
    assert first == again
    assert len({tuple(ids) for ids in first}) == 20


def test_pieces_are_tokenised_apart_so_lengths_add_up() -> None:
    # A tokenizer of characters that merges line ends would lose tokens over a border.
    def merging(text: str) -> list[int]:
        return [ord(letter) for letter in re.sub(r"\s+", " ", text)]

    for num_tokens in (200, 1000, 5000):
        assert len(fit_token_ids(merging, THREE, 0, num_tokens)) == num_tokens


@pytest.mark.parametrize("num_tokens", [3, 0, -1])
def test_a_question_that_does_not_fit_is_refused(num_tokens: int) -> None:
    with pytest.raises(ConfigError, match=f"has 4 tokens, --prompt-tokens is {num_tokens}"):
        fit_token_ids(words, THREE, 0, num_tokens)


def test_one_passage_cannot_fill_a_context() -> None:
    with pytest.raises(ConfigError, match="93 tokens short"):
        fit_token_ids(words, THREE[:1], 0, 100)
    assert len(fit_token_ids(words, THREE[:1], 0, 7)) == 7


# A user's file


def test_a_text_file_holds_one_prompt_a_line(tmp_path: Path) -> None:
    path = a_file(tmp_path, "mine.txt", "Say hello.\r\n\n  Say goodbye.\n")
    assert read_prompts(path) == [
        Prompt("prompt-1", "Say hello."),
        Prompt("prompt-3", "Say goodbye."),
    ]


def test_json_lines_take_text_or_prompt_and_an_optional_id(tmp_path: Path) -> None:
    text = '\ufeff{"text": "One."}\n{"prompt": "Two.", "id": 7}\n{"text": "A\u2028B", "id": null}\n'
    assert read_prompts(a_file(tmp_path, "mine.jsonl", text)) == [
        Prompt("prompt-1", "One."),
        Prompt("7", "Two."),
        Prompt("prompt-3", "A\u2028B"),
    ]


def test_a_json_list_holds_strings_or_objects(tmp_path: Path) -> None:
    path = a_file(tmp_path, "mine.JSON", '["One.",\n {"id": "b", "prompt": "Two."}]')
    assert read_prompts(path) == [Prompt("prompt-1", "One."), Prompt("b", "Two.")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine.txt", " \n\n", r"mine\.txt holds no prompts\. Write at least one"),
        ("mine.jsonl", "", r"mine\.jsonl holds no prompts"),
        ("mine.json", "", r"mine\.json holds no prompts"),
        ("mine.json", "[]", r"mine\.json holds no prompts"),
        ("mine.csv", "a,b", r"mine\.csv is not named \.txt, \.jsonl or \.json"),
        (
            "mine.jsonl",
            '{"text": "One."}\n{"text": \n',
            r"mine\.jsonl line 2 is not JSON: .* at column \d+, found '\{\"text\":'\. Write one",
        ),
        ("mine.jsonl", "{" + "x" * 99, r"found '\{x{36}\.\.\.'"),
        ("mine.json", '["One.",\n oops]', r"mine\.json line 2 is not JSON: .* at column 2"),
        ("mine.json", '{"text": "One."}', r"mine\.json holds an object, not a list"),
        ("mine.jsonl", '{"txt": "x", "id": 1}', r"line 1 has neither .* \(keys found: id, txt\)"),
        ("mine.json", '["One.", {}]', r"entry 2 has neither .* \(keys found: none\)"),
        ("mine.json", "[3]", r"entry 1 is a number\. Write a string, or an object"),
        ("mine.jsonl", '{"text": ["x"]}', r'line 1: "text" is a list\. Write some text'),
        ("mine.jsonl", '{"prompt": " "}', r'line 1: "prompt" is an empty string'),
        ("mine.jsonl", '{"text": null}', r'line 1: "text" is null or missing'),
        ("mine.json", "[true]", r"entry 1 is a boolean"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_place(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_prompts(a_file(tmp_path, name, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.txt does not exist\. Check the path"):
        read_prompts(tmp_path / "none.txt")


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError, match=r"latin\.txt is not UTF-8 text: .* Save it as UTF-8"):
        read_prompts(tmp_path / "latin.txt")


def test_a_folder_is_not_a_file_of_prompts(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.txt cannot be read: Is a directory"):
        read_prompts(tmp_path / "folder.txt")
