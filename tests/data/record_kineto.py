"""Records the Kineto fixtures of this folder: ranks that multiply, reduce, send and sample.

    python tests/data/record_kineto.py WORLD TP FOLDER [gloo|nccl]

The ranges carry the engine's names, so that the traces look like those of a real run.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch.profiler import ProfilerActivity, profile, record_function

WIDTH, HIDDEN, LAYERS, STEPS, BATCH, PROMPT = 256, 128, 2, 3, 2, 32


class Stage:
    """One rank's place, groups and weights."""

    def __init__(self, rank: int, world: int, tp: int, backend: str) -> None:
        self.rank, self.tp, self.pp = rank, tp, world // tp
        self.pp_rank = rank // tp
        self.device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
        stages = [[s * tp + c for c in range(tp)] for s in range(self.pp)]
        columns = [[s * tp + c for s in range(self.pp)] for c in range(tp)]
        groups = [dist.new_group(ranks, backend=backend) for ranks in stages]
        tokens = [dist.new_group(ranks, backend="gloo") for ranks in columns]
        pairs = {(r, r + tp): dist.new_group([r, r + tp]) for r in range(world - tp)}
        self.group, self.tokens = groups[self.pp_rank], tokens[rank % tp]
        self.to_next, self.from_previous = (
            pairs.get((rank, rank + tp)),
            pairs.get((rank - tp, rank)),
        )
        shapes = [(WIDTH, HIDDEN), (HIDDEN, WIDTH)] * LAYERS
        self.weights = [torch.randn(shape, device=self.device) for shape in shapes]
        self.sending: list[Any] = []

    @property
    def last(self) -> bool:
        return self.pp_rank == self.pp - 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for up, down in zip(self.weights[::2], self.weights[1::2], strict=True):
            h = torch.relu(x @ up) @ down
            dist.all_reduce(h, group=self.group)
            x = x + h
        return x

    def finish_sending(self) -> None:
        for work, _tensor in self.sending:
            work.wait()
        self.sending.clear()


def step(stage: Stage, number: int) -> None:
    rows = BATCH * (1 if number else PROMPT)
    x = torch.randn(rows, WIDTH, device=stage.device)
    if stage.pp_rank:
        with record_function("pp_recv"):
            dist.recv(x, src=stage.rank - stage.tp, group=stage.from_previous)
    with record_function("decode" if number else "prefill"):
        x = stage.forward(x)
    if not stage.last:
        with record_function("pp_send"):
            stage.finish_sending()
            work = dist.isend(x, dst=stage.rank + stage.tp, group=stage.to_next)
            stage.sending.append((work, x))
        receive(stage)
    else:
        sample(stage, x)


def receive(stage: Stage) -> None:
    ids = torch.empty(BATCH, dtype=torch.int64)
    with record_function("tok_recv"):
        source = (stage.pp - 1) * stage.tp + stage.rank % stage.tp
        dist.recv(ids, src=source, group=stage.tokens)


def sample(stage: Stage, x: torch.Tensor) -> None:
    with record_function("sample"):
        ids = x[:BATCH].float().argmax(-1)
        dist.broadcast(ids, src=stage.pp_rank * stage.tp, group=stage.group)
        ids = torch.tensor(ids.tolist())
    if stage.pp == 1:
        return
    with record_function("tok_send"):
        stage.finish_sending()
        for before in range(stage.pp - 1):
            destination = before * stage.tp + stage.rank % stage.tp
            work = dist.isend(ids, dst=destination, group=stage.tokens)
            stage.sending.append((work, ids))


@torch.inference_mode()
def one_pass(stage: Stage) -> None:
    dist.barrier()
    with record_function("request"):
        for number in range(STEPS):
            step(stage, number)
        stage.finish_sending()
        if stage.device.type == "cuda":
            torch.cuda.synchronize()


def worker(rank: int, world: int, tp: int, folder: Path, backend: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29600 + world)}
    torch.set_num_threads(1)
    activities = [ProfilerActivity.CPU]
    if backend == "nccl":
        torch.cuda.set_device(rank)
        activities.append(ProfilerActivity.CUDA)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if backend == "nccl" else "gloo", rank=rank, world_size=world
    )
    stage = Stage(rank, world, tp, backend)
    for _ in range(2):
        one_pass(stage)
    with profile(activities=activities, record_shapes=True) as profiler:
        one_pass(stage)
    target = folder / "ranks" / f"{rank:04d}"
    target.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(target / "kineto.json.gz"))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    ranks, degree, where = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    backend = (sys.argv + ["gloo"])[4]
    arguments = [(rank, ranks, degree, where, backend) for rank in range(ranks)]
    processes = [
        multiprocessing.get_context("spawn").Process(target=worker, args=a) for a in arguments
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
