"""The rank's session: connect, build, load, check, warm up, time, capture, write, leave."""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from perfkit import measures
from perfkit.collect.facts import cpu_name
from perfkit.engine import batch as batching
from perfkit.engine import checks
from perfkit.engine.decoding import EagerDecoder, GraphDecoder, make_decoder
from perfkit.engine.loading import fill_dummy, load_safetensors
from perfkit.engine.microbatch import MicroBatch, Stopping
from perfkit.engine.moe import expert_facts
from perfkit.engine.pipeline import generate
from perfkit.engine.quantize import quantize_facts
from perfkit.engine.reached import experts_reached
from perfkit.engine.recorder import Phase, Recorder
from perfkit.engine.scoring import paths_to_score, score
from perfkit.engine.stage import Stage, build_stage
from perfkit.engine.topology import Topology, connect, disconnect
from perfkit.predict.spec import spec_from_config
from perfkit.predict.tensors import stage_layers

if TYPE_CHECKING:
    from perfkit.engine.worker import Rank


def run(rank: "Rank") -> None:
    """Everything between joining the other ranks and leaving them."""
    settings = rank.settings
    prepare_torch(settings.device)
    rank.tell(f"connecting {settings.num_ranks} ranks")
    with rank.timed("connect_s"):
        topology = connect(settings.tp, settings.pp, settings.device)
    decoder = make_stage(rank, topology)
    passes(rank, topology, decoder)
    decoder.close()
    disconnect()


def prepare_torch(device: str) -> None:
    torch.set_grad_enabled(False)
    if device == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    # Full fp32 products: TF32 would make fp32 tokens differ from the reference's.
    torch.backends.cuda.matmul.allow_tf32 = False


def make_stage(rank: "Rank", topology: Topology) -> EagerDecoder | GraphDecoder:
    """Build, load and check this rank's stage, with what will run it."""
    settings = rank.settings
    spec = spec_from_config(rank.model_config, model_id=rank.model_id)
    layers = stage_layers(spec.num_layers, settings.pp, settings.split)[topology.pp_rank]
    if topology.device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(topology.device)
        if doubt := checks.check_fits(spec, settings, topology, free):
            rank.tell(doubt)
    rank.tell("building and sharding the model")
    with rank.timed("build_s"):
        stage = build_stage(settings, rank.model_config, layers, topology)
        decoder = make_decoder(settings.decode, stage, topology)
        if topology.device.type == "cuda":
            # Packing left the separate weights' blocks behind: a third of the shard.
            torch.cuda.empty_cache()
    with rank.timed("load_s"):
        load(rank, topology, stage)
        # Loading times differ; nobody may start the first collective minutes before the others.
        dist.barrier()
    checks.check_bytes(stage, spec, topology, settings)
    checks.check_no_meta(stage.model)
    checks.check_rotary(stage, topology.device)
    rank.facts |= {
        "layers": [layers.start, layers.stop],
        "parameter_bytes": checks.local_bytes(stage),
        "device": device_name(topology.device),
        "threads": torch.get_num_threads(),
        "decode": decoder.facts,
        "experts": expert_facts(stage.model, settings.load),
        "quantize": quantize_facts(stage.model, settings),
    }
    keep_memory(rank, topology, "loaded")
    return decoder


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def load(rank: "Rank", topology: Topology, stage: Stage) -> None:
    settings = rank.settings
    if settings.load == "dummy":
        rank.tell("filling with random weights")
        fill_dummy(stage, topology, settings.seed)
        return
    last_told = 0.0

    def on_progress(share: float) -> None:
        nonlocal last_told
        if share == 1 or time.monotonic() - last_told > 1:
            last_told = time.monotonic()
            rank.tell(f"loading {share:.0%}")

    assert settings.model_folder is not None
    load_safetensors(stage, Path(settings.model_folder), on_progress)


