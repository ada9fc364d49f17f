"""perfkit's engine beside transformers' generate and transformers' own tensor parallelism.

    python tests/benchmarks/transformers_generate.py MODEL [--tp 1,2] [--prompt 2048] [--new 33]

Random weights are written once as a checkpoint of two-byte values; then, on the same files and the
same prompt, one after the other: transformers' generate (greedy, its growing cache), with
tp_plan="auto" where more than one rank takes part, and `perfkit run` with eager and with graph
steps. Prints one JSON line for each number of ranks: medians of the time to the first token and of
the time between two, how often perfkit is faster, and how many leading tokens agree (bfloat16 and
random weights: logits lie close together, so a few steps are all that can be asked for).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM

from perfkit import measures
from perfkit.collect.launch import choose_master, engine_environment, local_place
from perfkit.collect.settings import RunSettings
from perfkit.engine import batch as batching
from perfkit.engine.models import find_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKEND = "nccl" if DEVICE == "cuda" else "gloo"


def make_checkpoint(model: str, folder: Path) -> None:
    """Random weights of the model's shape, as transformers writes them."""
    config = AutoConfig.for_model(**find_model(model, None, weights=False).config)
    torch.manual_seed(0)
    with torch.device(DEVICE):
        made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    made.to("cpu").save_pretrained(folder)


def prompt_ids(vocab: int, prompt: int) -> list[int]:
    """The engine's own prompt, so that both read the same tokens."""
    settings = RunSettings(model_id="", model_folder=None, batch=1, prompt_tokens=prompt)
    return list(batching.make_requests(settings, vocab, None)[0].ids)


def transformers_rank(arguments: argparse.Namespace) -> None:
    """One rank of generate: times of one token and of all, from which the time between two."""
    ranks = int(os.environ["WORLD_SIZE"])
    if DEVICE == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(BACKEND)
    options = {"tp_plan": "auto"} if ranks > 1 else {"device_map": DEVICE}
    model: Any = AutoModelForCausalLM.from_pretrained(
        arguments.folder, dtype=torch.bfloat16, **options
    )
    ids = torch.tensor([prompt_ids(model.config.vocab_size, arguments.prompt)], device=DEVICE)
    mask = torch.ones_like(ids)
    times: dict[int, list[float]] = {1: [], arguments.new: []}
    chosen: list[int] = []
    for _ in range(1 + arguments.repeats):
        for count, found in times.items():
            dist.barrier()
            start = time.perf_counter()
            tokens = model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
            )
            chosen = tokens[0, ids.shape[1] :].tolist()
            found.append(time.perf_counter() - start)
    first, whole = (statistics.median(found[1:]) for found in times.values())
    if int(os.environ["RANK"]) == 0:
        facts = {"ttft_s": first, "tpot_s": (whole - first) / (arguments.new - 1), "ids": chosen}
        Path(arguments.result).write_text(json.dumps(facts))
    dist.destroy_process_group()


def transformers_times(
    arguments: argparse.Namespace, ranks: int, folder: Path
) -> dict[str, Any] | None:
    """None where transformers fails: its own plan does not divide every model's heads."""
    place = local_place(ranks)
    master = choose_master(place, os.environ)
    result = folder.parent / f"transformers-{ranks}.json"
    command = [sys.executable, *sys.argv, "--folder", str(folder), "--result", str(result)]
    started = [
        subprocess.Popen(command, env=engine_environment(place, rank, master, os.environ))
        for rank in place.ranks
    ]
    if max([process.wait() for process in started]):
        return None
    return dict(json.loads(result.read_text()))


def perfkit_times(
    arguments: argparse.Namespace, ranks: int, folder: Path, decode: str
) -> dict[str, Any]:
    out = folder.parent / f"perfkit-{ranks}-{decode}"
    command = [sys.executable, "-m", "perfkit", "run", str(folder), "--out", str(out)]
    command += ["--tp", str(ranks), "--decode", decode, "--dtype", "bfloat16", "--batch", "1"]
    command += ["--prompt-tokens", str(arguments.prompt), "--new-tokens", str(arguments.new)]
    command += ["--repeats", str(arguments.repeats), "--collect", "none"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    line = (out / "outputs.jsonl").read_text().splitlines()[0]
    timers = (out / "ranks" / "0000" / "timers.jsonl").read_text().splitlines()[1:]
    return {
        **medians([json.loads(timer) for timer in timers]),
        "ids": json.loads(line)["token_ids"],
    }


def medians(timers: list[dict[str, Any]]) -> dict[str, float]:
    """ttft_s and tpot_s over the timed passes."""
    passes: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for timer in timers:
        if timer["kind"] == "timed":
            place = "start_ns" if timer["phase"] == "request" else "end_ns"
            passes[timer["pass"]][timer["phase"]].append(timer[place])
    ttft, tpot = [], []
    for found in passes.values():
        (start,), ends = found["request"], found["sample"]
        ttft.append(measures.ttft_s(start, ends[:1]))
        tpot.append(measures.tpot_s(measures.e2e_s(start, ends), ttft[-1], len(ends)) or 0.0)
    return {"ttft_s": statistics.median(ttft), "tpot_s": statistics.median(tpot)}


def same_start(one: list[int], other: list[int]) -> int:
    """How many leading tokens agree."""
    differ = (
        number for number, pair in enumerate(zip(one, other, strict=True)) if len({*pair}) > 1
    )
    return next(differ, len(one))


def compare(arguments: argparse.Namespace, ranks: int, folder: Path) -> dict[str, Any]:
    plain = transformers_times(arguments, ranks, folder)
    found = {mode: perfkit_times(arguments, ranks, folder, mode) for mode in ("eager", "graph")}
    row: dict[str, Any] = {
        "benchmark": "transformers' generate",
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
        "model": arguments.model,
        "tp": ranks,
        "prompt": arguments.prompt,
        "new": arguments.new,
        **in_ms("generate", plain),
    }
    for mode, measured in found.items():
        row |= in_ms(mode, measured)
        row[f"generate_over_{mode}"] = plain and round(plain["tpot_s"] / measured["tpot_s"], 2)
        row[f"{mode}_same_tokens"] = plain and same_start(plain["ids"], measured["ids"])
    return row


def in_ms(name: str, times: dict[str, Any] | None) -> dict[str, float | None]:
    return {
        f"{name}_{key}_ms": None if times is None else round(1e3 * times[f"{key}_s"], 3)
        for key in ("ttft", "tpot")
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--tp", type=lambda text: [int(n) for n in text.split(",")], default=[1])
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--new", type=int, default=33)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="a folder with room for the checkpoint")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    if "RANK" in os.environ:
        transformers_rank(arguments)
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(scratch) / "checkpoint"
        make_checkpoint(arguments.model, folder)
        for ranks in arguments.tp:
            print(json.dumps(compare(arguments, ranks, folder)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
