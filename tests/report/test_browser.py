"""The page in a real Chromium: nothing is logged or fetched, and it works by mouse and by keys."""

import gzip
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Page, a_page, needs_chromium
from measured_run import a_run, edited
from study_folder import a_half_done_study, a_point
from test_html import EVIL, KINETO, a_traced_run

from perfkit.report.given import given
from perfkit.report.written import html
from perfkit.schema import RunFolder, read_json, write_json

pytestmark = needs_chromium
TRACES = Path(__file__).parents[2] / "traces"
GRAPH, TP2 = TRACES / "h200-8b-tp1-graph", TRACES / "h200-8b-tp2-eager"
PERF = Path(__file__).parents[1] / "data" / "perf"
TAB, ENTER = ("Tab", 9), ("Enter", 13, "\r")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERFKIT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One browser for all tests; each opens a page of its own in it."""
    with a_page(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Recorded runs as pages: two ranks, and two runs side by side."""
    folder = tmp_path_factory.mktemp("pages")
    return {
        "one": written(folder / "one.html", TP2),
        "two": written(folder / "two.html", GRAPH, TP2),
    }


def written(file: Path, *runs: Path) -> Path:
    file.write_bytes(html(given(runs)))
    return file


def opened(page: Page, file: Path, width: int = 1200, *, dark: bool = False) -> int:
    """The number of charts drawn; nothing is logged or fetched meanwhile, ever."""
    page.said.clear()
    page.requests.clear()
    page.look(width, dark=dark)
    charts = page.open(file)
    assert page.said == []
    assert page.fetched(file) == []
    return charts


def column(page: Page, table: str, number: int) -> list[str]:
    """The cells of a column that are shown, from the top."""
    rows = f"Array.from(document.querySelectorAll('#{table} tbody tr')).filter((r) => !r.hidden)"
    cells: list[str] = page.run(f"{rows}.map((r) => r.cells[{number}].textContent.trim())")
    return cells


def head(table: str, number: int) -> str:
    return f"document.querySelectorAll('#{table} thead button')[{number}]"


def text_of(page: Page, selector: str) -> str:
    return str(page.run(f"document.querySelector({json.dumps(selector)}).textContent"))


def paper(page: Page, folder: Path) -> str:
    """What the printed pages say, words apart by one space."""
    (folder / "page.pdf").write_bytes(page.on_paper())
    command = ["pdftotext", "-layout", str(folder / "page.pdf"), "-"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return " ".join(said.stdout.split())


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("name", "charts"), [("one", 12), ("two", 24)])
def test_every_chart_is_drawn_and_nothing_is_logged(
    page: Page, files: dict[str, Path], name: str, charts: int, dark: bool
) -> None:
    assert opened(page, files[name], dark=dark) == charts
    ids: list[str] = page.run("Array.from(document.querySelectorAll('[id]')).map((e) => e.id)")
    assert len(ids) == len(set(ids))
    targets: list[str] = page.run(
        "Array.from(document.querySelectorAll('nav a')).map((a) => a.hash.slice(1))"
    )
    assert set(targets) <= set(ids)


def test_each_chart_says_in_words_what_it_shows(page: Page, files: dict[str, Path]) -> None:
    opened(page, files["one"])
    words: list[str] = page.run(
        "Array.from(document.querySelectorAll('.chart')).map((c) => c.parentNode)"
        ".filter((box) => box.role === 'img').map((box) => box.ariaLabel)"
    )
    assert len(words) == 12
    assert all(len(text) > 20 for text in words)


def test_a_click_sorts_up_and_down(page: Page, files: dict[str, Path]) -> None:
    opened(page, files["one"])
    before = column(page, "operations", 4)
    page.click(head("operations", 4))
    assert page.run(f"{head('operations', 4)}.closest('th').ariaSort") == "descending"
    numbers = [int(cell.replace(",", "")) for cell in column(page, "operations", 4)]
    assert numbers == sorted(numbers, reverse=True)
    page.click(head("operations", 4))
    assert [int(cell.replace(",", "")) for cell in column(page, "operations", 4)] == numbers[::-1]
    assert sorted(before) == sorted(column(page, "operations", 4))


def test_typing_filters_and_says_how_many_are_left(page: Page, files: dict[str, Path]) -> None:
    opened(page, files["one"])
    page.click("document.querySelector('input[data-filter=split]')")
    page.type("DeCode")
    assert column(page, "split", 2) == ["decode", "decode"]
    assert text_of(page, "#time .count") == "2 of 8 rows"


