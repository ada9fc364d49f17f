"""Kernels by class, collectives, scaling and the summary: on the page, and as files."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from measured_run import a_run
from typer.testing import CliRunner

from perfkit.cli.main import app
from perfkit.report import html
from perfkit.report.class_charts import class_figures, collective_figure, collective_rows
from perfkit.report.figure_files import on_paper
from perfkit.report.runs_page import scaling_of
from perfkit.report.scaling_charts import scaling_figures
from perfkit.report.side_by_side import find_all

TRACES = Path(__file__).parents[2] / "traces"
PAIR = [TRACES / f"h200-8b-{name}" for name in ("tp1-graph", "tp2-graph", "pp2-m2-graph")]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERFKIT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def eager() -> html.Findings:
    """Llama-3.1-8B at TP 2: rank 1 waited for rank 0's host."""
    return html.find(TRACES / "h200-8b-tp2-eager", None, None, None)


@pytest.fixture(scope="module")
def pair() -> list[html.Findings]:
    return find_all(PAIR)[0]


def test_the_summary_says_what_the_run_was_busy_with(eager: html.Findings) -> None:
    said = html.context(eager)["summary"]
    assert said[0].startswith("A token took 39.8 ms, predicted ")
    assert said[2] == (
        "In the captured decode steps the GPUs computed for 6 % of the time, moved data for 1 %, "
        "waited in NCCL for another rank for 44 %, had nothing to do for 48 % because their host "
        "launched too late."
    )
    assert said[3].startswith("Rank 0 entered last in 100 % of 585 all_reduce")
    assert said[4] == "Rank 0 held most: 10.5 of 140 GiB, 8 %."


def test_classes_stand_as_predicted_and_as_traced(eager: html.Findings) -> None:
    assert eager.classes is not None
    prefill, decode = class_figures(eager.classes)
    assert (prefill.title, decode.title) == ("One pass of prefill", "One pass of decode")
    rows = [row for rows in decode.spec["datasets"].values() for row in rows]
    transfer = {row["what"]: row["ms"] for row in rows if row["class"] == "NCCL transfer"}
    assert transfer["measured"] == pytest.approx(0.41, abs=0.02)
    assert "gemm predicted" in decode.alt


def test_collectives_are_drawn_by_size_below_the_link(eager: html.Findings) -> None:
    rows = collective_rows(eager.analysis.collectives)
    assert sorted(set(rows["bytes"])) == [8192, 256_512, 16_777_216]  # not the token's 8 bytes
    figure = collective_figure(rows, 450e9, lambda size: 1e-5 + size / 3e11)
    assert figure is not None
    assert "all_reduce of 16,777,216 bytes on rank 0 2" in figure.alt
    assert figure.alt.endswith("the link 450 GB/s.")
    assert collective_figure(rows.clear(), 450e9, None) is None


def test_scaling_has_a_chart_for_each_series(pair: list[html.Findings]) -> None:
    strong, weak = scaling_figures(scaling_of(pair))
    assert strong.title.startswith("Strong scaling: llama-3.1-8b")
    assert "TP2 PP1 on 2 GPUs measured 1.25, predicted 1." in strong.alt
    assert "TP1 PP2 M2 on 2 GPUs measured 0.83, predicted 0.83" in weak.alt
    points = [row for rows in strong.spec["datasets"].values() for row in rows]
    (predicted,) = (p for p in points if p["what"] == "predicted" and p["gpus"] == 2)
    assert predicted["low"] < predicted["value"] < predicted["high"]
    assert {p["value"] for p in points if p["what"] == "ideal"} == {1.0, 2.0}


def test_a_verdict_on_answers_is_on_the_page(tmp_path: Path) -> None:
    for name in ("bf16-graph", "fp32-eager"):
        shutil.copytree(TRACES / "fidelity" / name, tmp_path / name)
    run, baseline = tmp_path / "bf16-graph", tmp_path / "fp32-eager"
    assert CliRunner().invoke(app, ["verify", str(run), "--against", str(baseline)]).exit_code == 0
    page = html.render_report(run)
    assert "<strong>Healthy</strong> against" in page
    assert "480 places of 10 prompts" in page


def test_figures_are_files_with_legends_and_the_same_bytes_again(tmp_path: Path) -> None:
    runs = [str(path) for path in PAIR[:2]]
    for folder in ("one", "two"):
        answer = CliRunner().invoke(app, ["figures", *runs, "-o", str(tmp_path / folder)])
        assert answer.exit_code == 0, answer.output
    one, two = ({f.name: f.read_bytes() for f in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one == two
    names = ("tpot-1.svg", "scaling-1.png", "h200-8b-tp2-graph-collectives.svg")
    assert all(name in one for name in names)
    assert "h200-8b-tp1-graph-collectives.svg" not in one
    assert b"wait for another rank" in one["tpot-1.svg"]
    for name in ("tpot-1.svg", "h200-8b-tp2-graph-kernels-decode.svg"):
        assert b">predicted</text>" in one[name]
        assert b">measured</text>" in one[name]
    assert one["scaling-1.png"].startswith(b"\x89PNG")
    words = one["figures.md"].decode()
    assert len(words.splitlines()) - 2 == sum(name.endswith(".svg") for name in one)


def test_a_folder_with_files_needs_force_and_a_kind_must_be_known(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    answer = CliRunner().invoke(app, ["figures", str(PAIR[0]), "-o", str(tmp_path)])
    assert "is not empty" in str(answer.exception)
    words = ["figures", str(PAIR[0]), "-o", str(tmp_path / "new"), "--kinds", "gif"]
    assert "--kinds 'gif' is not known" in str(CliRunner().invoke(app, words).exception)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_run_without_a_trace_has_the_figures_that_it_can(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    out = tmp_path / "out"
    words = ["figures", str(run), "-o", str(out), "--kinds", "svg"]
    assert CliRunner().invoke(app, words).exit_code == 0
    names = {path.name for path in out.iterdir()}
    assert "run-speed-tpot.svg" in names
    assert not any("split" in name or "step" in name for name in names)


def test_a_folder_of_runs_among_runs_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(TRACES / "scored"), str(PAIR[0])]
    app(["report", *runs, "--format", "md"], standalone_mode=False)
    printed = capsys.readouterr()
    assert "traces/scored holds run folders and is none: left out" in printed.err
    assert printed.out.count("| h100-8b-b1-") == 0


def test_a_folder_of_runs_alone_stands_for_them(capsys: pytest.CaptureFixture[str]) -> None:
    app(["report", str(TRACES / "fidelity"), "--format", "md"], standalone_mode=False)
    rows = [line for line in capsys.readouterr().out.splitlines() if "TP1 PP1" in line]
    assert sorted(row.split()[1] for row in rows) == [
        "bf16-eager",
        "bf16-graph",
        "fp16-graph",
        "fp32-eager",
        "fp32-graph",
        "fp8-graph",
        "int8-graph",
    ]


def test_paper_gets_the_legends_that_the_page_has_beside_its_charts(eager: html.Findings) -> None:
    assert eager.classes is not None
    figure = class_figures(eager.classes)[0]
    assert '"legend": {' not in json.dumps(figure.spec)
    made = on_paper(figure)
    assert made["encoding"]["stroke"]["legend"]["orient"] == "top"
    assert (made["title"], made["width"]) == ("One pass of prefill", 640)