def passes(rank: "Rank", topology: Topology, decoder: EagerDecoder | GraphDecoder) -> None:
    """Warm-up, timed passes with no collector, then the same steps under the profiler."""
    settings = rank.settings
    with rank.timed("prompts_s"):
        tokenizer = batching.load_tokenizer(settings.model_folder)
        requests = batching.make_requests(settings, decoder.stage.config.vocab_size, tokenizer)
    stopping = batching.stopping_rule(settings, rank.model_config, tokenizer)
    recorder = Recorder(
        rank.folder.rank_file(rank.rank, "timers.jsonl"),
        rank=rank.rank,
        tp_rank=topology.tp_rank,
        pp_rank=topology.pp_rank,
        gpu=topology.device.type == "cuda",
    )
    work = Work(rank, decoder, requests, stopping, recorder)
    for number in range(settings.warmup_passes):
        rank.tell(f"warm-up pass {number + 1} of {settings.warmup_passes}")
        work.one_pass("warmup", number)
    keep_memory(rank, topology, "warm")
    for number in range(settings.timed_passes):
        rank.tell(f"timed pass {number + 1} of {settings.timed_passes}")
        done = work.one_pass("timed", number)
        if topology.last and topology.tp_rank == 0:
            rank.tell(work.story)
    keep_memory(rank, topology, "timed")
    # Before the capture: a profiler that fills the disk must not cost the tokens.
    records = []
    if topology.last and topology.tp_rank == 0:
        records = batching.outputs(requests, done, stopping.pad, tokenizer)
        write_outputs(rank, records)
    if spec_from_config(rank.model_config, model_id=rank.model_id).num_experts:
        rank.tell("counting the experts that tokens reach")
        reached = experts_reached(decoder, requests, settings, stopping)
        if rank.facts["experts"] is not None:
            rank.facts["experts"] |= {"reached": reached}
    if settings.logprobs:
        rank.tell("scoring tokens")
        score_tokens(work, records, done)
    if how := os.environ.get("PERFKIT_CAPTURE"):
        rank.tell(f"captured pass ({how})")
        CAPTURES[how](work)
    recorder.close()


def score_tokens(
    work: "Work", records: Sequence[dict[str, Any]], done: Sequence[MicroBatch]
) -> None:
    """A pass of its own for the log probabilities; they join the records of the rank that has
    any."""
    settings, stopping = work.rank.settings, work.stopping
    paths = paths_to_score(settings, done, stopping)
    scored = score(work.decoder, work.requests, paths, settings, stopping)
    if records:
        rows = zip(records, work.requests, scored, strict=True)
        write_outputs(
            work.rank,
            [{**r, "prompt_token_ids": list(q.ids), "scored": own} for r, q, own in rows],
        )


class Work:
    """One batch of requests and what it takes to run it again and again."""

    def __init__(
        self,
        rank: "Rank",
        decoder: EagerDecoder | GraphDecoder,
        requests: Sequence[batching.Request],
        stopping: Stopping,
        recorder: Recorder,
    ) -> None:
        self.rank, self.decoder, self.topology = rank, decoder, decoder.topology
        self.requests, self.stopping, self.recorder = requests, stopping, recorder
        self.story = ""

    def microbatches(self) -> list[MicroBatch]:
        settings = self.rank.settings
        return batching.make_microbatches(
            self.requests,
            settings.microbatches,
            settings.new_tokens,
            self.stopping.pad,
            self.topology.device,
        )

    def one_pass(self, kind: str, number: int) -> list[MicroBatch]:
        """The whole batch once, every phase timed. All ranks start together."""
        batches = self.microbatches()
        inspect = self.check_logits if kind == "warmup" and number == 0 else None
        self.recorder.begin_pass(kind, number)
        dist.barrier()
        with self.recorder.phase("request", tokens=sum(len(r.ids) for r in self.requests)):
            generate(self.decoder, batches, self.stopping, self.recorder, inspect)
        self.story = summary(self.recorder.phases, batches)
        self.recorder.end_pass()
        return batches

    def check_logits(self, logits: torch.Tensor) -> None:
        checks.check_same_logits(logits, self.topology)


