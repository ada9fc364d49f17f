"""`perfkit memory` and `perfkit predict` as typed by a user."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from perfkit.cli import memory, predict

app = typer.Typer()
app.command("memory")(memory.command)
app.command("predict")(predict.command)


def perfkit(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def rows(*words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(perfkit(*words, "--format", "json").stdout)["rows"]
    return found


FIRST_USERS = [
    "memory",
    "llama-3.3-70b",
    "--params",
    "70e9",
    "--kv-heads",
    "64",
    "--activations-gib",
    "2",
    "--overhead-gib",
    "6",
    "--gpus",
    "8",
]


@pytest.mark.parametrize(
    ("context", "printed"),
    [
        ("2048", ["16.30", "0.625", "2.00", "6.00", "24.92"]),
        ("4096", ["16.30", "1.25", "2.00", "6.00", "25.55"]),
    ],
)
def test_the_first_users_table_is_printed_to_the_digit(context: str, printed: list[str]) -> None:
    answer = perfkit(*FIRST_USERS, "--context", context)
    last = answer.stdout.strip().splitlines()[-1].split()
    assert last[:8] == ["each", "of", "8", *printed]
    assert "--kv-heads 64: the model has 8 (grouped-query attention)" in answer.stderr


def test_memory_tells_the_truth_about_the_model() -> None:
    told = perfkit("memory", "llama-3.3-70b", "--tp", "8").stderr
    assert "70,553,706,496 parameters, 8 KV heads, 327,680 bytes of KV per token" in told


def test_memory_rows_carry_every_input_and_exact_bytes() -> None:
    words = [
        "memory",
        "llama-3.3-70b",
        "--tp",
        "4",
        "--pp",
        "2",
        "--batch",
        "8",
        "--context",
        "4096",
        "--gpu",
        "h200-sxm",
    ]
    first = rows(*words)[0]
    asked = {"tp": 4, "pp": 2, "batch": 8, "context": 4096, "gpu": "h200-sxm"}
    assert asked.items() <= first.items()
    assert first["kv_bytes"] == 327_680 * 8 * 4096 / 8
    assert first["verdict"] == "fits"


def test_memory_that_does_not_fit_has_a_negative_margin() -> None:
    row = rows("memory", "llama-3.3-70b", "--gpu", "h100-sxm")[0]
    assert row["verdict"] == "does not fit"
    assert row["margin_bytes"] < 0


def test_a_gpu_of_unknown_memory_gives_no_verdict() -> None:
    answer = perfkit("memory", "llama-3.1-8b", "--gpu", "mi300x")
    assert "so no verdict" in answer.stderr
    assert answer.stdout.split()[-1] == "-"


def test_uneven_shards_are_pointed_out() -> None:
    told = perfkit("memory", "smollm2-135m-instruct", "--tp", "2").stderr
    assert "tp=2 does not divide 3 kv heads" in told
    row = rows("predict", "smollm2-135m-instruct", "--tp", "2", "--gpu", "h200-sxm")[0]
    assert "the ranks are uneven" in row["note"]


def test_gpus_and_a_layout_exclude_each_other() -> None:
    answer = perfkit("memory", "llama-3.3-70b", "--gpus", "8", "--tp", "4")
    assert "Use either --gpus or --tp and --pp" in str(answer.exception)


@pytest.mark.parametrize("fmt", ["table", "json", "csv", "md"])
@pytest.mark.parametrize("verb", [["memory"], ["predict", "--gpu", "h200-sxm"]])
def test_every_format_is_printed(verb: list[str], fmt: str) -> None:
    answer = perfkit(*verb, "llama-3.1-8b", "--format", fmt)
    assert answer.exit_code == 0
    assert answer.stdout
    assert answer.stderr.splitlines()[-1].startswith("Next: perfkit ")


def test_predict_gives_a_row_for_every_combination() -> None:
    words = [
        "predict",
        "llama-3.3-70b",
        "--gpu",
        "h200-sxm",
        "--tp",
        "4,16",
        "--pp",
        "1,2",
        "--batch",
        "1:17:8",
    ]
    found = rows(*words)
    assert len(found) == 12
    assert [row["refused"] is None for row in found] == [True] * 6 + [False] * 6


def test_predict_marks_its_rates_as_measured_where_they_were() -> None:
    answer = perfkit("predict", "llama-3.1-8b", "--gpu", "h200-sxm", "--format", "json")
    document = json.loads(answer.stdout)
    assert document["rows"][0]["rates"] == document["provenance"]["gemm"] == "microbenchmark"
    assert document["provenance"]["host"].startswith("geometric mean of five hosts")
    assert "curves measured on h200-sxm" in answer.stderr


def test_predict_marks_its_rates_as_taken_from_a_data_sheet() -> None:
    answer = perfkit("predict", "llama-3.1-8b", "--gpu", "a100-80-sxm", "--format", "json")
    document = json.loads(answer.stdout)
    assert document["schema_version"] == 1
    assert document["kind"] == "predicted"
    assert document["rows"][0]["rates"] == "spec"
    assert document["provenance"]["host"] == "assumed"
    assert "nobody measured a100-80-sxm yet" in answer.stderr


def test_predict_writes_a_file_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.csv"
    words = ["predict", "llama-3.1-8b", "--gpu", "h200-sxm", "--format", "csv", "-o", str(path)]
    answer = perfkit(*words)
    assert answer.stdout == ""
    assert f"wrote {path}." in answer.stderr
    assert next(csv.DictReader(io.StringIO(path.read_text())))["model"] == "llama-3.1-8b"


def test_predict_needs_rates() -> None:
    answer = perfkit("predict", "llama-3.1-8b")
    assert "Give --gpu ID for peak rates or --calibration FILE" in str(answer.exception)


def test_predict_uses_a_calibration(tmp_path: Path) -> None:
    compute = {
        "active_ranks": 1,
        "gemm_flops_per_s": 1e11,
        "read_bytes_per_s": 1e10,
        "dispatch_s": 5e-6,
    }
    path = tmp_path / "calibration.json"
    content = {"device": "cpu", "device_name": "a CPU", "dtype": "float32", "compute": [compute]}
    path.write_text(json.dumps(content))
    words = ["predict", "smollm2-135m-instruct", "--calibration", str(path), "--prompt", "16"]
    row = rows(*words, "--new", "4")[0]
    assert (row["dtype"], row["rates"], row["machine"]) == ("float32", "microbenchmark", "a CPU")


def rows_of(*words: str) -> list[dict[str, Any]]:
    answer = perfkit("predict", "llama-3.3-70b", *words, "--format", "json")
    assert answer.exit_code == 0, answer.exception
    rows: list[dict[str, Any]] = json.loads(answer.stdout)["rows"]
    return rows


def test_predict_over_the_nodes_of_a_system() -> None:
    rows = rows_of("--system", "leonardo", "--nodes", "1,2", "--decode", "graph")
    assert [(row["tp"], row["pp"], row["nodes"]) for row in rows] == [(4, 1, 1), (4, 2, 2)]
    hours = [row["node_hours_per_mtok"] for row in rows]
    assert hours[0] == pytest.approx(1e6 / rows[0]["tokens_per_s"] / 3600)
    assert hours[1] > hours[0]


def test_predict_over_nodes_of_ones_own() -> None:
    near, far = (
        rows_of("--gpu", "h200-sxm", "--tp", "2", "--pp", "3", "--decode", "graph", *more)[0]
        for more in ((), ("--gpus-per-node", "2", "--network", "12.5"))
    )
    assert (near["nodes"], far["nodes"]) == (None, 3)
    assert far["tpot_ms"] > near["tpot_ms"]


def test_predict_searches_layouts_within_a_limit() -> None:
    rows = rows_of(
        "--gpu", "h200-sxm", "--best", "throughput", "--gpus", "4", "--max-tpot", "20ms",
        "--decode", "graph",
    )  # fmt: skip
    speeds = [row["tokens_per_s"] for row in rows]
    assert speeds == sorted(speeds, reverse=True)
    assert all(row["tpot_ms"] <= 20 and row["num_gpus"] <= 4 for row in rows)
    assert rows[0]["batch"] > 1


def test_predict_with_another_machine() -> None:
    plain, faster = (
        rows_of("--gpu", "h200-sxm", "--tp", "2", "--decode", "graph", *more)[0]
        for more in ((), ("--set", "memory=2x"))
    )
    assert faster["tpot_ms"] < 0.7 * plain["tpot_ms"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "h200-sxm", "--best", "luck", "--gpus", "2"], "Use throughput, tpot, ttft"),
        (["--gpu", "h200-sxm", "--best", "tpot"], "Give --gpus N"),
        (["--gpu", "h200-sxm", "--nodes", "2"], "--nodes needs --system NAME or --gpus-per-node"),
        (
            ["--system", "leonardo", "--nodes", "1", "--tp", "3"],
            "--tp 3 does not divide the 4 GPUs",
        ),
        (["--system", "leonardo", "--nodes", "1", "--pp", "2"], "leave --pp out"),
        (["--system", "meluxina-gpu"], "no network bandwidth is known of 'meluxina-gpu'"),
        (["--system", "leonrdo"], "Did you mean leonardo"),
        (["--gpu", "h200-sxm", "--network", "25"], "belong together"),
        (["--gpu", "h200-sxm", "--set", "magic=2x"], "'magic' cannot be changed"),
    ],
)
def test_predict_says_what_to_change(words: list[str], message: str) -> None:
    answer = perfkit("predict", "llama-3.3-70b", *words)
    assert message in str(answer.exception)
