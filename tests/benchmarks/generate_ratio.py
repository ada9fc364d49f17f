"""The engine at tp = pp = 1 against Hugging Face generate: same weights, batch, lengths, process.

    python tests/benchmarks/generate_ratio.py MODEL [DTYPE]

Prints one JSON line with the median time between two tokens of both, and their ratio. Passes
alternate, so that a change of the machine's speed meets both. Exit code 3 when the engine loses
more than the goal allows.
"""

import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from perfkit.collect.launch import choose_master, engine_environment, local_place
from perfkit.collect.settings import RunSettings
from perfkit.engine import batch as batching
from perfkit.engine.decoding import EagerDecoder
from perfkit.engine.loading import fill_dummy, load_safetensors
from perfkit.engine.microbatch import Stopping
from perfkit.engine.models import find_model
from perfkit.engine.pipeline import generate
from perfkit.engine.recorder import Recorder
from perfkit.engine.session import prepare_torch
from perfkit.engine.stage import build_stage
from perfkit.engine.topology import connect, disconnect

BATCH, PROMPT, NEW, PASSES = 4, 64, 33, 5
GOAL = 1.05
CHECK_FAILED = 3


def engine_gap_s(
    decoder: EagerDecoder, requests: Sequence[batching.Request], recorder: Recorder
) -> float:
    """Median seconds between the tokens of one engine pass."""
    batches = batching.make_microbatches(requests, 1, NEW, 0, decoder.topology.device)
    generate(decoder, batches, Stopping(NEW, frozenset(), 0), recorder)
    ends = [1e-9 * phase.end_ns for phase in recorder.phases if phase.name == "sample"]
    recorder.end_pass()
    return median_gap(ends)


def generate_gap_s(model: Any, ids: torch.Tensor) -> float:
    """Median seconds between the tokens of one generate call."""
    times: list[float] = []

    def tick(_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        times.append(time.perf_counter())
        return scores

    lengths = {"max_new_tokens": NEW, "min_new_tokens": NEW}
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        logits_processor=[tick],
        **lengths,
    )
    return median_gap(times)


def median_gap(times: list[float]) -> float:
    return statistics.median(after - before for before, after in itertools.pairwise(times))


def measure(name: str, dtype: str, device: str) -> dict[str, Any]:
    found = find_model(name, None, weights=False)
    folder = str(found.folder) if found.folder else None
    settings = RunSettings(
        model_id=name, model_folder=folder, dtype=dtype, batch=BATCH, prompt_tokens=PROMPT
    )
    topology = connect(1, 1, device)
    stage = build_stage(settings, found.config, range(found.config["num_hidden_layers"]), topology)
    if found.folder:
        load_safetensors(stage, found.folder, lambda _share: None)
    else:
        fill_dummy(stage, topology, 0)
    requests = batching.make_requests(settings, stage.config.vocab_size, None)
    ids = torch.tensor([request.ids for request in requests], device=topology.device)
    recorder = Recorder(Path(os.devnull), rank=0, tp_rank=0, pp_rank=0, gpu=device == "cuda")
    # At tp = pp = 1 the stage is an ordinary model, so generate runs on the very same weights.
    pairs = [
        (
            engine_gap_s(EagerDecoder(stage, topology), requests, recorder),
            generate_gap_s(stage.model, ids),
        )
        for _ in range(PASSES + 1)
    ][1:]
    recorder.close()
    disconnect()
    engine_ms, generate_ms = (
        1e3 * statistics.median(column) for column in zip(*pairs, strict=True)
    )
    return {
        "benchmark": "engine / generate, time between tokens",
        "model": name,
        "device": device,
        "dtype": dtype,
        "engine_ms": engine_ms,
        "generate_ms": generate_ms,
        "ratio": engine_ms / generate_ms,
        "goal": GOAL,
    }


def main() -> None:
    name, dtype = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "float32"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    place = local_place(1)
    os.environ.update(engine_environment(place, 0, choose_master(place, os.environ), os.environ))
    prepare_torch(device)
    found = measure(name, dtype, device)
    sys.stdout.write(json.dumps(found) + "\n")
    sys.exit(CHECK_FAILED if found["ratio"] > GOAL else 0)


if __name__ == "__main__":
    main()
