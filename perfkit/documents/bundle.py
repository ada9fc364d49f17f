"""One archive for a DOI: the paper's sources, the runs' tables, how to do it again, on what.

What goes in is an allow-list. Everything but the user's own text is cleaned of secrets, home
folders, paths and names of hosts; an archive in which something still looks like a secret is not
written. The same runs and text give the same bytes.
"""

import gzip
import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from perfkit.documents.anonymous import aliases, anonymous, of_nobody
from perfkit.documents.artifact import description
from perfkit.documents.content import Content, Wanted
from perfkit.documents.evidence import Run
from perfkit.documents.pages import artifact_page, reproduce, system_page
from perfkit.documents.settings import Artifact
from perfkit.documents.write import Written, save, write
from perfkit.errors import CheckFailed
from perfkit.files import check_free
from perfkit.publish.clean import clean, own_secrets
from perfkit.publish.scrub import scrub, secrets_in
from perfkit.schema import read_json, write_json

TABLES = ("measures", "summary", "split", "operations", "collectives", "stragglers", "quality")
COLLECTED = ("collectors", "gpus", "nccl", "resources")
CLEANED = (".csv", ".json", ".md", ".tex")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What was packed."""

    path: Path
    files: int
    num_bytes: int
    paper: Written


def bundle(wanted: Wanted, out: Path) -> Bundle:
    """Write the archive; `wanted` is the paper in it. CheckFailed when a secret would be in it."""
    check_free(out, force=wanted.force)
    with tempfile.TemporaryDirectory(prefix="perfkit-") as temporary:
        root = Path(temporary).resolve() / "bundle"
        paper = write(_inside(wanted, root))
        for run in paper.content.evidence.runs:
            write_tables(run, root / "runs" / run.name)
        for name, text in pages_of(paper.content).items():
            (root / name).write_text(text, encoding="utf-8")
        clean_all(root, aliases(paper.content.evidence))
        refuse_secrets(root)
        (root / "SHA256SUMS").write_text("".join(sums(root)), encoding="utf-8")
        content = packed(root, root.name)
        files = sum(1 for file in root.rglob("*") if file.is_file())
    save(out, content)
    return Bundle(path=out, files=files, num_bytes=len(content), paper=paper)


def _inside(wanted: Wanted, root: Path) -> Wanted:
    """The same paper, its PDF, sources and LaTeX in the archive's folder."""
    folder = root / "paper"
    return replace(
        wanted, out=folder / "paper.pdf", sources=folder, tex=folder / "latex", force=True
    )


def pages_of(made: Content) -> dict[str, str]:
    """What a reader opens first."""
    fields = description(made.evidence, made.text.file.artifact or Artifact(), "paper")
    return {
        "reproduce.md": reproduce(made.evidence, made.tables, made.figures),
        "SYSTEM.md": system_page(made.evidence),
        "ARTIFACT.md": artifact_page(fields),
    }


def write_tables(run: Run, folder: Path) -> None:
    """run.json, and the analysis' tables as CSV: text is read in ten years, too."""
    folder.mkdir(parents=True, exist_ok=True)
    scrub(run.path / "run.json", folder / "run.json")
    write_json(folder / "run.json", of_nobody(read_json(folder / "run.json")))
    analysis = run.findings.analysis
    frames = {name: getattr(analysis, name) for name in TABLES}
    frames |= {name: getattr(analysis.collected, name) for name in COLLECTED}
    frames["predicted_and_measured"] = run.findings.headline
    for name, frame in frames.items():
        if not frame.is_empty():
            flat(frame).write_csv(folder / f"{name}.csv")


def clean_all(root: Path, hosts: Mapping[str, str]) -> None:
    """Every text that perfkit wrote; typst sources and the user's own text stay as they are."""
    own = own_secrets()
    for file in sorted(root.rglob("*")):
        if file.suffix in CLEANED and "text" not in file.relative_to(root).parts:
            text = file.read_text(encoding="utf-8")
            file.write_text(anonymous(clean(text, own), hosts), encoding="utf-8")


def refuse_secrets(root: Path) -> None:
    if left := sorted(str(file.relative_to(root)) for file in secrets_in(root)):
        raise CheckFailed(
            f"{left[0]} would hold what looks like a secret or a process's environment: "
            "no archive was written. Take it out of the text or the run.",
        )


def flat(frame: pl.DataFrame) -> pl.DataFrame:
    """CSV has no lists: their values with spaces between them."""
    return frame.with_columns(
        pl.col(name).cast(pl.List(pl.String)).list.join(" ")
        for name, dtype in frame.schema.items()
        if isinstance(dtype, pl.List)
    )


def sums(root: Path) -> Iterator[str]:
    """As sha256sum prints them."""
    for file in sorted(root.rglob("*")):
        if file.is_file():
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            yield f"{digest}  {file.relative_to(root)}\n"


def packed(root: Path, name: str) -> bytes:
    """tar.gz with nothing in it of the machine or the hour: names in order, no owner, one time."""
    time = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(f"{name}/{file.relative_to(root)}")
            entry.size, entry.mtime, entry.mode = file.stat().st_size, time, 0o644
            archive.addfile(entry, io.BytesIO(file.read_bytes()))
    return gzip.compress(buffer.getvalue(), mtime=0)
