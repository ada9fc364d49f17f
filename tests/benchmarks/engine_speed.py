"""The engine's decode modes on GPUs against a plain Hugging Face loop and the memory's own speed.

    python tests/benchmarks/engine_speed.py MODEL [--tp N] [--batch 1,32] [--prompt 2048] [--new 33]

Random weights, one set of ranks, one run: a plain forward loop over the very same shards, the
engine's eager steps and its graph steps take turns. Prints one JSON line a batch: medians of the
time to the first token and of the time between two, the floor (bytes of weights and KV read by a
rank in a step, over the measured speed of a device copy), and the ratios. Exit code 3 when a goal
does not hold.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import DynamicCache

from perfkit.collect.launch import choose_master, engine_environment, local_place
from perfkit.collect.settings import RunSettings
from perfkit.engine import batch as batching
from perfkit.engine import checks
from perfkit.engine.decoding import EagerDecoder, GraphDecoder, most_likely
from perfkit.engine.loading import fill_dummy
from perfkit.engine.microbatch import Stopping
from perfkit.engine.models import find_model
from perfkit.engine.pipeline import generate
from perfkit.engine.recorder import Recorder
from perfkit.engine.session import prepare_torch
from perfkit.engine.stage import Stage, build_stage
from perfkit.engine.topology import Topology, connect, disconnect

PASSES = {1: 6}
PASSES_OF_LARGE_BATCHES = 2
CHECK_FAILED = 3
COPY_BYTES, COPIES = 2**31, 10
EAGER_GOAL, TTFT_GOAL = 1.05, 1.05
Times = tuple[float, float]
"""seconds to the first token, and between two"""


def plain_loop(stage: Stage, topology: Topology, ids: torch.Tensor, new_tokens: int) -> Times:
    """The Hugging Face forward, its own cache, one token read at each step."""
    cache, ends = DynamicCache(config=stage.config), []
    dist.barrier()
    start = time.perf_counter()
    with torch.inference_mode():
        for _ in range(new_tokens):
            hidden = stage.decoder(input_ids=ids, past_key_values=cache, use_cache=True)
            logits = stage.head(hidden.last_hidden_state[:, -1:])[:, -1]
            ids = most_likely(logits, topology)[:, None]
            ids.tolist()
            ends.append(time.perf_counter())
    return times_of(start, ends)


def engine_pass(
    decoder: EagerDecoder | GraphDecoder, requests: list[batching.Request], new_tokens: int
) -> Times:
    topology = decoder.topology
    recorder = Recorder(Path(os.devnull), rank=0, tp_rank=0, pp_rank=0, gpu=True)
    batches = batching.make_microbatches(requests, 1, new_tokens, 0, topology.device)
    dist.barrier()
    start = time.perf_counter()
    generate(decoder, batches, Stopping(new_tokens, frozenset(), 0), recorder)
    ends = [1e-9 * phase.end_ns for phase in recorder.phases if phase.name == "sample"]
    recorder.close()
    return times_of(start, ends)


def times_of(start: float, ends: list[float]) -> Times:
    return ends[0] - start, (ends[-1] - ends[0]) / (len(ends) - 1)


def copy_bytes_per_s(device: torch.device) -> float:
    """Bytes read and written a second by a copy on the device."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    for _ in range(2):
        target.copy_(source)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(COPIES):
        target.copy_(source)
    torch.cuda.synchronize()
    return 2 * COPY_BYTES * COPIES / (time.perf_counter() - start)


