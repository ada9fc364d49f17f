"""Runs many token cases on one set of ranks: starting ranks is most of a case's time.

Usage: token_worker.py CASES.json OUT.json; torch.distributed's variables in the environment.
Each case: {"folder", "tp", "pp", "microbatches", "prompts": [[ids]], "new_tokens", "eos", "pad"}.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from perfkit.collect.settings import RunSettings
from perfkit.engine import batch as batching
from perfkit.engine import checks
from perfkit.engine.decoding import make_decoder
from perfkit.engine.loading import load_safetensors
from perfkit.engine.microbatch import Stopping
from perfkit.engine.pipeline import generate
from perfkit.engine.recorder import Recorder
from perfkit.engine.session import prepare_torch
from perfkit.engine.stage import build_stage
from perfkit.engine.topology import Topology, connect, disconnect
from perfkit.predict.spec import spec_from_config
from perfkit.predict.tensors import stage_layers


def run_case(case: dict[str, Any], topology: Topology, recorder: Recorder) -> list[list[int]]:
    """The tokens of one case, checked as a run checks them."""
    folder = Path(case["folder"])
    config = json.loads((folder / "config.json").read_text())
    split = tuple(case["split"]) if case.get("split") else None
    settings = RunSettings(
        model_id=folder.name,
        model_folder=str(folder),
        tp=topology.tp,
        pp=topology.pp,
        split=split,
        new_tokens=case["new_tokens"],
        sharding=case.get("sharding", "autotp"),
    )
    spec = spec_from_config(config, model_id=folder.name)
    layers = stage_layers(spec.num_layers, topology.pp, split)[topology.pp_rank]
    stage = build_stage(settings, config, layers, topology)
    decoder = make_decoder(case.get("decode", "eager"), stage, topology)
    decoder.runs_ahead = case.get("runs_ahead", decoder.runs_ahead)
    load_safetensors(stage, folder, lambda _share: None)
    checks.check_bytes(stage, spec, topology, settings)
    checks.check_no_meta(stage.model)
    checks.check_rotary(stage, topology.device)
    requests = [batching.Request(str(i), tuple(ids)) for i, ids in enumerate(case["prompts"])]
    stopping = Stopping(case["new_tokens"], frozenset(case["eos"]), case["pad"])
    batches = batching.make_microbatches(
        requests, case["microbatches"], case["new_tokens"], case["pad"], topology.device
    )
    generate(
        decoder,
        batches,
        stopping,
        recorder,
        lambda logits: checks.check_same_logits(logits, topology),
    )
    recorder.end_pass()
    decoder.close()
    return [
        record["token_ids"] for record in batching.outputs(requests, batches, case["pad"], None)
    ]


def main() -> None:
    cases = json.loads(Path(sys.argv[1]).read_text())
    device = cases[0]["device"]
    prepare_torch(device)
    topology = connect(cases[0]["tp"], cases[0]["pp"], device)
    recorder = Recorder(Path("/dev/null"), rank=0, tp_rank=0, pp_rank=0, gpu=device == "cuda")
    found = [run_case(case, topology, recorder) for case in cases]
    if topology.rank == 0:
        Path(sys.argv[2]).write_text(json.dumps(found))
    torch.distributed.barrier()
    disconnect()


if __name__ == "__main__":
    main()
