"""A large Kineto trace as torch.profiler writes it, for benchmarks.

One rank of a tensor-parallel decoder: steps of layers of kernels, an all-reduce at the end of each
layer on a stream of its own. Spelling, spacing and order of the parts are those of torch 2.13 on
CUDA: first what ran on the CPU, then calls, kernels and the arrows between them.
"""

from collections.abc import Iterator
from pathlib import Path

EVENTS_A_KERNEL = 5.35
KERNELS_A_LAYER, LAYERS_A_STEP = 14, 30
KERNELS_A_STEP = KERNELS_A_LAYER * LAYERS_A_STEP
US_A_KERNEL = 8
CHUNK = 4096
# UNIX time that `ts` counts from, and where it starts: some 50 days later, as on a real host.
BASE_NS, FIRST_US = 1_790_857_026_000_000_000, 4_525_994_086_000
PID, STREAM, COMM_STREAM = 4632, 7, 20

HEAD = f"""
  {{
    "schemaVersion": 1,
    "deviceProperties": [
    {{
      "id": 0, "name": "NVIDIA H200", "totalGlobalMem": 150109880320,
      "computeMajor": 9, "computeMinor": 0, "warpSize": 32, "numSms": 132
    }}
    ],
      "distributedInfo": {{"backend": "cpu:gloo,cuda:nccl", "rank": 0, "world_size": 1, \
"pg_count": 1, "pg_config": [{{"pg_name": "0", "pg_desc": "default_pg", \
"backend_config": "cuda:nccl", "pg_size": 2, "ranks": [0, 1]}}]}},
  "displayTimeUnit": "ms",
  "baseTimeNanoseconds": {BASE_NS},
  "traceEvents": ["""
TAIL = """
  {
    "name": "Record Window End", "ph": "i", "s": "g",
    "pid": "", "tid": "", "ts": 4528889143962.599
  }
  ],
  "traceName": "kineto.json"
}"""

NAMES = [
    *(f"sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x{n}x64_cublas" for n in range(90)),
    *(
        f"void at::native::vectorized_elementwise_kernel<4, at::native::op_{n}_functor<float>, "
        "std::array<char*, 3ul> >(int, at::native::op_functor<float>, std::array<char*, 3ul>)"
        for n in range(60)
    ),
    *(f"void flash_fwd_kernel<Flash_fwd_kernel_traits<128, 64, {n}, 4> >(P)" for n in range(9)),
]
NCCL = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
COLLECTIVE = (
    '"Collective name": "allreduce", "In msg nelems": 16384, "Out msg nelems": 16384, '
    '"Group size": 2, "dtype": "BFloat16", "In split size": "[]", "Out split size": "[]", '
    '"Process Group Name": "0", "Process Group Description": "default_pg", '
    '"Process Group Ranks": "[0, 1]"'
)


def make_trace(path: Path, num_events: int) -> int:
    """Write a trace of about `num_events`; returns how many GPU activities are in it."""
    num_kernels = round(num_events / EVENTS_A_KERNEL)
    with path.open("w", encoding="utf-8") as file:
        file.write(HEAD)
        for part in (host_events, device_events):
            for first in range(0, num_kernels, CHUNK):
                for number in range(first, min(first + CHUNK, num_kernels)):
                    file.writelines(part(number))
        file.write(TAIL)
    return num_kernels


def us(ns: int) -> str:
    return f"{FIRST_US + ns // 1000}.{ns % 1000:03}"


def complete(cat: str, name: str, place: str, start_ns: int, ns: int, args: str) -> str:
    """One complete event; `place` is its pid and tid."""
    return f"""
  {{
    "ph": "X", "cat": "{cat}", "name": "{name}", {place},
    "ts": {us(start_ns)}, "dur": {ns // 1000}.{ns % 1000:03},
    "args": {{
      {args}
    }}
  }},"""