def summary(phases: Sequence[Phase], batches: Sequence[MicroBatch]) -> str:
    """TTFT, TPOT and throughput of one pass as this rank saw it, for the progress line."""
    start_ns = next(phase.start_ns for phase in phases if phase.name == "request")
    samples = [phase for phase in phases if phase.name == "sample"]
    if not samples:
        return ""
    ttft_s = measures.ttft_s(start_ns, [p.end_ns for p in samples if p.step == 0])
    e2e_s = measures.e2e_s(start_ns, [p.end_ns for p in samples])
    tpot_s = measures.tpot_s(e2e_s, ttft_s, max(len(batch.tokens) for batch in batches))
    tokens = sum(phase.tokens for phase in samples)
    tpot = "" if tpot_s is None else f"TPOT {1e3 * tpot_s:.2f} ms, "
    rate = measures.throughput_tokens_per_s(tokens, e2e_s)
    return f"TTFT {1e3 * ttft_s:.1f} ms, {tpot}{rate:.1f} new tokens/s"


def capture_with_kineto(work: Work) -> None:
    """The same steps once more while the PyTorch profiler records."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if work.topology.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=True) as profiler:
        work.recorder.profiling = True
        work.one_pass("captured", 0)
        work.recorder.profiling = False
    work.rank.tell("writing the trace")
    target = work.rank.folder.rank_file(work.rank.rank, "kineto.json.gz")
    try:
        profiler.export_chrome_trace(str(target))
    except OSError as error:
        # Half a trace is none, and the run is good without it.
        target.unlink(missing_ok=True)
        work.rank.facts["problems"] = {"kineto": f"could not be written: {error.strerror}"}


def capture_with_cuda_profiler(work: Work) -> None:
    """The same steps once more inside the range that nsys waits for (cudaProfilerApi)."""
    torch.cuda.synchronize()
    torch.cuda.profiler.start()  # type: ignore[no-untyped-call]
    work.one_pass("captured", 0)
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()  # type: ignore[no-untyped-call]


def capture_with_nothing(work: Work) -> None:
    """Ranks without a collector take part in the pass that others record."""
    work.one_pass("captured", 0)


CAPTURES: dict[str, Callable[[Work], None]] = {
    "kineto": capture_with_kineto,
    "cuda-profiler": capture_with_cuda_profiler,
    "nothing": capture_with_nothing,
}


def keep_memory(rank: "Rank", topology: Topology, phase: str) -> None:
    """Bytes of this rank's GPU at the end of a phase, and the most since the phase before.

    allocated and reserved are PyTorch's (peaks), used is the device's own count, of every process.
    """
    if topology.device.type != "cuda":
        return
    free, total = torch.cuda.mem_get_info(topology.device)
    now = {
        "max_allocated_bytes": torch.cuda.max_memory_allocated(topology.device),
        "max_reserved_bytes": torch.cuda.max_memory_reserved(topology.device),
        "device_used_bytes": total - free,
    }
    rank.facts.setdefault("memory", {})[phase] = now
    most = {name: max(value, rank.facts.get(name, 0)) for name, value in now.items()}
    rank.facts |= {**most, "device_total_bytes": total}
    torch.cuda.reset_peak_memory_stats(topology.device)


def write_outputs(rank: "Rank", records: Sequence[dict[str, Any]]) -> None:
    """outputs.jsonl, one line a request, written by the rank that holds the tokens.

    Whole or not at all: lines with log probabilities replace those without.
    """
    full = ({"schema_version": 1, **record} for record in records)
    lines = [json.dumps(record, separators=(",", ":")) + "\n" for record in full]
    partial = rank.folder.outputs.with_suffix(".partial")
    try:
        partial.write_text("".join(lines), encoding="utf-8")
        partial.replace(rank.folder.outputs)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
