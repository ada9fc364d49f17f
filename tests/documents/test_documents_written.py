"""Papers and proposals from runs: nothing that is not recorded is printed as measured."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from document_parts import TP1, TP2, TRACES, a_paper, a_proposal, own_text, timed_run
from measured_run import a_run, edited

from perfkit.documents.content import content
from perfkit.documents.write import write
from perfkit.errors import ConfigError
from perfkit.schema import read_json

ONE_SECTION = """title = "{title}"
[[sections]]
file = "introduction.typ"
title = "Introduction"
"""
IMPORT = '#import "/evidence.typ": *\n'
needs_pdftotext = pytest.mark.skipif(
    shutil.which("pdftotext") is None, reason="pdftotext is not installed"
)


@pytest.fixture(autouse=True)
def one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")


def text_of(pdf: Path) -> str:
    """What a reader sees, with single spaces."""
    done = subprocess.run(
        ["pdftotext", "-layout", str(pdf), "-"], capture_output=True, text=True, check=True
    )
    return " ".join(done.stdout.replace("\N{NO-BREAK SPACE}", " ").split())


def test_no_run_at_all_is_a_document_too(tmp_path: Path) -> None:
    written = write(a_paper(tmp_path / "paper.pdf"))
    assert written.out.read_bytes().startswith(b"%PDF")
    ids = {one.id for one in written.missing}
    assert ids == {
        *("runs", "accuracy", "T1", "T2", "T3", "T7", "T10"),
        *("F1", "F2", "F3", "F4", "F5", "F6", "F7"),
    }
    assert all(one.get for one in written.missing)


@needs_pdftotext
def test_a_form_s_own_tables_are_not_given_rather_than_not_measured(tmp_path: Path) -> None:
    printed = text_of(write(a_proposal(tmp_path / "proposal.pdf")).out)
    assert "T12: Data management. not given: no dataset is given" in printed
    assert "T1: Scalability: typical test case. not measured: no two of the runs" in printed
    assert "perfkit submit STUDY --system SYSTEM" in printed


def test_an_empty_folder_and_a_broken_run_are_left_out_and_the_rest_is_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    good = a_run(tmp_path / "good")
    written = write(a_paper(tmp_path / "p.pdf", tmp_path / "empty", tmp_path / "broken", good))
    assert written.left_out[0].startswith(f"{tmp_path / 'empty'} has no run: neither a run.json")
    assert written.left_out[1].startswith("broken: cannot read ")
    assert [run.name for run in written.content.evidence.runs] == ["good"]


def test_a_failed_run_is_printed_with_its_state(tmp_path: Path) -> None:
    failed = edited(
        a_run(tmp_path / "half", gone=[0]),
        state="failed",
        failure={"rank": 0, "host": "node0", "reason": "exited with code 7"},
    )
    written = write(a_paper(tmp_path / "p.pdf", failed, a_run(tmp_path / "whole")))
    assert "half is failed" in written.warnings
    rows = {row[0].text: row for row in written.content.tables["runs"].rows}
    assert list(rows) == ["whole"]


def test_a_path_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        write(a_paper(tmp_path / "p.pdf", tmp_path / "nowhere"))


def test_the_same_runs_and_text_give_the_same_bytes(tmp_path: Path) -> None:
    run = timed_run(tmp_path / "run")
    for kind in (a_paper, a_proposal):
        digests = set()
        for attempt in ("first", "second"):
            written = write(kind(tmp_path / attempt / "document.pdf", run, force=True))
            content = written.out.read_bytes() + written.provenance.read_bytes()
            digests.add(hashlib.sha256(content).hexdigest())
        assert len(digests) == 1


def test_the_same_runs_give_the_same_latex_figures_and_sources(tmp_path: Path) -> None:
    runs = [TRACES / TP1, TRACES / TP2]
    found = []
    for attempt in ("first", "second"):
        folder = tmp_path / attempt
        write(a_paper(folder / "p.pdf", *runs, tex=folder / "tex", sources=folder / "src"))
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        found.append({str(file.relative_to(folder)): file.read_bytes() for file in files})
    assert found[0] == found[1]
    assert {"p.pdf", "p.provenance.json", "tex/tables/T2.tex", "tex/figures/F4.pdf"} <= set(
        found[0]
    )


def test_every_number_leads_to_its_run(tmp_path: Path) -> None:
    run = timed_run(tmp_path / "one")
    text = own_text(
        tmp_path / "text",
        "paper",
        toml=ONE_SECTION.format(title="x"),
        introduction=IMPORT + 'It takes #measured("one", "tpot") and #predicted("one", "tpot"); '
        '#ratio("one", "one", "ttft"). #measured("one", "nonesuch")',
    )
    written = write(a_paper(tmp_path / "p.pdf", run, text=text))
    record = read_json(written.provenance)
    assert record["runs"]["one"]["recorded_by"] == {"perfkit": "0.1.0", "commit": None}
    content = (run / "run.json").read_bytes()
    assert record["runs"]["one"]["run_json_sha256"] == hashlib.sha256(content).hexdigest()
    assert record["sha256"] == hashlib.sha256(written.out.read_bytes()).hexdigest()
    said = [(one["kind"], one["text"], one["runs"]) for one in record["sentences"]]
    assert said[0] == ("measured", "20.0 ms", ["one"])
    assert said[1][0] == "predicted"
    assert said[2] == ("measured", "1.00", ["one", "one"])
    assert record["sentences"][0]["query"] == "summary.tpot_s.median"
    assert "the text asks for 'measured one nonesuch': not measured" in written.warnings
    cells = {cell["column"]: cell for cell in record["tables"]["runs"]["cells"]}
    assert (cells["TTFT [ms]"]["text"], cells["TTFT [ms]"]["kind"]) == ("110", "measured")
    assert cells["tokens/s"]["runs"] == ["one"]


def test_predicted_and_measured_are_never_in_one_column(tmp_path: Path) -> None:
    made = content(a_proposal(tmp_path / "p.pdf", TRACES / TP1, TRACES / TP2))
    for table in made.tables.values():
        for row in table.rows:
            for head, cell in zip(table.heads, row, strict=True):
                if "predicted" in cell.query:
                    assert head.kind == "predicted", (table.id, head.title)
                if cell.query.startswith("summary."):
                    assert head.kind == "measured", (table.id, head.title)


@needs_pdftotext
def test_what_no_run_has_is_printed_as_not_measured(tmp_path: Path) -> None:
    text = own_text(
        tmp_path / "text",
        "paper",
        toml=ONE_SECTION.format(title="x"),
        introduction=IMPORT + 'It takes #measured("gone", "tpot") a token.',
    )
    written = write(a_paper(tmp_path / "p.pdf", a_run(tmp_path / "run"), text=text))
    assert "It takes not measured a token." in text_of(written.out)


@needs_pdftotext
def test_a_sentence_may_refer_to_a_table_that_no_run_fills(tmp_path: Path) -> None:
    text = own_text(
        tmp_path / "text",
        "paper",
        toml=ONE_SECTION.format(title="x"),
        introduction=IMPORT
        + 'See @strong and @speedup. #table-of("T2", name: "strong")'
        + '#figure-of("F1", name: "speedup")',
    )
    printed = text_of(write(a_paper(tmp_path / "p.pdf", text=text)).out)
    assert "See Table 1 and Figure 1." in printed
    assert "Table 1: Strong scaling: the same work on more GPUs." in printed
    assert "not measured: no two" in printed
    assert "not measured: no work" in printed


@needs_pdftotext
def test_names_stay_text(tmp_path: Path) -> None:
    evil = '#panic("x") $y$ *b* <l> @z'
    run = a_run(tmp_path / "run", model_id=evil)
    text = own_text(
        tmp_path / "text",
        "paper",
        toml=ONE_SECTION.format(title='#sys.version "$x'.replace('"', '\\"')),
        introduction=IMPORT + '#table-of("runs")',
    )
    printed = text_of(write(a_paper(tmp_path / "p.pdf", run, text=text)).out)
    assert '#sys.version "$x' in printed
    assert "#panic" in printed


def test_a_mistake_in_the_text_names_its_file_and_line(tmp_path: Path) -> None:
    text = own_text(
        tmp_path / "text",
        "paper",
        toml=ONE_SECTION.format(title="x"),
        introduction=IMPORT + "\nfine\n#nonesuch()\n",
    )
    with pytest.raises(ConfigError, match=r"unknown variable: nonesuch(.|\n)*introduction.typ:4"):
        write(a_paper(tmp_path / "p.pdf", text=text))
    assert not (tmp_path / "p.pdf").exists()


def test_nothing_is_replaced_without_force(tmp_path: Path) -> None:
    out = tmp_path / "p.pdf"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        write(a_paper(out))
    assert out.read_text() == "mine"


def test_sources_are_whole(tmp_path: Path) -> None:
    import typst

    run = timed_run(tmp_path / "run")
    written = write(a_paper(tmp_path / "p.pdf", run, sources=tmp_path / "sources"))
    again = typst.compile(
        str(tmp_path / "sources" / "main.typ"), ignore_system_fonts=True, timestamp=1790000000
    )
    assert again == written.out.read_bytes()


def perfkit(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "perfkit", *map(str, arguments)],
        cwd=cwd,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_too_many_pages_are_a_check_that_fails_with_the_document_there(tmp_path: Path) -> None:
    pages = IMPORT + "#pagebreak()\n" * 2 + "the end"
    own_text(tmp_path / "text", "paper", toml=ONE_SECTION.format(title="x"), introduction=pages)
    words: list[Any] = ["paper", "--text", "text", "-o", "p.pdf"]
    done = perfkit(*words, "--pages", "2", cwd=tmp_path)
    assert done.returncode == 3
    assert "p.pdf has 3 pages before the references, limit 2" in done.stderr
    assert (tmp_path / "p.pdf").is_file()
    enough = perfkit(*words, "--pages", "3", "--force", cwd=tmp_path)
    assert (enough.returncode, enough.stdout) == (0, "p.pdf\n")


def test_a_proposal_wants_a_system(tmp_path: Path) -> None:
    done = perfkit("proposal", "-o", "p.pdf", cwd=tmp_path)
    assert done.returncode == 2
    assert "--system leonardo" in done.stderr


def test_a_snapshot_fills_the_burn_down(tmp_path: Path) -> None:
    snapshot = TRACES.parent / "tests" / "data" / "allocation" / "snapshot-22.05.json"
    made = content(a_proposal(tmp_path / "p.pdf", snapshot=snapshot))
    (row,) = made.tables["T13"].rows
    assert (row[0].text, row[2].text, row[2].runs) == (
        "2026-11",
        "0.0356",
        ("allocation snapshot",),
    )
    final = {row[0].text: row[1].text for row in made.tables["T14"].rows}
    assert (final["jobs that started"], final["energy [kWh]"]) == ("3", "-")
    assert made.figures["F9"].spec is not None


def test_the_request_is_in_the_record(tmp_path: Path) -> None:
    from document_parts import own_text as text_of_folder

    text = text_of_folder(tmp_path / "text", "proposal")
    toml = (text / "proposal.toml").read_text()
    phases = '[[request.phases]]\nname = "a"\nnodes = 2\nhours_per_run = 3.0\nruns = 5\n'
    (text / "proposal.toml").write_text(toml.replace("phases = []\n", phases))
    written = write(a_proposal(tmp_path / "p.pdf", text=text, reserve=0.2))
    request = json.loads(written.provenance.read_text())["request"]
    assert (request["node_hours"], request["local"], request["unit"]) == (
        "36.0",
        1152.0,
        "local core-hours",
    )
