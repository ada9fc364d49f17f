"""Scaling tables: series from what runs have in common, gains beside what was predicted."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from measured_run import a_run
from typer.testing import CliRunner

from perfkit.cli.main import app
from perfkit.compare.run_facts import run_facts
from perfkit.compare.scaling import SCALING, scaling, scaling_table

TRACES = Path(__file__).parents[2] / "traces"


def facts(name: str, wall_s: float | None, **changed: Any) -> dict[str, Any]:
    """What a run of 8 prompts on one GPU says of itself; its prediction is 2 s, 1.6 to 2.5."""
    return {
        **dict.fromkeys(SCALING),
        **dict.fromkeys(("hosts", "split", "sharding", "load", "no_prediction", "reason")),
        **{"run": name, "model": "m", "device": "GPU", "dtype": "bfloat16", "decode": "graph"},
        **{"prompt_tokens": 512, "new_tokens": 32, "hosts": 1, "batch": 8},
        **{"gpus": 1, "tp": 1, "pp": 1, "microbatches": 1},
        **{"wall_s": wall_s, "wall_min_s": wall_s, "wall_max_s": wall_s},
        **{"predicted_wall_s": 2.0, "predicted_wall_p05_s": 1.6, "predicted_wall_p95_s": 2.5},
        **changed,
    }


def column(frame: pl.DataFrame, name: str) -> list[Any]:
    return frame[name].to_list()


def test_the_same_work_on_more_gpus_is_strong_scaling() -> None:
    frame = scaling(
        [
            facts("four", 0.8, gpus=4, tp=2, pp=2, microbatches=2, predicted_wall_s=0.7),
            facts("one", 2.4),
            facts("two", 1.2, gpus=2, tp=2, predicted_wall_s=1.1),
        ]
    )
    assert column(frame, "kind") == ["strong"] * 3
    assert column(frame, "gpus") == [1, 2, 4]
    assert column(frame, "first") == [True, False, False]
    assert column(frame, "speedup") == pytest.approx([1, 2, 3])
    assert column(frame, "ideal") == [1, 2, 4]
    assert column(frame, "efficiency") == pytest.approx([1, 1, 0.75])
    assert column(frame, "predicted_speedup") == pytest.approx([1, 2 / 1.1, 2 / 0.7])
    assert frame["note"].null_count() == 3


def test_the_band_of_a_predicted_speedup_is_that_of_both_predictions() -> None:
    """Each is uncertain by a factor of 1.25: the ratio by 1.25 to the power of sqrt(2)."""
    frame = scaling([facts("one", 2.0), facts("two", 1.0, gpus=2, tp=2)])
    wide = 1.25 ** math.sqrt(2)
    assert column(frame, "predicted_speedup_p95")[1] == pytest.approx(wide, rel=0.01)
    assert column(frame, "predicted_speedup_p05")[1] == pytest.approx(1 / wide, rel=0.01)


def test_the_same_work_for_each_gpu_is_weak_scaling_and_has_no_speedup() -> None:
    frame = scaling([facts("one", 2.0), facts("two", 2.5, gpus=2, tp=2, batch=16)])
    assert column(frame, "kind") == ["weak", "weak"]
    assert column(frame, "efficiency") == pytest.approx([1, 0.8])
    assert frame["speedup"].null_count() == 2


def test_a_batch_sweep_has_no_efficiency() -> None:
    frame = scaling([facts("one", 2.0), facts("more", 3.0, batch=32)])
    assert column(frame, "kind") == [None, None]
    assert frame["efficiency"].null_count() == 2


def test_repeats_are_one_row_with_their_spread() -> None:
    repeats = [facts(f"r{n}", wall) for n, wall in enumerate((2.0, 2.6, 2.2))]
    frame = scaling([*repeats, facts("two", 1.1, gpus=2, tp=2)])
    assert column(frame, "wall_s") == [2.2, 1.1]
    assert column(frame, "spread")[0] == pytest.approx(0.3)
    assert column(frame, "runs") == [["r0", "r1", "r2"], ["two"]]


def test_the_fastest_layout_of_the_fewest_gpus_comes_first() -> None:
    frame = scaling(
        [
            facts("tp", 1.0, gpus=2, tp=2),
            facts("pp", 1.8, gpus=2, pp=2),
            facts("four", 0.6, gpus=4, tp=4),
        ]
    )
    firsts = frame.filter("first")
    assert column(firsts, "runs") == [["tp"]]
    assert column(frame.filter(gpus=4), "ideal") == [2.0]


def test_a_speedup_that_the_layout_cannot_give_is_flagged() -> None:
    """Two stages with one microbatch work in turn: 1.34 times as fast is no success."""
    frame = scaling([facts("one", 2.0), facts("two", 2.0 / 1.34, gpus=2, pp=2)])
    assert column(frame, "bound") == [1.0, 1.0]
    assert "speed-up 1.34 is more than the 1 that this layout allows" in column(frame, "note")[1]


def test_a_failed_run_stays_with_its_reason_and_is_never_the_first() -> None:
    failed = facts("one", None, reason="failed: out of memory", wall_min_s=None, wall_max_s=None)
    frame = scaling([failed, facts("two", 2.0, gpus=2, tp=2), facts("four", 1.0, gpus=4, tp=4)])
    assert column(frame, "gpus") == [1, 2, 4]
    assert column(frame, "wall_s") == [None, 2.0, 1.0]
    assert column(frame, "note")[0] == "one failed: out of memory"
    assert column(frame, "ideal") == [0.5, 1.0, 2.0]


def test_other_ways_of_nccl_are_another_row() -> None:
    one, two = facts("one", 2.0), facts("two", 1.9, gpus=2, pp=2)
    sockets = {**two, "run": "sockets", "wall_s": 2.1, "network": "NCCL_P2P_DISABLE=1"}
    frame = scaling([one, two, sockets])
    assert column(frame, "runs") == [["one"], ["two"], ["sockets"]]
    assert column(frame, "note")[2] == "NCCL_P2P_DISABLE=1"


def recorded(*names: str) -> pl.DataFrame:
    return scaling_table([TRACES / f"h200-8b-{name}-graph" for name in names])


def test_recorded_runs_scale_as_they_did() -> None:
    """Llama-3.1-8B, captured, one and two H200."""
    frame = recorded("tp2", "tp1", "pp2-m1")
    assert column(frame, "wall_s") == pytest.approx([0.196, 0.1562, 0.2067], rel=0.001)
    assert column(frame, "speedup") == pytest.approx([1, 1.255, 0.948], rel=0.001)
    assert column(frame, "predicted_speedup") == pytest.approx([1, 1.40, 0.943], rel=0.03)
    assert column(frame, "busy") == pytest.approx([0.847, 0.804, 0.659], rel=0.01)
    assert column(frame, "comm_s")[1] == pytest.approx(0.0424, rel=0.01)
    assert column(frame, "wait_s")[1] == pytest.approx(0.0239, rel=0.01)


def test_recorded_runs_of_the_same_batch_on_each_gpu() -> None:
    frame = recorded("tp1", "pp2-m2")
    assert column(frame, "kind") == ["weak", "weak"]
    assert column(frame, "efficiency") == pytest.approx([1, 0.826], rel=0.001)
    assert column(frame, "predicted_efficiency") == pytest.approx([1, 0.825], rel=0.02)


def told(*words: str) -> str:
    done = CliRunner().invoke(app, ["scaling", *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_prace_form_has_its_own_words_and_no_others() -> None:
    runs = [str(TRACES / f"h200-8b-{name}-graph") for name in ("tp1", "tp2")]
    lines = told(*runs, "--form", "prace", "--format", "md").splitlines()
    assert lines[2:] == [
        "| Number of cores (GPUs) | Wall clock time | Speed-up vs the first one | "
        "Number of nodes | Number of processes |",
        "| ---: | ---: | ---: | ---: | ---: |",
        "| 1 | 0.196 | 1.00 | 1 | 1 |",
        "| 2 | 0.156 | 1.25 | 1 | 2 |",
    ]


def test_the_weak_prace_form_has_no_speedup() -> None:
    runs = [str(TRACES / f"h200-8b-{name}-graph") for name in ("tp1", "pp2-m2")]
    text = told(*runs, "--form", "prace", "--format", "md")
    assert "Number of processes" in text
    assert "Speed-up" not in text


def test_every_format_has_every_run() -> None:
    runs = [str(TRACES / f"h200-8b-{name}-graph") for name in ("tp1", "tp2")]
    rows = json.loads(told(*runs, "--format", "json"))["rows"]
    assert [row["runs"] for row in rows] == [["h200-8b-tp1-graph"], ["h200-8b-tp2-graph"]]
    assert told(*runs, "--format", "csv").count("h200-8b-tp") == 2
    text = told(*runs)
    assert "against 1 GPU (TP1 PP1)" in text
    assert "1.26 - 1.55" in text


def test_a_failed_run_and_a_missing_one_are_said(tmp_path: Path) -> None:
    shutil.copytree(TRACES / "h200-8b-tp1-graph", tmp_path / "study" / "done" / "run")
    shutil.copytree(TRACES / "h200-8b-tp2-graph", tmp_path / "study" / "failed" / "run")
    path = tmp_path / "study" / "failed" / "run" / "run.json"
    failure = {"rank": 1, "reason": "ran out of GPU memory"}
    run = {**json.loads(path.read_text()), "state": "failed", "failure": failure}
    path.write_text(json.dumps(run))
    for name in ("done", "failed", "waiting"):
        folder = tmp_path / "study" / name
        folder.mkdir(exist_ok=True)
        (folder / "point.json").write_text("{}")
    done = CliRunner().invoke(app, ["scaling", str(tmp_path / "study")])
    assert done.exit_code == 0, done.output
    assert "no run: waiting of study: submitted, no run folder yet" in done.stderr
    assert "run failed: ran out of GPU memory" in done.stdout
    assert "no scaling to show" in done.stderr


def test_a_folder_with_nothing_in_it_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["scaling", str(tmp_path)])
    assert "has no run: neither a run.json" in str(done.exception)


def test_facts_of_a_run_without_traces_are_not_zero(tmp_path: Path) -> None:
    found = run_facts(a_run(tmp_path / "run"))
    assert found["wall_s"] == pytest.approx(0.29)
    assert found["busy"] is None
    assert found["comm_s"] is None
    assert found["load_s"] is None
