"""Answers recorded on an H200: eager and captured, in every dtype, against float32."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perfkit.cli.main import app

RECORDED = Path(__file__).parents[2] / "traces" / "fidelity"


@pytest.mark.parametrize(
    ("name", "kl"),
    [
        ("fp32-graph", 2.6e-11),
        ("bf16-graph", 2.56e-5),
        ("fp16-graph", 3.89e-7),
        ("fp8-graph", 2.33e-4),
    ],
)
def test_captured_steps_answer_as_float32_does(name: str, kl: float, tmp_path: Path) -> None:
    """KL grows with what a dtype rounds away; all 480 places are compared."""
    for run in (name, "fp32-eager"):
        shutil.copytree(RECORDED / run, tmp_path / run)
    words = ["verify", str(tmp_path / name), "--against", str(tmp_path / "fp32-eager"), "--format"]
    answer = CliRunner().invoke(app, [*words, "json"])
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert found["verdict"] == "healthy"
    assert found["figures"]["places"] == 480
    assert found["figures"]["kl_mean"] == pytest.approx(kl, rel=0.01)
