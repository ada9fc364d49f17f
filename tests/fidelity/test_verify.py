"""`perfkit verify`: the verdict, its reasons, and what is said when something is missing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from answered_run import a_run, an_answer

from perfkit.baseline.store import baseline_schema, write_baseline
from perfkit.compare.fidelity import verify
from perfkit.compare.fidelity_gates import Gate, from_noise, read_gates
from perfkit.errors import ConfigError
from perfkit.report.fidelity import printed

SURE = {5: 0.9, 6: 0.08}
LIKE_SURE = {5: 0.89, 6: 0.09}
TIE = {5: 0.5, 6: 0.49}
UNLIKE = {5: 0.3, 6: 0.6}


def one_prompt(root: Path, name: str, *given: dict[int, float], **config: Any) -> Path:
    """A run that takes the most likely token everywhere, on the path 5, 5, 5..."""
    chosen = [max(one, key=lambda token: one[token]) for one in given]
    return a_run(root / name, [an_answer(chosen, given, fed=[5] * len(given))], **config)


def test_a_little_rounding_is_healthy(tmp_path: Path) -> None:
    base = one_prompt(tmp_path, "base", SURE, SURE, SURE)
    found = verify(one_prompt(tmp_path, "run", LIKE_SURE, SURE, SURE), base)
    assert found.judged.verdict == "healthy"
    assert found.judged.reasons == ()
    assert found.figures.equal == 1
    assert found.figures.places == 3
    assert found.figures.top1 == 1.0
    # 0.9 ln(0.9 / 0.89) + 0.08 ln(0.08 / 0.09) + 0.02 ln(0.02 / 0.02), over three places
    assert found.figures.kl_mean == pytest.approx(0.0002111, abs=1e-7)


def test_another_likely_token_is_broken_and_says_why(tmp_path: Path) -> None:
    base = one_prompt(tmp_path, "base", SURE, SURE, SURE)
    found = verify(one_prompt(tmp_path, "run", SURE, UNLIKE, SURE), base)
    assert found.judged.verdict == "broken"
    assert "broken: most likely token the same is 0.667, below 0.93" in found.judged.reasons
    assert any("largest margin where answers part" in why for why in found.judged.reasons)
    (parted,) = found.divergences.to_dicts()
    assert parted["place"] == 1
    assert parted["margin_nats"] == pytest.approx(2.4204, abs=1e-4)


def test_tokens_must_be_equal_in_float32_only(tmp_path: Path) -> None:
    # The two differ by a thousandth where two tokens are all but equally likely.
    other_way = {6: 0.4955, 5: 0.4945}
    for dtype, verdict in (("bfloat16", "healthy"), ("float32", "broken")):
        root = tmp_path / dtype
        root.mkdir()
        base = one_prompt(root, "base", *[SURE] * 40, TIE, dtype=dtype)
        run = one_prompt(root, "run", *[SURE] * 40, other_way, dtype=dtype)
        found = verify(run, base)
        assert found.judged.precision == {"bfloat16": "16-bit"}.get(dtype, dtype)
        assert found.judged.verdict == verdict, found.judged.reasons


def test_limits_come_from_a_good_repeat(tmp_path: Path) -> None:
    base = one_prompt(tmp_path, "base", SURE, SURE)
    run = one_prompt(tmp_path, "run", {5: 0.8, 6: 0.15}, {5: 0.8, 6: 0.15})
    noisy = one_prompt(tmp_path, "noisy", {5: 0.78, 6: 0.16}, {5: 0.82, 6: 0.13})
    quiet = one_prompt(tmp_path, "quiet", LIKE_SURE, LIKE_SURE)
    assert verify(run, base, noisy).judged.verdict == "healthy"
    assert verify(run, base, quiet).judged.verdict == "broken"
    assert verify(run, base).judged.verdict == "broken"


def test_multiples_of_noise() -> None:
    gates = {gate.name: gate for gate in read_gates().gates}
    assert from_noise(gates["kl_mean"], 0.002) == pytest.approx((0.005, 0.01))
    assert from_noise(gates["top1"], 0.98) == pytest.approx((0.95, 0.90))
    # A repeat without any noise leaves room for a little.
    assert from_noise(gates["kl_mean"], 0.0) == pytest.approx((2.5e-5, 5e-5))


def test_every_gate_is_complete_and_in_order() -> None:
    gates = read_gates().gates
    assert len(gates) == 7

    def ordered(gate: Gate) -> bool:
        pairs = [
            low >= high if gate.higher_is_better else low <= high
            for low, high in gate.limits.values()
        ]
        return all(pairs) and set(gate.limits) == {"float32", "16-bit", "8-bit"}

    assert all(ordered(gate) for gate in gates)


def test_a_repeat_that_was_not_fed_the_same_tells_no_noise(tmp_path: Path) -> None:
    base = one_prompt(tmp_path, "base", SURE, SURE, SURE)
    apart = a_run(tmp_path / "apart", [an_answer([6, 6, 6], [UNLIKE] * 3)])
    with pytest.raises(ConfigError, match="perfkit run MODEL --follow"):
        verify(base, base, apart)


def test_runs_of_different_tokens_are_compared_as_far_as_they_agree(tmp_path: Path) -> None:
    base = a_run(tmp_path / "base", [an_answer([5, 5, 5], [SURE, TIE, SURE])])
    run = a_run(tmp_path / "run", [an_answer([5, 6, 6], [SURE, {6: 0.5, 5: 0.49}, SURE])])
    found = verify(run, base)
    assert (found.figures.places, found.figures.new_tokens) == (2, 3)
    assert "only 2 of 3 places could be compared" in found.notes[0]
    assert f"--follow {base}" in found.notes[0]
    # One of two places differs because it is the last before they part: no reason to complain.
    assert found.figures.top1 == 0.5
    assert found.judged.verdict == "healthy"


def test_a_model_that_computes_no_numbers_is_broken(tmp_path: Path) -> None:
    base = one_prompt(tmp_path, "base", SURE, SURE)
    answer = an_answer([5, 0], [SURE, SURE], fed=[5, 5])
    answer["scored"]["logprobs"][1] = None
    answer["scored"]["top_logprobs"][1] = [None, None]
    found = verify(a_run(tmp_path / "run", [answer]), base)
    assert found.judged.verdict == "broken"
    assert "broken: in 1 places a side computed no number" in found.judged.reasons


def test_without_log_probabilities_equal_answers_are_healthy_others_suspicious(
    tmp_path: Path,
) -> None:
    base = a_run(tmp_path / "base", [an_answer([5, 5])])
    same = verify(a_run(tmp_path / "same", [an_answer([5, 5])]), base)
    assert same.judged.verdict == "healthy"
    other = verify(a_run(tmp_path / "other", [an_answer([5, 6])]), base)
    assert other.judged.verdict == "suspicious"
    assert "Make that run again with --logprobs 64" in other.notes[0]


@pytest.mark.parametrize(
    ("prompt", "prompt_id", "said"),
    [
        ((9, 9), "p1", "have the same ids (p1, ...) but not the same tokens: another tokenizer"),
        ((9, 9), "p9", "have no prompt in common"),
    ],
)
def test_other_prompts_say_what_to_run(
    prompt: tuple[int, ...], prompt_id: str, said: str, tmp_path: Path
) -> None:
    base = one_prompt(tmp_path, "base", SURE)
    answer = an_answer([5], [SURE], prompt=prompt, prompt_id=prompt_id)
    with pytest.raises(ConfigError) as error:
        verify(a_run(tmp_path / "run", [answer]), base)
    assert said in str(error.value)
    assert f"perfkit run MODEL --follow {base}" in str(error.value)


def test_an_endpoint_that_tells_only_text_is_compared_by_text(tmp_path: Path) -> None:
    out = tmp_path / "hosted.parquet"
    row = dict.fromkeys(baseline_schema().names()) | {"prompt_id": "p1", "text": " 5 5 5 "}
    write_baseline(out, {"model": "m", "endpoint": "http://h/v1", "asked_at": "now"}, [row])
    same = verify(a_run(tmp_path / "same", [an_answer([5, 5])]), out)
    assert (same.figures.equal, same.judged.verdict) == (1, "healthy")
    other = verify(a_run(tmp_path / "other", [an_answer([5, 6])]), out)
    assert (other.figures.equal, other.judged.verdict) == (0, "suspicious")
    assert "compared  1 prompt(s), their answers only" in printed(other, "table")


def perfkit_verify(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "perfkit", "verify", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_exit_code_json_and_tables_of_a_broken_run(tmp_path: Path) -> None:
    base = one_prompt(tmp_path, "base", SURE, SURE)
    run = one_prompt(tmp_path, "run", SURE, UNLIKE)
    done = perfkit_verify(run, "--against", base, "--format", "json")
    assert done.returncode == 3
    report = json.loads(done.stdout)
    assert report["verdict"] == "broken"
    assert report["kl"]["kind"] == "at least"
    assert report["kl"]["tokens_listed"] == [2, 2]
    assert f"{run} against {base}: broken: " in done.stderr
    assert pl.read_parquet(run / "tables" / "fidelity_places.parquet").height == 2


def test_suspicious_ends_well_unless_strict(tmp_path: Path) -> None:
    base = a_run(tmp_path / "base", [an_answer([5, 5])])
    run = a_run(tmp_path / "run", [an_answer([5, 6])])
    assert perfkit_verify(run, "--against", base).returncode == 0
    assert perfkit_verify(run, "--against", base, "--strict").returncode == 3


@pytest.mark.parametrize("missing", ["none", "run.json", "outputs.jsonl"])
def test_what_is_missing_is_one_message(missing: str, tmp_path: Path) -> None:
    base = one_prompt(tmp_path, "base", SURE)
    run = one_prompt(tmp_path, "run", SURE)
    if missing == "none":
        run = tmp_path / "nowhere"
    else:
        (run / missing).unlink()
    done = perfkit_verify(run, "--against", base)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "perfkit" in done.stderr


def test_the_table_reads_as_it_should(tmp_path: Path) -> None:
    base = one_prompt(tmp_path, "base", SURE, SURE, SURE)
    text = printed(verify(one_prompt(tmp_path, "run", SURE, UNLIKE, SURE), base), "table")
    lines = text.splitlines()
    assert lines[0] == "run does not answer as base: broken"
    assert lines[1].startswith("  broken: ")
    assert f"baseline  {base}: small, bfloat16, TP 1 x PP 1, eager, cpu" in lines
    assert "compared  1 prompt(s), 3 of 3 places, each fed the same tokens" in lines
    assert any("from the 2 most likely tokens of each place" in line for line in lines)
