"""The engine at tp = pp = 1 against Hugging Face generate: same model, batch, lengths, process.

Prints one JSON line: medians of the per-token decode time of both, and their ratio. Passes
alternate, so that a change of the machine's speed meets both.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer

from perfkit.collect.launch import free_port
from perfkit.collect.settings import RunSettings
from perfkit.engine import batch as batching
from perfkit.engine.loading import fill_dummy, load_safetensors
from perfkit.engine.models import find_model
from perfkit.engine.pipeline import Stopping, generate
from perfkit.engine.recorder import Recorder
from perfkit.engine.session import prepare_torch
from perfkit.engine.stage import DTYPES, Stage, build_stage
from perfkit.engine.topology import Topology, connect, disconnect

BATCH, PROMPT, NEW, PASSES = 4, 64, 33, 5


class Clock(BaseStreamer):
    """Notes when generate has a token on the host."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None: ...


def engine_step_s(stage: Stage, topology: Topology, requests: Any, recorder: Recorder) -> float:
    """Median seconds between the tokens of one engine pass."""
    batches = batching.make_microbatches(requests, 1, NEW, 0, topology.device)
    recorder.begin_pass("timed", 0)
    generate(stage, topology, batches, Stopping(NEW, frozenset(), 0), recorder)
    ends = [1e-9 * phase.end_ns for phase in recorder.phases if phase.name == "sample"]
    recorder.end_pass()
    return median_gap(ends)


def generate_step_s(model: Any, ids: torch.Tensor) -> float:
    """Median seconds between the tokens of one generate call."""
    clock = Clock()
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        streamer=None if len(ids) > 1 else clock,
        stopping_criteria=None,
        custom_generate=None,
        **({"logits_processor": [lambda _ids, scores: tick(clock, scores)]} if len(ids) > 1 else {}),
    )
    return median_gap(clock.times)


def tick(clock: Clock, scores: torch.Tensor) -> torch.Tensor:
    clock.times.append(time.perf_counter())
    return scores


def median_gap(times: list[float]) -> float:
    return statistics.median(b - a for a, b in zip(times, times[1:], strict=False))


def main() -> None:
    name, device = sys.argv[1], "cuda" if torch.cuda.is_available() else "cpu"
    dtype = sys.argv[2] if len(sys.argv) > 2 else "float32"
    os.environ.update(
        RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(free_port()), GLOO_SOCKET_IFNAME="lo",
        OMP_NUM_THREADS=str(len(os.sched_getaffinity(0))),
    )
    prepare_torch(device)
    found = find_model(name, None, weights=False)
    settings = RunSettings(model_id=name, model_folder=str(found.folder), dtype=dtype)
    topology = connect(1, 1, device)
    layers = range(found.config["num_hidden_layers"])
    stage = build_stage(settings, found.config, layers, topology)
    if found.folder:
        load_safetensors(stage, topology, found.folder, lambda _share: None)
    else:
        fill_dummy(stage, topology, 0)
    # generate runs on the very same weights: the engine's stage is an ordinary model at tp=pp=1.
    model = stage.model
    requests = batching._random_requests(
        RunSettings(model_id=name, model_folder=None, batch=BATCH, prompt_tokens=PROMPT),
        found.config["vocab_size"],
    )
    ids = torch.tensor([r.ids for r in requests], device=topology.device)
    recorder = Recorder(Path(os.devnull), rank=0, tp_rank=0, pp_rank=0, gpu=device == "cuda")
    engine, plain = [], []
    for number in range(PASSES + 1):
        pair = (engine_step_s(stage, topology, requests, recorder), generate_step_s(model, ids))
        if number:
            engine.append(pair[0])
            plain.append(pair[1])
    disconnect()
    result = {"engine_ms": 1e3 * statistics.median(engine), "generate_ms": 1e3 * statistics.median(plain)}
    print(json.dumps({**result, "ratio": result["engine_ms"] / result["generate_ms"], "model": name, "device": device, "batch": BATCH}))


if __name__ == "__main__":
    main()