def arrow(kind: str, number: int, place: str, start_ns: int) -> str:
    """One end of the line from a call to what it launched."""
    binding = ', "bp": "e"' if kind == "f" else ""
    return f"""
  {{
    "ph": "{kind}", "id": {number}, {place}, "ts": {us(start_ns)},
    "cat": "ac2g", "name": "ac2g"{binding}
  }},"""


HOST = f'"pid": {PID}, "tid": {PID}'


def host_events(number: int) -> Iterator[str]:
    """The operation that launches kernel `number`, and what begins there."""
    start = number * US_A_KERNEL * 1000 + number * 7919 % 2000
    ids = f'"External id": {number + 1},"Record function id": 0, '
    if number % KERNELS_A_STEP == 0:
        name, ns = f"ProfilerStep#{number // KERNELS_A_STEP}", KERNELS_A_STEP * US_A_KERNEL * 1000
        yield complete("user_annotation", name, HOST, start - 200, ns - 3000, ids + '"Ev Idx": 0')
    if number % KERNELS_A_LAYER == KERNELS_A_LAYER - 1:
        args = f'{ids}{COLLECTIVE}, "Rank": 0, "Ev Idx": {number}'
        yield complete("cpu_op", "record_param_comms", HOST, start, 5000, args)
        yield complete("user_annotation", "nccl:all_reduce", HOST, start + 100, 4500, ids[:-2])
        return
    if number % 3 == 0:
        args = f'{ids}"Concrete Inputs": ["", "", ""], "Ev Idx": {2 * number}'
        yield complete("cpu_op", "aten::linear", HOST, start - 100, 6000, args)
    if number % 20 == 0:
        args = f'"Python parent id": 17, "Python id": {number}, "Ev Idx": {number}'
        yield complete("python_function", "model.py(81): forward", HOST, start - 150, 6200, args)
    yield complete("cpu_op", "aten::addmm", HOST, start, 5000, f'{ids}"Ev Idx": {2 * number + 1}')


def device_events(number: int) -> Iterator[str]:
    """The call that launches activity `number`, the activity, and the line between them."""
    start = number * US_A_KERNEL * 1000 + number * 7919 % 2000
    comm = number % KERNELS_A_LAYER == KERNELS_A_LAYER - 1
    copy = number % KERNELS_A_STEP == 0
    call = "cudaMemcpyAsync" if copy else "cudaLaunchKernelExC" if comm else "cudaLaunchKernel"
    stream = COMM_STREAM if comm else STREAM
    linked = f'"External id": {number + 1},      '
    launched = f'{linked}"cbid": 211, "correlation": {number + 1}'
    yield complete("cuda_runtime", call, HOST, start + 1000, 3500, launched)
    yield arrow("s", number + 1, HOST, start + 1000)
    begin, ns = start + 40_000, 12_000 if comm else 3000 + number * 104_729 % 5000
    place = f'"pid": 0, "tid": {stream}'
    args = f'"device": 0, "context": 1,      "stream": {stream}, "correlation": {number + 1},      '
    if copy:
        name = "Memcpy HtoD (Pageable -> Device)"
        sizes = '"bytes": 16384, "memory bandwidth (GB/s)": 11.377777777777778'
        yield complete("gpu_memcpy", name, place, begin, ns, linked + args + sizes)
    else:
        name = NCCL if comm else NAMES[number * 31 % len(NAMES)]
        shape = f"""{linked}"queued": 0, {args}"registers per thread": 32, \
     "shared memory": 0,      "blocks per SM": 31.030304,      "warps per SM": 248.242432, \
     "grid": [2048, 2, 1],      "block": [256, 1, 1],      "est. achieved occupancy %": 100"""
        yield complete("kernel", name, place, begin, ns, shape + (comm * f", {COLLECTIVE}"))
    yield arrow("f", number + 1, place, begin)
    if number % KERNELS_A_STEP == KERNELS_A_STEP - 1:
        waited = f'"cbid": 131, "correlation": {10_000_000 + number}'
        yield complete("cuda_runtime", "cudaStreamSynchronize", HOST, start + 5000, 2000, waited)
