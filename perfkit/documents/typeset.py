"""Evidence and the user's text -> one folder of typst sources -> PDF, and what typst says of it.

The folder needs nothing else to be compiled again: `typst compile main.typ`. Fonts are those in the
compiler, so that a document looks the same on every machine.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.documents.figures import DocFigure, pdf_of
from perfkit.errors import ConfigError
from perfkit.paths import find

TEXT_SUFFIXES = (".typ", ".bib", ".toml", ".svg", ".png", ".jpg", ".jpeg", ".pdf")
MAIN, DATA = "main.typ", "data.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Typeset:
    """A compiled document."""

    pdf: bytes
    body_pages: int
    """without references and what comes after them"""
    pages: int
    numbers: tuple[Mapping[str, Any], ...]
    """what the text took from runs, in order"""
    unknown: tuple[str, ...]
    """what the text asked for and no run has"""
    placed: tuple[str, ...]
    """ids of tables and figures that the text shows"""


def template(kind: str, name: str) -> Path:
    """analysis/KIND/NAME, the user's own analysis folder first."""
    found = find("analysis", f"{kind}/{name}")
    if found is None:
        raise ConfigError(f"analysis/{kind}/{name} is not there: is perfkit installed whole?")
    return found


def write_sources(
    folder: Path,
    kind: str,
    text: Path,
    data: Mapping[str, Any],
    figures: Mapping[str, DocFigure],
) -> None:
    """main.typ, evidence.typ, data.json, figures/ and the user's text/."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(template(kind, f"{kind}.typ"), folder / MAIN)
    shutil.copyfile(template("paper", "evidence.typ"), folder / "evidence.typ")
    (folder / DATA).write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for figure in figures.values():
        if figure.spec is not None:
            (folder / "figures" / f"{figure.id}.pdf").write_bytes(pdf_of(figure))
    (folder / "text").mkdir(exist_ok=True)
    for file in sorted(text.iterdir()):
        if file.is_file() and file.suffix in TEXT_SUFFIXES:
            shutil.copyfile(file, folder / "text" / file.name)


def compile_sources(folder: Path) -> Typeset:
    """ConfigError with typst's own message where the user's text cannot be set."""
    import typst

    compiler = typst.Compiler(str(folder / MAIN), root=str(folder), ignore_system_fonts=True)
    try:
        pdf = compiler.compile(format="pdf", timestamp=build_time())
        found = json.loads(compiler.query("<perfkit>", field="value"))
    except typst.TypstError as error:
        hints = "".join(f"\n  {hint}" for hint in error.hints)
        where = error.diagnostic.replace(str(folder), "").strip()
        raise ConfigError(f"typst cannot set the text: {where or error.message}{hints}") from error
    assert isinstance(pdf, bytes)
    pages = {one["what"]: one["count"] for one in found if one["kind"] == "pages"}
    return Typeset(
        pdf=pdf,
        body_pages=pages["body"],
        pages=pages["all"],
        numbers=tuple(one for one in found if one["kind"] == "number" and one["known"]),
        unknown=tuple(
            dict.fromkeys(
                one["query"] for one in found if one["kind"] == "number" and not one["known"]
            )
        ),
        placed=tuple(dict.fromkeys(one["id"] for one in found if one["kind"] == "placed")),
    )


def build_time() -> int:
    """SOURCE_DATE_EPOCH, else now: what the PDF says of its making."""
    named = os.environ.get("SOURCE_DATE_EPOCH")
    if named is None:
        return int(time.time())
    try:
        return int(named)
    except ValueError as error:
        raise ConfigError(f"SOURCE_DATE_EPOCH={named!r} is no number of seconds.") from error
