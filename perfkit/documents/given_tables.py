"""Tables of the user's own words: T9 storage, T11 work packages and risks, T12 data management."""

from collections.abc import Sequence
from pathlib import Path

from perfkit.documents.evidence import Evidence
from perfkit.documents.settings import Dataset, Package, Risk, Storage
from perfkit.documents.tables import (
    NOT_GIVEN,
    Cell,
    DocTable,
    absent,
    left,
    number,
    right,
    without_empty_columns,
    word,
)

GB = 1e-9


def storage_table(storage: Sequence[Storage], evidence: Evidence) -> DocTable:
    """T9: what is asked for, and what the run folders took so far."""
    caption = "Storage and I/O"
    rows: list[tuple[Cell, ...]] = [
        (
            word(one.what),
            word(one.place),
            number(one.size_gb),
            number(one.files),
            number(one.transfer_gb),
            word(one.retention),
        )
        for one in storage
    ]
    if evidence.runs:
        rows.append(_run_folders(evidence))
    if not rows:
        return absent("T9", caption, "nothing is given", "[[storage]] in proposal.toml", NOT_GIVEN)
    heads = (
        left("what"),
        left("place"),
        right("size [GB]"),
        right("files"),
        right("transfer [GB]"),
        left("retention"),
    )
    table = DocTable(id="T9", caption=caption, heads=heads, rows=tuple(rows))
    return without_empty_columns(table, keep=("size [GB]", "files"))


def _run_folders(evidence: Evidence) -> tuple[Cell, ...]:
    files = [file for run in evidence.runs for file in recorded_files(run.path)]
    size, names = sum(file.stat().st_size for file in files), [run.name for run in evidence.runs]
    measured = number(size, *names, scale=GB, query="bytes of all files of the run folders")
    count = number(len(files), *names, query="files of the run folders")
    return (
        word(f"{len(names)} run folders of this document (measured)"),
        word("run folders"),
        Cell(text=measured.text, runs=measured.runs, query=measured.query, kind="measured"),
        Cell(text=count.text, runs=count.runs, query=count.query, kind="measured"),
        Cell(),
        Cell(),
    )


def recorded_files(run: Path) -> list[Path]:
    """Without tables/, which `perfkit analyze` can make again."""
    files = [file for file in run.rglob("*") if file.is_file()]
    return [file for file in files if "tables" not in file.relative_to(run).parts]


def packages_table(packages: Sequence[Package]) -> DocTable:
    """T11: the work plan; F8 draws it."""
    caption = "Work packages and milestones"
    if not packages:
        return absent(
            "T11", caption, "none is given", "[[work_packages]] in proposal.toml", NOT_GIVEN
        )
    heads = (left("id"), left("work package"), left("months"), left("milestone at its end"))
    rows = tuple(
        (
            word(one.id),
            word(one.title),
            word(f"M{one.start_month}-M{one.end_month}"),
            word(one.milestone),
        )
        for one in packages
    )
    return DocTable(id="T11", caption=caption, heads=heads, rows=rows)


def risks_table(risks: Sequence[Risk]) -> DocTable:
    """T11, second part."""
    caption = "Risks"
    if not risks:
        return absent(
            "T11-risks", caption, "none is given", "[[risks]] in proposal.toml", NOT_GIVEN
        )
    heads = (left("risk"), left("probability"), left("impact"), left("mitigation"))
    rows = tuple(
        (word(one.risk), word(one.probability), word(one.impact), word(one.mitigation))
        for one in risks
    )
    return DocTable(id="T11-risks", caption=caption, heads=heads, rows=rows)


def data_table(datasets: Sequence[Dataset]) -> DocTable:
    """T12: FAIR."""
    caption = "Data management"
    if not datasets:
        return absent(
            "T12", caption, "no dataset is given", "[[datasets]] in proposal.toml", NOT_GIVEN
        )
    heads = (
        left("dataset"),
        left("licence"),
        right("size [GB]"),
        left("repository"),
        left("DOI"),
        left("format"),
        left("personal data"),
    )
    rows = tuple(
        (
            word(one.name),
            word(one.licence),
            number(one.size_gb),
            word(one.repository),
            word(one.doi),
            word(one.format),
            word("yes" if one.personal_data else "no"),
        )
        for one in datasets
    )
    return DocTable(id="T12", caption=caption, heads=heads, rows=rows)
