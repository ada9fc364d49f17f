"""This machine's rates, measured on the ranks of a run: raw points for calibrate/fit.py.

Everything is measured the way the engine uses it: same process groups, same threads, and with as
many ranks at work at a time as a pipeline stage or a full pipeline has.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from perfkit.engine.gpu_bench import GpuBench
from perfkit.engine.session import device_name, prepare_torch
from perfkit.engine.stage import DTYPES
from perfkit.engine.step_bench import step_points
from perfkit.engine.topology import Topology, connect, disconnect
from perfkit.predict.work import DISPATCHES_PER_LAYER, DISPATCHES_PER_PASS
from perfkit.schema import write_json

if TYPE_CHECKING:
    from perfkit.engine.worker import Rank

# (n, k) of a weight that fits no cache, and the m that make it memory- or compute-bound.
GPU_WEIGHT, CPU_WEIGHT = (8192, 8192), (3072, 4096)
GPU_ROWS, CPU_ROWS = (1, 8, 64, 1024, 4096), (1, 4, 8, 64, 256)
MESSAGE_BYTES = tuple(1 << exponent for exponent in range(10, 25, 2))
TINY: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MIN_SECONDS, MAX_REPEATS = 0.05, 50
COLLECTIVE_WARM, COLLECTIVE_REPEATS = 3, 100
DECODE_STEPS = 40


def run(rank: "Rank") -> None:
    """Measure on every rank; write ranks/NNNN/points.json."""
    settings = rank.settings
    prepare_torch(settings.device)
    topology = connect(settings.tp, settings.pp, settings.device)
    bench = Bench(topology, DTYPES[settings.dtype])
    points: list[dict[str, Any]] = []
    for active in sorted({1, settings.tp, settings.num_ranks}):
        rank.tell(f"compute with {active} of {settings.num_ranks} ranks at work")
        points += bench.compute(active)
    rank.tell("collectives")
    points += [*bench.all_reduce(), *bench.send_recv()]
    if bench.gpu:
        rank.tell("steps of a tiny model")
        points += step_points(topology, settings.dtype)
        rank.tell("kernels in graphs")
        points += GpuBench(topology, bench.dtype).points()
    facts = {
        "device": settings.device,
        "device_name": device_name(topology.device),
        "dtype": settings.dtype,
        "threads": torch.get_num_threads(),
        "num_ranks": settings.num_ranks,
        "tp": settings.tp,
        "pp": settings.pp,
    }
    write_json(rank.folder.rank_file(rank.rank, "points.json"), {**facts, "points": points})
    disconnect()


class Bench:
    """The measurements of one rank. Every rank calls them in the same order."""

    def __init__(self, topology: Topology, dtype: torch.dtype) -> None:
        self.topology, self.dtype, self.device = topology, dtype, topology.device
        self.gpu = self.device.type == "cuda"
        # About half a layer of a small model in decode.
        self.weight, self.rows = torch.ones(1024, 1024), torch.ones(4, 1024)

    def compute(self, active: int) -> list[dict[str, Any]]:
        """Linear layers, copies and dispatches while `active` ranks do the same."""
        dist.barrier()
        points = []
        if self.topology.rank < active:
            measured = [*self.linear(), *self.copy(), *self.dispatch()]
            points = [{"active_ranks": active, **point} for point in measured]
        dist.barrier()
        return points

    def linear(self) -> Iterator[dict[str, Any]]:
        n, k = GPU_WEIGHT if self.gpu else CPU_WEIGHT
        weight = torch.randn(n, k, device=self.device, dtype=self.dtype)
        for m in GPU_ROWS if self.gpu else CPU_ROWS:
            rows = torch.randn(m, k, device=self.device, dtype=self.dtype)
            seconds = self.seconds(partial(functional.linear, rows, weight))
            yield {"op": "linear", "m": m, "n": n, "k": k, "seconds": seconds}

    def copy(self) -> Iterator[dict[str, Any]]:
        size = (1 << 30) if self.gpu else (1 << 26)
        source = torch.zeros(size, device=self.device, dtype=torch.uint8)
        target = torch.empty_like(source)
        yield {"op": "copy", "bytes": size, "seconds": self.seconds(partial(target.copy_, source))}

    def dispatch(self) -> Iterator[dict[str, Any]]:
        """Host seconds of one operator in an eager decode step: that of a model so small that
        nothing else takes time, over the operators it dispatches.

        The second round counts: a new context length makes cuDNN plan its attention anew, which
        takes milliseconds once, and a run's timed passes have seen every length in the warm-up.
        """
        config = AutoConfig.for_model("llama", **TINY)
        with self.device:
            model = AutoModelForCausalLM.from_config(config, dtype=self.dtype).eval()
        self.decode_steps(model)
        seconds = statistics.median(self.decode_steps(model))
        layers = TINY["num_hidden_layers"]
        ops = layers * DISPATCHES_PER_LAYER["llama"] + DISPATCHES_PER_PASS
        yield {"op": "dispatch", "ops": ops, "seconds": seconds}

    @torch.inference_mode()
    def decode_steps(self, model: Any) -> list[float]:
        """Host seconds of each of the first steps of one sequence."""
        cache = DynamicCache(config=model.config)
        token = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        times = [time.perf_counter()]
        for _ in range(DECODE_STEPS):
            model(token, past_key_values=cache, use_cache=True, logits_to_keep=1)
            times.append(time.perf_counter())
        self.finish()
        return [after - before for before, after in pairwise(times)]

    def all_reduce(self) -> Iterator[dict[str, Any]]:
        group = self.topology.tp_group
        if group is None:
            return
        for size in MESSAGE_BYTES:
            message = self.message(size)
            seconds = self.mean_seconds(partial(dist.all_reduce, message, group=group))
            yield {
                "op": "all_reduce",
                "group": self.topology.tp,
                "bytes": size,
                "seconds": seconds,
            }

    def send_recv(self) -> Iterator[dict[str, Any]]:
        """Half a round trip between the first two stages would need both directions on one
        communicator; so the receiver times a train of messages that arrive one after another."""
        topology = self.topology
        peers = {0: topology.to_next, 1: topology.from_previous}
        for size in MESSAGE_BYTES if topology.pp > 1 and topology.pp_rank in peers else ():
            message, group = self.message(size), peers[topology.pp_rank]
            seconds = self.mean_seconds(partial(self.one_way, message, group))
            if topology.pp_rank == 1:
                yield {"op": "send_recv", "group": 2, "bytes": size, "seconds": seconds}

    def one_way(self, message: torch.Tensor, group: Any) -> None:
        topology = self.topology
        if topology.pp_rank == 0:
            dist.send(message, dst=topology.rank + topology.tp, group=group)
        else:
            dist.recv(message, src=topology.rank - topology.tp, group=group)

    def message(self, size: int) -> torch.Tensor:
        return torch.zeros(size // self.dtype.itemsize, device=self.device, dtype=self.dtype)

    def seconds(self, work: Callable[[], Any]) -> float:
        """Median seconds of one call that involves this rank alone."""
        work()
        self.finish()
        times: list[float] = []
        while len(times) < 3 or (sum(times) < MIN_SECONDS and len(times) < MAX_REPEATS):
            start = time.perf_counter()
            work()
            self.finish()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def mean_seconds(self, work: Callable[[], Any]) -> float:
        """Mean seconds of one call that several ranks make together, on a machine that is busy.

        The mean, not the median: where ranks share cores, one call in ten waits for a time slice
        and takes most of the time, and a decode step adds up many calls. For the same reason a
        CPU rank computes between two calls, as it does between the two of a layer.
        """
        total_s = 0.0
        for number in range(COLLECTIVE_WARM + COLLECTIVE_REPEATS):
            self.compute_a_little()
            start = time.perf_counter()
            work()
            self.finish()
            if number >= COLLECTIVE_WARM:
                total_s += time.perf_counter() - start
        return total_s / COLLECTIVE_REPEATS

    def compute_a_little(self) -> None:
        if not self.gpu:
            functional.linear(self.rows, self.weight)

    def finish(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()
