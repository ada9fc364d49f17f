"""Every table of a document, from recorded runs, beside a golden file."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from document_parts import TRACES, a_proposal

from perfkit.documents.content import content
from perfkit.documents.latex import fragment
from perfkit.documents.tables import DocTable

GOLDEN = Path(__file__).parent / "golden"
ACCEPT = "PERFKIT_ACCEPT_GOLDEN"
SAMPLE = TRACES.parent / "analysis" / "proposal" / "leonardo"
SNAPSHOT = TRACES.parent / "tests" / "data" / "allocation" / "snapshot-22.05.json"
RUNS = (
    "h200-8b-tp1-graph",
    "h200-8b-tp2-graph",
    "h200-8b-pp2-m2-graph",
    "h200-70b-tp2-graph",
    "h100-8b-int8",
)
GRANTED = """
[allocation]
granted = 1000
start = "2026-11-01"
end = "2027-01-31"

[final_report]
grid_g_co2_per_kwh = 250
grid_source = "a test"
deviations = "none"
"""
TABLES = (
    *("runs", "accuracy", "T1", "T2", "T3", "T4", "T5", "T6", "T7", "T8", "T9", "T10", "T11"),
    *("T11-risks", "T12", "T13", "T14"),
)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, DocTable]:
    folder = tmp_path_factory.mktemp("golden")
    text = folder / "text"
    text.mkdir()
    for file in SAMPLE.iterdir():
        (text / file.name).write_bytes(file.read_bytes())
    with (text / "proposal.toml").open("a") as settings:
        settings.write(GRANTED)
    runs = [TRACES / name for name in RUNS]
    return content(a_proposal(folder / "p.pdf", *runs, text=text, snapshot=SNAPSHOT)).tables


def test_there_is_a_golden_file_of_each_table(tables: Mapping[str, DocTable]) -> None:
    assert tuple(tables) == TABLES


@pytest.mark.parametrize("name", TABLES)
def test_the_table_is_the_golden_one(name: str, tables: Mapping[str, DocTable]) -> None:
    text, golden = fragment(tables[name]), GOLDEN / f"{name}.tex"
    if os.environ.get(ACCEPT):
        golden.write_text(text)
    assert golden.is_file(), f"no {golden}. Write it: {ACCEPT}=1 pytest {__file__}"
    assert text == golden.read_text(), (
        f"{golden} differs. Read the difference; accept it with: {ACCEPT}=1 pytest {__file__}"
    )


def test_no_table_of_the_sample_is_empty(tables: Mapping[str, DocTable]) -> None:
    assert [table.id for table in tables.values() if table.missing] == []
