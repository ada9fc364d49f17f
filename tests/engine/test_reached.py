"""How many experts tokens reach, as a real run counts them, and what is predicted with that."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import save_tiny
from transformers import AutoModelForCausalLM

from perfkit.compare.experts import experts_reached, experts_sentence
from perfkit.engine.reached import Census
from perfkit.predict.cards import load_spec
from perfkit.predict.plan import Plan, decode_pass
from perfkit.predict.spec import ModelSpec
from perfkit.predict.work import pass_work
from perfkit.schema import read_json

BATCH, PROMPT, NEW = 4, 6, 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("mixtral", tmp_path_factory.mktemp("models"))


def a_run(model: Path, out: Path, *options: str) -> Path:
    given = ["--device", "cpu", "--batch", str(BATCH), "--prompt-tokens", str(PROMPT)]
    passes = ["--new-tokens", str(NEW), "--repeats", "1", "--collect", "none"]
    perfkit("run", model, *given, *passes, *options, "--out", out)
    return out


def perfkit(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "perfkit", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def reference(model: Path, run: Path) -> tuple[float, float]:
    """From the router's logits that Hugging Face gives for the run's own sequences."""
    records = [json.loads(line) for line in (run / "outputs.jsonl").read_text().splitlines()]
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    rows = torch.tensor([[*r["prompt_token_ids"], *r["token_ids"]] for r in records])
    with torch.no_grad():
        logits = whole(rows, output_router_logits=True).router_logits
    chosen = [one.topk(2, dim=-1).indices.view(*rows.shape, 2) for one in logits]
    prefill = [layer[:, :PROMPT].unique().numel() for layer in chosen]
    decode = [layer[:, PROMPT + n].unique().numel() for layer in chosen for n in range(NEW - 1)]
    return sum(prefill) / len(prefill), sum(decode) / len(decode)


@pytest.mark.parametrize(
    ("decode", "layout"),
    [("eager", ()), ("graph", ("--pp", "2", "--microbatches", "1")), ("graph", ("--tp", "2"))],
)
def test_a_run_counts_what_its_routers_choose(
    model: Path, tmp_path: Path, decode: str, layout: tuple[str, ...]
) -> None:
    run = a_run(model, tmp_path / "run", "--decode", decode, "--logprobs", "1", *layout)
    found = experts_reached(read_json(run / "run.json"))
    assert found == pytest.approx(reference(model, run), abs=0.01)


def test_compare_predicts_with_it_and_says_so(model: Path, tmp_path: Path) -> None:
    run = a_run(model, tmp_path / "run")
    prefill, decode = experts_reached(read_json(run / "run.json"))
    said = perfkit("compare", run, "--gpu", "h200-sxm")
    # 6 (1 - (1 - 2/6)^4) = 4.8 and, for 24 tokens, 6.0
    assert f"of 6: {prefill:.1f} (even routing 6.0) by a prompt, {decode:.1f} (even" in said
    assert "routing 4.8) in a decode step" in said


def test_fewer_experts_are_fewer_bytes() -> None:
    """gpt-oss-20b: one expert's two matrices are 3 * 2880 * 2880 values of 2 bytes, 24 layers."""
    spec = load_spec("gpt-oss-20b")
    one, two = (_expert_bytes(spec, Plan(batch=8, reached=(None, n))) for n in (9.0, 10.0))
    assert two - one == pytest.approx(24 * 3 * 2880 * 2880 * 2)
    even = _expert_bytes(spec, Plan(batch=8))
    assert even == pytest.approx(_expert_bytes(spec, Plan(batch=8, reached=(None, 21.0045))))


def _expert_bytes(spec: ModelSpec, plan: Plan) -> float:
    work = pass_work(spec, plan.shard(0, 0), decode_pass(plan))
    return float(sum(k.count * k.num_bytes for k in work.kernels if k.kind == "grouped"))


def test_nothing_is_said_where_nothing_was_counted() -> None:
    places = [{"rank": 0, "layers": [0, 4], "experts": None}, {"rank": 1, "layers": [4, 8]}]
    assert experts_reached({"layout": places}) == (None, None)
    assert experts_reached({}) == (None, None)
    assert experts_sentence(load_spec("gpt-oss-20b"), Plan()) is None


def test_stages_count_by_their_layers() -> None:
    reached = [{"prefill": 8.0, "decode": 4.0}, {"prefill": 6.0, "decode": None}]
    bounds = [[0, 6], [6, 8]]
    pairs = zip(bounds, reached, strict=True)
    places = [{"layers": layers, "experts": {"reached": own}} for layers, own in pairs]
    assert experts_reached({"layout": places}) == (7.5, 4.0)


def test_a_census_counts_each_expert_once() -> None:
    census = Census()
    census.note(torch.tensor([[0, 3], [3, 1], [0, 3]]), 4)
    census.phase = "decode"
    for chosen in _single_tokens():
        census.note(chosen, 4)
    assert census.means() == {"prefill": 3.0, "decode": 2.0}
    assert Census().means() == {"prefill": None, "decode": None}


def _single_tokens() -> Iterator[torch.Tensor]:
    yield torch.tensor([[0, 3]])
    yield torch.tensor([[2, 1]])