def test_tables_of_two_runs_sort_and_filter_by_themselves(
    page: Page, files: dict[str, Path]
) -> None:
    opened(page, files["two"])
    other = column(page, "run-0-split", 0)
    page.click("document.querySelector('input[data-filter=run-1-split]')")
    page.type("cuda:1")
    assert column(page, "run-1-split", 1) == ["cuda:1"] * 4
    assert column(page, "run-0-split", 0) == other
    page.click(head("runs", 0))
    assert column(page, "runs", 0) == ["h200-8b-tp1-graph", "h200-8b-tp2-eager"]
    page.click(head("runs", 0))
    assert column(page, "runs", 0) == ["h200-8b-tp2-eager", "h200-8b-tp1-graph"]


def test_without_a_mouse_tab_reaches_a_header_and_enter_sorts(
    page: Page, files: dict[str, Path]
) -> None:
    opened(page, files["one"])
    page.click("document.querySelector('input[data-filter=causes]')")
    page.press(*TAB)
    assert page.run("document.activeElement.className") == "scroll"
    page.press(*TAB)
    assert page.run("document.activeElement.textContent") == "rank"
    style = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.run(style) == "solid"
    page.press(*ENTER)
    assert column(page, "causes", 0) == ["1"] * 4 + ["0"] * 4
    page.press(*ENTER)
    assert column(page, "causes", 0) == ["0"] * 4 + ["1"] * 4


def test_what_is_closed_is_closed_and_charts_keep_their_width(
    page: Page, files: dict[str, Path]
) -> None:
    opened(page, files["two"])
    first = "document.getElementById('run-0-run')"
    width = f"{first}.querySelector('.chart svg').getBoundingClientRect().width"
    before = page.run(width)
    page.click(f"{first}.querySelector('summary')")
    assert page.run(f"{first}.open") is False
    page.look(800)
    page.click(f"{first}.querySelector('summary')")
    page.look(1200)
    assert page.run(f"{first}.open") is True
    frame = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    page.run(frame)
    assert page.run(width) == pytest.approx(before, abs=2)


def test_a_script_in_a_name_stays_text(page: Page, tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    record = read_json(run / "run.json")
    record["layout"][0]["host"] = record["layout"][0]["device"] = EVIL
    edited(run, **record | {"hardware": {"host": EVIL, "gpus": []}, "warnings": [EVIL]})
    kernel = {"ph": "X", "cat": "cpu_op", "name": EVIL, "pid": 1, "tid": 1, "ts": 1, "dur": 5}
    document = {"schemaVersion": 1, "traceEvents": [kernel]}
    document |= {"baseTimeNanoseconds": 0, "distributedInfo": {"rank": 0, "world_size": 1}}
    trace = RunFolder(run).rank_file(0, "kineto.json.gz")
    trace.write_bytes(gzip.compress(json.dumps(document).encode()))
    file = written(tmp_path / "page.html", run)
    scripts = "document.querySelectorAll('script:not([type])').length"
    opened(page, file)
    assert page.run(scripts) == 2
    assert column(page, "operations", 0) == [EVIL]
    assert EVIL in text_of(page, "#sources")
    assert EVIL in text_of(page, ".warnings")
    opened(page, written(tmp_path / "two.html", run, GRAPH))
    assert page.run(scripts) == 2
    assert column(page, "run-1-operations", 0) == [EVIL]


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_phone_shows_it_without_scrolling_sideways(
    page: Page, files: dict[str, Path], name: str
) -> None:
    opened(page, files[name], 390)
    assert page.run("document.documentElement.scrollWidth") == 390
    boxes: list[dict[str, float]] = page.run(
        "Array.from(document.querySelectorAll('.chart svg')).map((svg) => "
        "svg.getBoundingClientRect().toJSON())"
    )
    assert max(box["right"] for box in boxes) <= 390
    assert min(box["width"] for box in boxes) >= 200


def test_the_page_is_dark_where_the_reader_wants_it_dark(
    page: Page, files: dict[str, Path]
) -> None:
    measured = "getComputedStyle(document.querySelector('.chart svg [fill=\"#0072B2\"]')).fill"
    ground = "getComputedStyle(document.body).backgroundColor"
    swatch = "getComputedStyle(document.querySelector('.swatch')).backgroundColor"
    looks = []
    for dark in (False, True):
        opened(page, files["one"], dark=dark)
        looks.append([page.run(what) for what in (ground, measured, swatch)])
    assert looks == [
        ["rgb(255, 255, 255)", "rgb(0, 114, 178)", "rgb(0, 90, 67)"],
        ["rgb(20, 23, 26)", "rgb(58, 155, 217)", "rgb(14, 148, 103)"],
    ]


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="no pdftotext: poppler-utils")
def test_paper_shows_all_of_it(page: Page, files: dict[str, Path], tmp_path: Path) -> None:
    opened(page, files["two"], dark=True)
    page.run("document.getElementById('run-1-run').open = false")
    said = paper(page, tmp_path)
    for heading in ("Runs side by side", "Scaling", "Each run"):
        assert heading in said
    for heading in ("Time split of each rank", "Memory of each rank", "Where these numbers come"):
        assert said.count(heading) == 2, heading
    # The last column of a table with 41, the last row of one that scrolls on screen.
    assert "perfkit 0.1.0" in said
    assert said.count("launch-bound idle") >= 3
    assert "Memset (Device)" in said
    assert page.run("document.getElementById('run-1-run').open") is False