def bytes_of_step(stage: Stage, batch: int, context: int) -> int:
    """Weights and KV that a rank reads in a decode step: everything but unread embedding rows."""
    config: Any = stage.config
    decoder: Any = stage.decoder
    table = decoder.embed_tokens.weight
    weights = checks.local_bytes(stage)
    if not config.tie_word_embeddings:
        weights -= table.numel() * table.element_size()
    heads = decoder.layers[0].self_attn.k_proj.weight.shape[0]
    return int(weights + 2 * len(stage.layers) * heads * table.element_size() * batch * context)


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    found = find_model(arguments.model, None, weights=False)
    settings = RunSettings(
        model_id=arguments.model, model_folder=None, tp=arguments.tp, dtype="bfloat16"
    )
    topology = connect(arguments.tp, 1, "cuda")
    copy = copy_bytes_per_s(topology.device)
    stage = build_stage(settings, found.config, range(found.config["num_hidden_layers"]), topology)
    graph, eager = GraphDecoder(stage, topology), EagerDecoder(stage, topology)
    fill_dummy(stage, topology, 0)
    rows = [
        one_batch(batch, arguments, stage, {"eager": eager, "graph": graph}, copy)
        for batch in arguments.batch
    ]
    graph.close()
    disconnect()
    return rows if topology.rank == 0 else []


def one_batch(
    batch: int,
    arguments: argparse.Namespace,
    stage: Stage,
    decoders: dict[str, EagerDecoder | GraphDecoder],
    copy: float,
) -> dict[str, Any]:
    settings = RunSettings(
        model_id="", model_folder=None, batch=batch, prompt_tokens=arguments.prompt
    )
    requests = batching.make_requests(settings, stage.config.vocab_size, None)
    topology = decoders["eager"].topology
    ids = torch.tensor([request.ids for request in requests], device=topology.device)
    times: dict[str, list[Times]] = {"plain": [], "eager": [], "graph": []}
    for _ in range(1 + PASSES.get(batch, PASSES_OF_LARGE_BATCHES)):
        times["plain"].append(plain_loop(stage, topology, ids, arguments.new))
        for name, decoder in decoders.items():
            times[name].append(engine_pass(decoder, requests, arguments.new))
    ttft, tpot = (
        {
            name: 1e3 * statistics.median(row[part] for row in rows[1:])
            for name, rows in times.items()
        }
        for part in (0, 1)
    )
    floor = 1e3 * bytes_of_step(stage, batch, arguments.prompt + arguments.new // 2) / copy
    return {
        "benchmark": "engine on GPUs",
        "device": torch.cuda.get_device_name(topology.device),
        "model": arguments.model,
        "tp": arguments.tp,
        "batch": batch,
        "prompt": arguments.prompt,
        "copy_tb_per_s": round(copy / 1e12, 3),
        "floor_ms": round(floor, 3),
        **{f"{name}_ttft_ms": round(value, 2) for name, value in ttft.items()},
        **{f"{name}_tpot_ms": round(value, 3) for name, value in tpot.items()},
        "eager_over_plain": round(tpot["eager"] / tpot["plain"], 3),
        "graph_over_floor": round(tpot["graph"] / floor, 3),
        "ttft_over_plain": round(ttft["eager"] / ttft["plain"], 3),
    }


def good(row: dict[str, Any]) -> bool:
    """The goals: eager as fast as the plain loop, graphs near the floor."""
    floor = 1.5 if row["batch"] > 1 else 1.25 if row["tp"] == 1 else 1.35
    return bool(
        row["eager_over_plain"] <= EAGER_GOAL
        and row["ttft_over_plain"] <= TTFT_GOAL
        and row["graph_over_floor"] <= floor
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--batch", type=lambda text: [int(b) for b in text.split(",")], default=[1])
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--new", type=int, default=33)
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    if "RANK" not in os.environ:
        return start_ranks(arguments.tp)
    prepare_torch("cuda")
    rows = measure(arguments)
    for row in rows:
        print(json.dumps(row), flush=True)
    return 0 if all(map(good, rows)) else CHECK_FAILED


def start_ranks(count: int) -> int:
    place = local_place(count)
    master = choose_master(place, os.environ)
    ranks = [
        subprocess.Popen(
            [sys.executable, *sys.argv],
            env=engine_environment(place, rank, master, os.environ),
        )
        for rank in place.ranks
    ]
    return max(rank.wait() for rank in ranks)


if __name__ == "__main__":
    sys.exit(main())
