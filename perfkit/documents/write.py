"""Runs and the user's text -> a paper or a proposal: PDF, provenance.json, and what LaTeX needs."""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.documents.content import Content, Wanted, content, shown, template_data
from perfkit.documents.figures import DocFigure, require_libraries
from perfkit.documents.latex import write_tex
from perfkit.documents.provenance import provenance
from perfkit.documents.request import as_data as request_data
from perfkit.documents.request import check_limits
from perfkit.documents.tables import DocTable
from perfkit.documents.text import OwnText, too_long, typed_by_hand
from perfkit.documents.typeset import Typeset, compile_sources, write_sources
from perfkit.errors import ConfigError
from perfkit.files import check_free
from perfkit.schema import write_json

PROVENANCE = "provenance.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A document and what a reader should know of it."""

    out: Path
    provenance: Path
    pages: int
    body_pages: int
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]
    missing: tuple[DocTable | DocFigure, ...]
    too_long: tuple[str, ...]
    """checks that do not hold: pages, words"""
    content: Content


def write(wanted: Wanted) -> Written:
    """The document, its provenance beside it, and whatever else was asked for."""
    require_libraries()
    beside = wanted.out.with_name(f"{wanted.out.stem}.{PROVENANCE}")
    for path in (wanted.out, beside, wanted.tex, wanted.sources):
        check_free(path, force=wanted.force)
    made = content(wanted)
    with tempfile.TemporaryDirectory(prefix="perfkit-") as temporary:
        sources = Path(temporary).resolve()
        write_sources(
            sources, wanted.kind, made.text.folder, template_data(wanted.kind, made), made.figures
        )
        typeset = compile_sources(sources)
        if wanted.sources:
            shutil.copytree(sources, wanted.sources, dirs_exist_ok=True)
        if wanted.tex:
            write_tex(wanted.tex, made.tables, sources / "figures")
    save(wanted.out, typeset.pdf)
    write_json(beside, record(wanted, made, typeset))
    return Written(
        out=wanted.out,
        provenance=beside,
        pages=typeset.pages,
        body_pages=typeset.body_pages,
        left_out=made.evidence.left_out,
        warnings=tuple(warnings_of(made, typeset)),
        missing=tuple(one for one in shown(wanted.kind, made) if one.missing),
        too_long=tuple(limits(wanted, made.text, typeset)),
        content=made,
    )


def save(path: Path, content: bytes) -> None:
    """A file that a person named; ConfigError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}. Give a file you may write to with -o.",
        ) from error


def record(wanted: Wanted, made: Content, typeset: Typeset) -> dict[str, Any]:
    """provenance.json."""
    return provenance(
        wanted.out.name,
        typeset,
        made.evidence,
        made.tables,
        made.figures,
        made.values,
        appendix=made.text.file.appendix,
        more={
            "request": request_data(made.computed) if made.computed else None,
            "allocation_snapshot": file_record(wanted.snapshot) if wanted.snapshot else None,
            "frozen": [file_record(path) for path in wanted.frozen],
            "typed_by_hand": typed_by_hand(made.text),
            "source_date_epoch": os.environ.get("SOURCE_DATE_EPOCH"),
        },
    )


def file_record(path: Path) -> dict[str, str]:
    """Which file it was."""
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def warnings_of(made: Content, typeset: Typeset) -> list[str]:
    """What a reader of the document would otherwise find out alone."""
    found = [
        f"{run.name} is {run.record.get('state')}" for run in made.evidence.runs if not run.finished
    ]
    found += [f"the text asks for {query!r}: not measured" for query in typeset.unknown]
    found += [f"typed by hand, no run stands behind it: {one}" for one in typed_by_hand(made.text)]
    if made.computed is not None:
        found += [*made.computed.notes, *check_limits(made.computed)]
    if made.text.starter:
        found.append("the text is the starter's: write your own with --init FOLDER")
    return found


def limits(wanted: Wanted, text: OwnText, typeset: Typeset) -> list[str]:
    """Pages and words above what was asked for."""
    most = wanted.pages or text.file.pages
    found = []
    if most and typeset.body_pages > most:
        found.append(
            f"{wanted.out} has {typeset.body_pages} pages before the references, limit {most}"
        )
    return [*found, *too_long(text)]
