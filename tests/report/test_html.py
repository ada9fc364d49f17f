"""The report: one file, no network, true when things are missing."""

import gzip
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from measured_run import a_run, edited

from perfkit.cli.main import app
from perfkit.errors import ConfigError, ToolMissing
from perfkit.report.given import given
from perfkit.report.html import render_report
from perfkit.report.written import write
from perfkit.schema import RunFolder, read_json, write_json

KINETO = Path(__file__).parents[1] / "data" / "kineto" / "gloo-tp2" / "ranks" / "0000"
EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All tests share one Vega bundle, and none is left in the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERFKIT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def a_traced_run(folder: Path) -> Path:
    run = a_run(folder)
    shutil.copy(KINETO / "kineto.json.gz", RunFolder(run).rank_file(0, "kineto.json.gz"))
    return run


def heading(page: str) -> str:
    """The page's first line."""
    found = re.search(r"<h1[^>]*>(.*?)</h1>", page, re.S)
    assert found is not None
    return found.group(1)


def row_of(page: str, measure: str) -> list[str]:
    """The cells of one measure in the headline table."""
    (row,) = re.findall(rf"<tr>\s*<td[^>]*>{measure}.*?</tr>", page, re.S)
    return re.findall(r"<td[^>]*>(.*?)</td>", row)


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
    _title, predicted, measured, spread, passes, error = row_of(page, "TTFT")
    assert float(predicted) > 0
    assert (measured, spread, passes) == ("110", "100 - 120", "2")
    assert error.endswith(" %")
    assert "a processor, 2026-11-22" in page


def test_names_stay_text(tmp_path: Path) -> None:
    run = a_traced_run(tmp_path / "run")
    record = read_json(run / "run.json")
    record["layout"][0]["host"] = record["model"]["id"] = record["command"] = EVIL
    record["config"]["model_id"] = record["id"] = EVIL
    write_json(run / "run.json", record | {"warnings": [EVIL]})
    page = render_report(run)
    assert EVIL not in page
    assert "alert(&#39;x&#39;)" in page
    specs = re.findall(r'class="spec">(.*?)</script>', page, re.S)
    assert len(specs) == page.count('class="chart"')
    for spec in specs:
        assert "<" not in spec
        assert json.loads(spec)["width"] == "container"


def test_a_kernel_may_be_called_anything(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    kernel = {"ph": "X", "cat": "cpu_op", "name": EVIL, "pid": 1, "tid": 1, "ts": 1, "dur": 5}
    document = {"schemaVersion": 1, "traceEvents": [kernel]}
    document |= {"baseTimeNanoseconds": 0, "distributedInfo": {"rank": 0, "world_size": 1}}
    trace = RunFolder(run).rank_file(0, "kineto.json.gz")
    trace.write_bytes(gzip.compress(json.dumps(document).encode()))
    page = render_report(run)
    assert EVIL not in page
    assert page.count("alert(&#39;x&#39;)") >= 1


def test_a_failed_run_says_so_first(tmp_path: Path) -> None:
    run = edited(
        a_run(tmp_path / "run", state="failed"),
        failure={"rank": 0, "host": "node0", "reason": "was killed by SIGKILL"},
    )
    page = render_report(run)
    assert heading(page).startswith("Run run: FAILED because of rank 0, speed measured in 2 timed")
    assert "rank 0 on node0 was killed by SIGKILL" in page


def test_a_run_that_never_started_has_a_page(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_json(run / "run.json", {"state": "preparing"})
    page = render_report(run)
    assert heading(page) == "Run run: PREPARING, NO MEASUREMENT"
    assert row_of(page, "TTFT")[1:4] == ["-", "-", "-"]


def test_who_waited_for_whom_and_why_gpus_were_idle() -> None:
    """A real run on two H200: rank 1's host was late, and rank 0's GPU waited in NCCL for it."""
    page = render_report(Path(__file__).parents[2] / "traces" / "h200-8b-tp2")
    assert "rank 1 entered last in 75 % of 520 all_reduce (1), by 715 us" in page
    assert "launch-bound" in page


def test_a_rank_without_a_trace_is_named_and_not_averaged_away(tmp_path: Path) -> None:
    run = a_traced_run(tmp_path / "run")
    layout = [*read_json(run / "run.json")["layout"], {"rank": 1, "pp_rank": 0, "tp_rank": 1}]
    page = render_report(edited(run, layout=layout))
    assert heading(page).endswith("time split measured on 1 of 2 ranks")
    assert "no usable trace of ranks 1" in page
    assert "rank 1: no trace: not measured" in page


def test_a_run_without_a_trace_says_that_the_split_was_not_measured(tmp_path: Path) -> None:
    page = render_report(a_run(tmp_path / "run"))
    assert heading(page).endswith("time split NOT measured")
    assert page.count("<strong>Not measured.</strong>") == 4


def test_without_rates_the_prediction_is_a_dash_with_the_reason(tmp_path: Path) -> None:
    page = render_report(a_run(tmp_path / "run", calibration=False))
    assert "no rates are known" in page
    title, predicted, measured, *_rest, error = row_of(page, "TTFT")
    assert (title, predicted, measured, error) == ("TTFT [ms]", "-", "110", "-")


def test_rates_that_were_asked_for_are_used_or_refused(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    assert "data sheet of h200-sxm" in render_report(run, gpu="h200-sxm")
    with pytest.raises(ConfigError, match="no GPU 'h2000'"):
        render_report(run, gpu="h2000")


def test_without_a_measurement_the_first_line_says_so(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    RunFolder(run).rank_file(0, "timers.jsonl").unlink()
    assert heading(render_report(run)) == "Run run: finished, NO MEASUREMENT"


def test_an_existing_report_needs_force(tmp_path: Path) -> None:
    run, out = a_run(tmp_path / "run"), tmp_path / "report.html"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="--force"):
        write(given([run]), out, "html", force=False)
    assert out.read_text() == "mine"
    write(given([run]), out, "html", force=True)
    assert out.read_text().startswith("<!DOCTYPE html>")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "report.html"
    with pytest.raises(ConfigError, match=r"cannot write .*report\.html"):
        write(given([a_run(tmp_path / "run")]), out, "html")


@pytest.mark.parametrize("library", ["altair", "vl_convert"])
def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    run = a_run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ToolMissing, match=r"pip install 'perfkit\[report\]'"):
        render_report(run)


def test_the_command_prints_the_path_and_what_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = a_run(tmp_path / "run"), tmp_path / "new" / "report.html"
    app(["report", str(run), "-o", str(out)], standalone_mode=False)
    printed = capsys.readouterr()
    assert printed.out == f"{out}\n"
    assert printed.err.endswith(f"Next: perfkit analyze {run} --kernels 10\n")
