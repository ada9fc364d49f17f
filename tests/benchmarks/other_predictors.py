"""Other predictors on the same questions: their time for one answer, and how far off they are.

    python tests/benchmarks/other_predictors.py [--other PYTHON] [TRACES]

PYTHON is an interpreter with aiconfigurator and llm-analysis (`pip install aiconfigurator==0.12.0
llm-analysis==0.2.2`, about 1 GB; none of it is needed for anything else). The questions are the
captured Llama runs of TRACES: bf16, a static batch, no queue. What an interpreter lacks is null.
llm-analysis 0.2.2 knows no gated MLP and refuses Llama 3, so only its time is taken, on Llama 2 7B.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPEATS = 5
HUGGING_FACE = {
    "llama-3.1-8b": "meta-llama/Meta-Llama-3.1-8B",
    "llama-3.3-70b": "meta-llama/Meta-Llama-3.1-70B",
}
"""the ids that come with aiconfigurator; 3.3 70B has the shapes of 3.1 70B"""
SYSTEMS = {"h100-sxm": "h100_sxm", "h200-sxm": "h200_sxm"}


def answer(questions: list[dict[str, Any]]) -> dict[str, Any]:
    """In the other interpreter: {name: {one_ms, answers}}; nothing of perfkit is imported."""
    found: dict[str, Any] = {}
    for name, ask in (("aiconfigurator", _aiconfigurator), ("llm_analysis", _llm_analysis)):
        try:
            found[name] = ask(questions)
        except ImportError:
            found[name] = None
    return found


def _aiconfigurator(questions: list[dict[str, Any]]) -> dict[str, Any]:
    from aiconfigurator.cli.api import cli_estimate

    def one(question: dict[str, Any]) -> dict[str, float]:
        found = cli_estimate(
            mode="static",
            backend_name="vllm",
            database_mode="SILICON",
            gemm_quant_mode="bfloat16",
            kvcache_quant_mode="bfloat16",
            fmha_quant_mode="bfloat16",
            **question,
        )
        return {"ttft_s": found.ttft / 1e3, "tpot_s": found.tpot / 1e3}

    answers = [one(question) for question in questions]
    return {"one_ms": _milliseconds(lambda: one(questions[0])), "answers": answers}


def _llm_analysis(_questions: list[dict[str, Any]]) -> dict[str, Any]:
    from llm_analysis import config
    from llm_analysis.analysis import LLMAnalysis

    shape = {"num_layers": 32, "n_head": 32, "hidden_dim": 4096, "vocab_size": 32000}
    analysis = LLMAnalysis(
        config.ModelConfig(name="llama-2-7b", max_seq_len=4096, **shape),
        config.get_gpu_config_by_name("a100-sxm-80gb"),
        config.get_dtype_config_by_name("w16a16e16"),
        config.ParallelismConfig(tp_size=2, pp_size=1),
    )
    asked = {"batch_size_per_gpu": 8, "seq_len": 2048, "num_tokens_to_generate": 128}
    return {"one_ms": _milliseconds(lambda: analysis.inference(**asked)), "answers": None}


def _milliseconds(call: Any) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(times), 3)


def beside(traces: Path, other: Path | None) -> dict[str, Any]:
    """perfkit's mean errors and time beside the others', over the same runs."""
    rows = questions_of(traces)
    questions = [row["question"] for row in rows]
    others: dict[str, Any] = {"aiconfigurator": None, "llm_analysis": None}
    if other is not None:
        text = subprocess.run(
            [other, __file__, "--answer"],
            input=json.dumps(questions),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        others = json.loads(text.splitlines()[-1])
    ours = {"one_ms": _one_plan(), "answers": [row["predicted"] for row in rows]}
    measured = [row["measured"] for row in rows]
    return {
        "benchmark": "other_predictors",
        "runs": len(rows),
        **{name: _scored(one, measured) for name, one in {"perfkit": ours, **others}.items()},
    }


def questions_of(traces: Path) -> list[dict[str, Any]]:
    """Captured bfloat16 runs of Llama models that no number of a calibration comes from."""
    import polars as pl

    from perfkit.compare.accuracy import predicted_runs
    from perfkit.schema import open_run

    folders = sorted(path for path in traces.iterdir() if (path / "run.json").is_file())
    frame, _left_out = predicted_runs(folders)
    frame = frame.filter(
        pl.col("decode") == "graph",
        ~pl.col("held_in"),
        pl.col("model").is_in(list(HUGGING_FACE)),
        pl.col("microbatches") == 1,
        pl.col("measure").is_in(["ttft_s", "tpot_s"]),
    )
    found = []
    for (run,), rows in frame.group_by("run", maintain_order=True):
        first = rows.row(0, named=True)
        config = open_run(traces / str(run))[1]["config"]
        if config["dtype"] != "bfloat16":
            continue
        question = {
            "model_path": HUGGING_FACE[first["model"]],
            "system_name": SYSTEMS[first["gpu"]],
            "isl": first["prompt_tokens"],
            "osl": config["new_tokens"],
            "batch_size": first["batch"],
            "tp_size": first["tp"],
            "pp_size": first["pp"],
        }
        values = {
            column: dict(rows.select("measure", column).rows())
            for column in ("predicted", "measured")
        }
        found.append({"question": question, **values})
    return found


def _one_plan() -> float:
    from perfkit.predict.cards import load_spec
    from perfkit.predict.gpus import load_gpu
    from perfkit.predict.plan import Plan
    from perfkit.predict.rates import rates_from_gpu
    from perfkit.predict.time import predict

    spec, rates = load_spec("llama-3.3-70b"), rates_from_gpu(load_gpu("h200-sxm"), "bfloat16")
    plan = Plan(tp=2, batch=8, decode="graph")
    return _milliseconds(lambda: predict(spec, rates, plan))


def _scored(one: dict[str, Any] | None, measured: list[dict[str, float]]) -> dict[str, Any] | None:
    if one is None:
        return None
    found: dict[str, Any] = {"one_ms": one["one_ms"], "ttft_error": None, "tpot_error": None}
    for name in ("ttft", "tpot"):
        if one["answers"] is not None:
            pairs = zip(one["answers"], measured, strict=True)
            errors = [abs(a[f"{name}_s"] / m[f"{name}_s"] - 1) for a, m in pairs]
            found[f"{name}_error"] = round(statistics.mean(errors), 3)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("traces", type=Path, nargs="?", default=Path("traces"))
    parser.add_argument("--other", type=Path, help="interpreter with aiconfigurator, llm-analysis")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.answer:
        print(json.dumps(answer(json.load(sys.stdin))))
    else:
        print(json.dumps(beside(given.traces, given.other)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
