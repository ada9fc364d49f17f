"""The report: one file, no network, true when things are missing, and it works in a browser."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from measured_run import a_run

from perfkit.errors import ConfigError
from perfkit.report.html import render_report, write_report
from perfkit.schema import RunFolder, read_json, write_json

KINETO = Path(__file__).parents[1] / "data" / "kineto" / "gloo-tp2" / "ranks" / "0000"
EVIL = "<script>alert('x')</script>"
CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=15000",
    "--dump-dom",
)
# Clicks the header of the first sortable table's phase column twice, and says what stands on top.
CLICK = """<script>setTimeout(() => {
  const table = document.querySelector("table.sortable");
  const top = () => table.tBodies[0].rows[0].cells[2].textContent.trim();
  const button = table.querySelectorAll("th button")[2];
  button.click();
  const once = top();
  button.click();
  document.body.dataset.tops = once + "|" + top();
}, 1000)</script>"""


def a_traced_run(folder: Path) -> Path:
    run = a_run(folder)
    shutil.copy(KINETO / "kineto.json.gz", RunFolder(run).rank_file(0, "kineto.json.gz"))
    return run


def dom(page: str, tmp_path: Path) -> tuple[str, str]:
    """The page as Chromium builds it, and what it logs."""
    assert CHROMIUM is not None
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, done.stderr


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    page = render_report(a_traced_run(tmp_path / "run"))
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    loads = re.findall(r"(?:src|href)=[\"']?([^\"'> ]+)", markup)
    assert {address.partition(",")[0] for address in loads if not address.startswith("#")} == {
        "data:"
    }
    assert "@import" not in page
    # The browser itself refuses whatever else would be loaded.
    assert "default-src 'none'" in page
    assert len(page) < 5_000_000


def test_prediction_and_measurement_stand_apart(tmp_path: Path) -> None:
    page = render_report(a_traced_run(tmp_path / "run"))
    assert "predicted" in page
    assert "measured" in page
    assert "110" in page


def test_names_stay_text(tmp_path: Path) -> None:
    run = a_traced_run(tmp_path / "run")
    record = read_json(run / "run.json")
    record["layout"][0]["host"] = record["model"]["id"] = record["command"] = EVIL
    write_json(run / "run.json", record)
    page = render_report(run)
    assert EVIL not in page
    assert "alert(&#39;x&#39;)" in page


def test_a_failed_run_says_so_first(tmp_path: Path) -> None:
    page = render_report(a_run(tmp_path / "run", state="failed"))
    heading = re.search(r"<h1[^>]*>(.*?)</h1>", page, re.S)
    assert heading is not None
    assert "failed" in heading.group(1).lower()


def test_without_rates_the_prediction_is_a_dash_with_the_reason(tmp_path: Path) -> None:
    page = render_report(a_run(tmp_path / "run", calibration=False))
    assert "no rates are known" in page
    assert "110" in page


def test_without_a_measurement_the_first_line_says_so(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    RunFolder(run).rank_file(0, "timers.jsonl").unlink()
    page = render_report(run)
    heading = re.search(r"<h1[^>]*>(.*?)</h1>", page, re.S)
    assert heading is not None
    assert re.search(r"no\w* .*measure|not measured", heading.group(1).lower())


def test_an_existing_report_needs_force(tmp_path: Path) -> None:
    run, out = a_run(tmp_path / "run"), tmp_path / "report.html"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="--force"):
        write_report(run, out, force=False)
    assert out.read_text() == "mine"
    write_report(run, out, force=True)
    assert out.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_charts_are_drawn_and_tables_sort_in_a_browser(tmp_path: Path) -> None:
    page = render_report(a_traced_run(tmp_path / "run"))
    # The bundle has "</body>" in a string; the page's own is the last.
    before, _end, after = page.rpartition("</body>")
    built, log = dom(f"{before}{CLICK}</body>{after}", tmp_path)
    places = page.count('class="chart"')
    assert places >= 3
    assert built.count("<svg") >= places
    assert not [line for line in log.splitlines() if "CONSOLE" in line and "rror" in line]
    tops = re.search(r'data-tops="([^"]*)"', built)
    assert tops is not None
    first, second = tops.group(1).split("|")
    assert first != second
