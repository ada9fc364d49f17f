"""What machine and which versions a run saw. Standard library only; nothing here can fail a run."""

import importlib.metadata
import os
import platform
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

PACKAGES = (
    "perfkit",
    "torch",
    "deepspeed",
    "transformers",
    "safetensors",
    "torchao",
    "numpy",
    "nvtx",
)

# These change how ranks talk; names of files and hosts are not kept.
NCCL_KEPT = (
    "NCCL_P2P_DISABLE",
    "NCCL_P2P_LEVEL",
    "NCCL_SHM_DISABLE",
    "NCCL_IB_DISABLE",
    "NCCL_NET",
    "NCCL_NET_GDR_LEVEL",
    "NCCL_SOCKET_IFNAME",
    "NCCL_IB_HCA",
    "NCCL_ALGO",
    "NCCL_PROTO",
    "NCCL_NVLS_ENABLE",
    "NCCL_CUMEM_ENABLE",
    "NCCL_MAX_NCHANNELS",
    "NCCL_MIN_NCHANNELS",
)
# Only these Slurm variables are kept; the rest of the environment can hold secrets.
SLURM_KEPT = (
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "SLURM_JOB_NUM_NODES",
    "SLURM_JOB_NODELIST",
    "SLURM_NTASKS",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_CPUS_PER_TASK",
    "SLURM_GPUS_ON_NODE",
    "SLURM_JOB_PARTITION",
    "SLURM_CLUSTER_NAME",
)


def host_facts() -> dict[str, Any]:
    """Processor, cores usable by this process, memory, kernel and GPUs of this host."""
    return {
        "host": socket.gethostname(),
        "utc_offset_s": time.localtime().tm_gmtoff,
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "gpus": gpu_facts(),
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def usable_cores() -> int:
    """Cores this process may run on: the affinity mask, which Slurm and containers set."""
    return len(os.sched_getaffinity(0))


def memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def gpu_facts() -> list[dict[str, str]]:
    """Name, memory and driver of each GPU; empty where there is none."""
    return nvidia_gpus() or amd_gpus()


def amd_gpus(topology: Path = Path("/sys/class/kfd/kfd/topology/nodes")) -> list[dict[str, str]]:
    """The GPUs that AMD's kernel driver lists, by its architecture number; untested on hardware."""
    found: list[dict[str, str]] = []
    for node in sorted(topology.glob("*"), key=lambda path: path.name.zfill(4)):
        try:
            lines = (node / "properties").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        known = dict(line.split(maxsplit=1) for line in lines if " " in line)
        if int(known.get("simd_count", "0")):
            name = f"AMD GPU, gfx target {known.get('gfx_target_version', 'unknown')}"
            found.append({"index": str(len(found)), "name": name})
    return found


def nvidia_gpus() -> list[dict[str, str]]:
    """Index, name, memory, driver and power limit of each GPU from nvidia-smi."""
    fields = ("index", "name", "memory.total", "driver_version", "power.limit")
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in answer.stdout.splitlines() if line.strip()]
    return [dict(zip(fields, row, strict=False)) for row in rows]


def versions() -> dict[str, str]:
    """Installed versions of the packages that matter, without importing them."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def nccl_variables() -> dict[str, str]:
    """What the environment tells NCCL about its ways and algorithms; empty when nothing."""
    return {name: os.environ[name] for name in NCCL_KEPT if name in os.environ}


def slurm_variables() -> dict[str, str]:
    """The Slurm variables on the allow-list; empty outside a job."""
    return {name: os.environ[name] for name in SLURM_KEPT if name in os.environ}
