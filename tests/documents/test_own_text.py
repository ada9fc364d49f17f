"""The user's own text: started once, never overwritten, counted as forms count it."""

from pathlib import Path

import pytest
from document_parts import own_text

from perfkit.documents.settings import load_document
from perfkit.documents.text import read_text, too_long, typed_by_hand, words_of, write_starter
from perfkit.errors import ConfigError

TWO_SECTIONS = """title = "x"
[[sections]]
file = "introduction.typ"
title = "Introduction"
words = 5
"""


@pytest.mark.parametrize("kind", ["paper", "proposal"])
def test_the_starter_is_written_once(kind: str, tmp_path: Path) -> None:
    written = write_starter(kind, tmp_path / "mine", force=False)
    assert tmp_path / "mine" / f"{kind}.toml" in written
    assert read_text(kind, tmp_path / "mine").file.title.startswith("To be written")
    own = tmp_path / "mine" / written[0].name
    own.write_text("mine")
    with pytest.raises(ConfigError, match="already"):
        write_starter(kind, tmp_path / "mine", force=False)
    assert own.read_text() == "mine"


def test_a_folder_without_settings_says_how_to_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"perfkit paper --init {tmp_path}"):
        read_text("paper", tmp_path)


def test_words_are_counted_without_comments_commands_and_tables() -> None:
    text = """#import "/evidence.typ": *
// not this line
= Two words
One sentence of *five* words. /* nor this */ #table-of("T1", only: ("a", "b"))
It takes #measured("a b", "tpot") a token; see https://example.org/page @pope2022.
#todo[nor what is still to be written]
"""
    assert words_of(text) == 2 + 5 + 8


def test_a_section_over_its_limit_is_named(tmp_path: Path) -> None:
    text = own_text(
        tmp_path / "t", "paper", toml=TWO_SECTIONS, introduction="one two three four five"
    )
    assert too_long(read_text("paper", text)) == []
    (text / "introduction.typ").write_text("one two three four five six")
    assert too_long(read_text("paper", text)) == ["introduction.typ has 6 words, its limit is 5"]


def test_numbers_that_somebody_typed_are_found(tmp_path: Path) -> None:
    words = """// 5 ms in a comment
It takes 18.9 ms, #measured("a", "tpot"), 2.5 % more and 1,024 tokens/s on 2 GPUs.
#figure-of("F4", width: 78%)
"""
    text = own_text(tmp_path / "t", "paper", toml=TWO_SECTIONS, introduction=words)
    assert typed_by_hand(read_text("paper", text)) == [
        "introduction.typ:2: 18.9 ms",
        "introduction.typ:2: 2.5 %",
        "introduction.typ:2: 1,024 tokens/s",
    ]


def test_every_mistake_of_the_settings_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "proposal.toml"
    path.write_text(
        """title = "x"
subtitel = "y"
[[sections]]
file = "gone.typ"
title = "Gone"
[[request.phases]]
name = "a"
[[request.phases]]
name = "b"
hours_per_run = 1.0
"""
    )
    with pytest.raises(ConfigError) as told:
        load_document(path)
    assert "subtitel: not a key here. Did you mean subtitle or title?" in str(told.value)
    path.write_text(path.read_text().replace('subtitel = "y"\n', ""))
    with pytest.raises(ConfigError) as told:
        load_document(path)
    assert str(told.value).splitlines()[1:] == [
        f"  [[sections]] 1 file: there is no {tmp_path / 'gone.typ'}.",
        "  [request] phases[0]: give one of study, like and hours_per_run, found 0 of them.",
        "  [request] phases[1] nodes: is missing.",
    ]
