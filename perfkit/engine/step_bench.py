"""What a step of the engine costs beyond its kernels: steps of a model with next to no work.

Two depths tell the cost of a layer from that of a step. The ranks, groups, sharding and schedule
are a run's own, so the host's time for tensor-parallel layers and the way of a token through the
pipeline are what a run pays.
"""

import os
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist

from perfkit.collect.settings import RunSettings
from perfkit.engine import batch as batching
from perfkit.engine.decoding import EagerDecoder, GraphDecoder, make_decoder
from perfkit.engine.loading import fill_dummy
from perfkit.engine.microbatch import Stopping
from perfkit.engine.pipeline import generate
from perfkit.engine.recorder import Phase, Recorder
from perfkit.engine.stage import build_stage
from perfkit.engine.topology import Topology

TINY: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 512,
    "intermediate_size": 512,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
DEPTHS = (4, 16)
"""layers of a stage"""
PROMPT, NEW = 16, 33
PASSES = 4
"""the first warms up"""


def step_points(topology: Topology, dtype: str) -> Iterator[dict[str, Any]]:
    """One point a mode, depth and number of microbatches, from every rank."""
    counts = (1, 2, 2 * topology.pp) if topology.pp > 1 else (1,)
    for decode in ("eager", "graph"):
        for layers in DEPTHS:
            settings = tiny_settings(topology, dtype, decode)
            place = range(topology.pp_rank * layers, (topology.pp_rank + 1) * layers)
            config = {**TINY, "num_hidden_layers": layers * topology.pp}
            stage = build_stage(settings, config, place, topology)
            decoder = make_decoder(decode, stage, topology)
            fill_dummy(stage, topology, 0)
            for microbatches in dict.fromkeys(counts):
                yield {
                    "op": "step",
                    "decode": decode,
                    "layers": layers,
                    "microbatches": microbatches,
                    "tp": topology.tp,
                    "pp": topology.pp,
                    "stage": topology.pp_rank,
                    "tp_rank": topology.tp_rank,
                    **step_times(decoder, microbatches, settings),
                }
            decoder.close()
            dist.barrier()


def tiny_settings(topology: Topology, dtype: str, decode: str) -> RunSettings:
    return RunSettings(
        model_id="tiny",
        model_folder=None,
        tp=topology.tp,
        pp=topology.pp,
        dtype=dtype,
        load="dummy",
        decode=decode,
        prompt_tokens=PROMPT,
        new_tokens=NEW,
    )


def step_times(
    decoder: EagerDecoder | GraphDecoder, microbatches: int, settings: RunSettings
) -> dict[str, float]:
    """Medians over the timed passes, in seconds: the host's and the device's part of a forward,
    and where tokens are chosen the time to the first and between two."""
    topology = decoder.topology
    stopping = Stopping(NEW, frozenset(), 0)
    ids = tuple(range(1, PROMPT + 1))
    requests = [batching.Request(str(number), ids) for number in range(microbatches)]
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(PASSES):
        gpu = topology.device.type == "cuda"
        recorder = Recorder(Path(os.devnull), rank=0, tp_rank=0, pp_rank=0, gpu=gpu)
        batches = batching.make_microbatches(requests, microbatches, NEW, 0, topology.device)
        dist.barrier()
        with recorder.phase("request"):
            generate(decoder, batches, stopping, recorder)
        phases = list(recorder.phases)
        recorder.end_pass()
        recorder.close()
        if number:
            for name, seconds in pass_times(phases).items():
                found[name].append(seconds)
    return {name: statistics.median(values) for name, values in found.items()}


def pass_times(phases: list[Phase]) -> dict[str, float]:
    by_name: dict[str, list[Phase]] = defaultdict(list)
    for phase in phases:
        by_name[phase.name].append(phase)
    times = {
        "prefill_host_s": host_s(by_name["prefill"]),
        "decode_host_s": host_s(by_name["decode"]),
        "decode_device_s": 1e-9 * statistics.median(p.device_ns() or 0 for p in by_name["decode"]),
    }
    samples = by_name["sample"]
    if samples:
        (request,) = by_name["request"]
        first = max(p.end_ns for p in samples if p.step == 0)
        times["ttft_s"] = 1e-9 * (first - request.start_ns)
        times["tpot_s"] = 1e-9 * (samples[-1].end_ns - first) / (NEW - 1)
    return times


def host_s(phases: list[Phase]) -> float:
    return 1e-9 * statistics.median(p.end_ns - p.start_ns for p in phases)