def test_a_page_with_nothing_measured_works(page: Page, tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    RunFolder(run).rank_file(0, "timers.jsonl").unlink()
    assert opened(page, written(tmp_path / "page.html", run)) > 0
    assert "NO MEASUREMENT" in text_of(page, "h1")


def test_a_failed_run_with_all_that_was_collected_works(page: Page, tmp_path: Path) -> None:
    run = a_traced_run(tmp_path / "run")
    edited(run, state="failed", failure={"rank": 0, "host": "n0", "reason": EVIL})
    for name, source in (
        ("perf-stat.jsonl", "stat-j.json"),
        ("perf-script.txt", "perf-script-py312-dwarf.txt"),
    ):
        shutil.copy(PERF / source, RunFolder(run).rank_file(0, name))
    opened(page, written(tmp_path / "page.html", run))
    assert f"rank 0 on n0: {EVIL}" in text_of(page, "header")
    tables = "Array.from(document.querySelectorAll('#collected table')).map((t) => t.id)"
    assert page.run(tables) == ["resources", "counters", "stacks"]
    assert "pymalloc_alloc" in text_of(page, "#stacks")


def test_a_half_done_study_names_what_is_missing(page: Page, tmp_path: Path) -> None:
    study = a_half_done_study(tmp_path / "scaling")
    for point in ("tp1-pp1-b2-r1", "tp2-pp1-b2-r1"):
        trace = RunFolder(study / point / "run").rank_file(0, "kineto.json.gz")
        shutil.copy(KINETO / "kineto.json.gz", trace)
    assert opened(page, written(tmp_path / "page.html", study)) > 10
    header = text_of(page, "header")
    assert "tp8-pp1-b2-r1 of scaling: submitted, no run folder yet" in header
    assert "Run tp4-pp1-b2-r1: FAILED because of rank 0" in header
    assert column(page, "runs", 0) == [
        "tp1-pp1-b2-r1",
        "tp2-pp1-b2-r1",
        "tp4-pp1-b2-r1 (failed)",
    ]


def test_a_study_of_which_nothing_ran_has_a_page(page: Page, tmp_path: Path) -> None:
    a_point(tmp_path / "waiting", "tp1-pp1-b1-r1")
    assert opened(page, written(tmp_path / "page.html", tmp_path / "waiting")) == 0
    assert text_of(page, "h1") == "No run yet"
    assert "tp1-pp1-b1-r1 of waiting: submitted, no run folder yet" in text_of(page, ".warnings")
    assert "There is no run yet." in text_of(page, "#side")


def test_of_many_runs_only_the_outline_is_on_the_page(page: Page, tmp_path: Path) -> None:
    runs = [a_run(tmp_path / f"run{number}", batch=number + 1) for number in range(9)]
    write_json(runs[3] / "run.json", {"schema_version": 99})
    eight = written(tmp_path / "eight.html", *runs)
    opened(page, eight)
    assert page.run("document.querySelectorAll('details[open] section').length") > 50
    assert "run3: " in text_of(page, ".warnings")
    nine = written(tmp_path / "nine.html", *runs[:3], *runs[4:], a_run(tmp_path / "more"))
    opened(page, nine)
    assert page.run("document.querySelectorAll('details:not([open])').length") == 9
    assert page.run("document.querySelectorAll('details section').length") == 0
