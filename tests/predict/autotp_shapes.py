"""Run by test_autotp.py on each of two ranks: prints the shapes AutoTP left, as JSON."""

import json
import os
import sys

import deepspeed
import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM


def shapes(config: dict[str, object], tp: int) -> dict[str, list[int]]:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    engine = deepspeed.init_inference(
        model,
        tensor_parallel={"tp_size": tp},
        dtype=torch.float32,
        replace_with_kernel_inject=False,
    )
    return {name: list(value.shape) for name, value in engine.module.state_dict().items()}


def main() -> None:
    tp = int(os.environ["WORLD_SIZE"])
    answer = os.dup(1)
    os.dup2(2, 1)  # DeepSpeed prints to stdout
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
    found = {name: shapes(config, tp) for name, config in json.load(sys.stdin).items()}
    dist.barrier()
    dist.destroy_process_group()
    os.write(answer, (json.dumps(found) + "\n").encode())


main()
