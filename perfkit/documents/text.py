"""The user's own text: a folder with paper.toml or proposal.toml and a .typ file a section.

perfkit writes a commented starter once, and then only reads it.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perfkit.documents.settings import DocumentFile, load_document
from perfkit.documents.typeset import template
from perfkit.errors import ConfigError

COMMENT = re.compile(r"/\*.*?\*/|(?<![:\w])//[^\n]*", re.DOTALL)
IMPORT = re.compile(r"^#(?:import|include|set|show|let)\b[^\n]*$", re.MULTILINE)
# One number that a run gives is one word.
NUMBER = re.compile(r"#(?:measured|predicted|ratio|score|frozen-score|asked)\([^()]*\)")
PLACED = re.compile(r"#(?:table-of|figure-of|cite)\((?:[^()]|\([^()]*\))*\)")
TODO = re.compile(r"#todo\[(?:[^\[\]\\]|\\.)*\]", re.DOTALL)
# A measurement that somebody typed: 18.9 ms, 37 tokens/s, 2.5 %.
TYPED = re.compile(
    r"(?<![\w.#-])\d[\d,]*(?:\.\d+)?\s?(?:ms|us|s|%|GiB|GB|tokens/s|GB/s|TFLOP/s|kWh|x)(?![\w/])"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnText:
    """A folder of text."""

    folder: Path
    file: DocumentFile
    starter: bool
    """True: the shipped one, nobody's text yet"""


def read_text(kind: str, folder: Path | None) -> OwnText:
    """The user's folder, or the shipped starter where none is given."""
    where = folder or template(kind, "starter")
    path = where / f"{kind}.toml"
    if not path.is_file():
        raise ConfigError(
            f"{where} has no {kind}.toml. Write a commented starter with: "
            f"perfkit {kind} --init {where}",
        )
    return OwnText(folder=where, file=load_document(path), starter=folder is None)


def write_starter(kind: str, folder: Path, *, force: bool) -> list[Path]:
    """The commented starter as files of the user's own; never over others unless told."""
    shipped = sorted(file for file in template(kind, "starter").iterdir() if file.is_file())
    there = [file.name for file in shipped if (folder / file.name).exists()]
    if there and not force:
        raise ConfigError(
            f"{folder} has {', '.join(there)} already. Give another folder, or --force to replace "
            "them with the starter.",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [Path(shutil.copyfile(file, folder / file.name)) for file in shipped]
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}.") from error


def words_of(text: str) -> int:
    """Words of a section as a form counts them: without comments, commands, tables and figures."""
    for pattern, instead in (
        (COMMENT, " "),
        (IMPORT, " "),
        (TODO, " "),
        (PLACED, " "),
        (NUMBER, " 1 "),
    ):
        text = pattern.sub(instead, text)
    return sum(1 for word in text.split() if any(letter.isalnum() for letter in word))


def too_long(text: OwnText) -> list[str]:
    """The sections with more words than their form takes."""
    found = []
    for section in text.file.texts:
        words = words_of((text.folder / section.file).read_text(encoding="utf-8"))
        if section.words and words > section.words:
            found.append(f"{section.file} has {words} words, its limit is {section.words}")
    return found


def typed_by_hand(text: OwnText) -> list[str]:
    """Numbers with a unit that no run stands behind: file, line and number."""
    found: list[str] = []
    for section in text.file.texts:
        content = (text.folder / section.file).read_text(encoding="utf-8")
        found += _typed(section.file, COMMENT.sub(_blank, content).splitlines())
    return found


def _blank(matched: re.Match[str]) -> str:
    """The same number of lines."""
    return "\n" * matched[0].count("\n")


def _typed(name: str, lines: Sequence[str]) -> list[str]:
    return [
        f"{name}:{number}: {typed}"
        for number, line in enumerate(lines, start=1)
        for typed in TYPED.findall(PLACED.sub("", NUMBER.sub("", line)))
    ]
