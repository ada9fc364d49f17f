"""Doctor's checks of the GPUs: driver, links, and what torch sees of them."""

import json
import re
import sys
from collections import Counter
from typing import Any

from perfkit.collect.doctor_probe import Answer, Finding, Probe, fixable, missing, ok

GPU_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
TOPOLOGY = ("nvidia-smi", "topo", "-m")
SLURM_GRES = ("sinfo", "-h", "-o", "%P|%D|%G")

# In a process of its own: importing torch takes seconds and may crash on a broken driver.
TORCH_QUESTION = """
import json, torch
nccl = None
try:
    nccl = list(torch.cuda.nccl.version())
except Exception:
    pass
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda,
    "hip": torch.version.hip, "count": torch.cuda.device_count(), "nccl": nccl,
    "available": torch.cuda.is_available()}))
"""
TORCH_TIMEOUT_S = 11.0

ANSI = re.compile(r"\x1b\[[0-9;]*m")
# What the letters of `nvidia-smi topo -m` mean, closest first.
PCIE_LINKS = {
    "PIX": "one PCIe switch",
    "PXB": "several PCIe switches",
    "PHB": "the CPU's PCIe root",
    "NODE": "PCIe across one NUMA node",
    "SYS": "the link between sockets",
}


def gpu(probe: Probe) -> Finding:
    """NVIDIA GPUs and driver, from nvidia-smi."""
    lost = "GPU runs, GPU timelines (nsys), GPU power; runs use the CPU"
    if probe.which("nvidia-smi") is None:
        return _elsewhere(probe, "nvidia-smi is not on PATH", lost)
    answer = probe.run(GPU_QUERY)
    rows = gpu_rows(answer)
    if not rows:
        return _elsewhere(probe, answer.reason, lost)
    names = Counter(f"{name}, {_gib(memory)}" for name, memory, _ in rows)
    models = "; ".join(f"{count} x {name}" for name, count in names.items())
    return ok(f"{models}; driver {rows[0][2]}")


def gpu_rows(answer: Answer) -> list[list[str]]:
    """(name, memory, driver) of each GPU; nvidia-smi prints errors on stdout too."""
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.out.splitlines()]
    return [row for row in rows if len(row) == 3] if answer.works else []


def _gib(memory: str) -> str:
    """`143771 MiB` -> `140.4 GiB`."""
    amount = memory.split()[0] if memory.split() else ""
    return f"{int(amount) / 1024:.1f} GiB" if amount.isdigit() else memory


def _elsewhere(probe: Probe, found: str, lost: str) -> Finding:
    """No GPU here; on a login node of a cluster that has some, say how to ask there."""
    if "SLURM_JOB_ID" not in probe.environ and probe.which("srun") and probe.which("sinfo"):
        rows = (line.split("|") for line in probe.run(SLURM_GRES).out.splitlines())
        named = (row[0].rstrip("*") for row in rows if len(row) == 3 and "gpu" in row[2])
        parts = list(dict.fromkeys(named))
        if parts:
            fix = f"srun --partition={parts[0]} --gres=gpu:1 perfkit doctor"
            return fixable(f"{found}; the GPUs are in partition {', '.join(parts)}", lost, fix)
    return missing(found, lost)


def rocm(probe: Probe) -> Finding:
    """AMD GPUs: only whether ROCm's tool is there."""
    path = probe.which("rocm-smi") or next(iter(probe.glob("/opt/rocm*/bin/rocm-smi")), None)
    if path is None:
        return missing("rocm-smi is not on PATH", "AMD GPUs (not needed on an NVIDIA machine)")
    answer = probe.run([path, "--showproductname"])
    indices = set(re.findall(r"GPU\[(\d+)\]", answer.out))
    if not indices:
        return missing(f"{path}: {answer.reason}", "AMD GPUs")
    return ok(f"{len(indices)} AMD GPUs ({path}); perfkit is untested on them")


def gpu_links(probe: Probe) -> Finding:
    """How each pair of GPUs of this node is connected."""
    lost = "fast tensor parallelism: its all-reduces cross PCIe, and predictions need that rate"
    if probe.which("nvidia-smi") is None:
        return missing("nvidia-smi is not on PATH", "the links between GPUs are unknown")
    answer = probe.run(TOPOLOGY)
    if not answer.works:
        return missing(answer.reason, "the links between GPUs are unknown")
    count, links = parse_topology(answer.out)
    if count < 2:
        return missing(f"{count} GPU, so no links", "parallel runs on GPUs in this node")
    text = f"{count} GPUs; pairs by link: {describe_links(links)}"
    return ok(text) if all(link.startswith("NV") for link in links) else missing(text, lost)


def parse_topology(text: str) -> tuple[int, Counter[str]]:
    """(GPUs, pairs of GPUs by link) from the table that `nvidia-smi topo -m` prints.

    Columns are separated by tabs; NICs and affinities follow the GPUs. The header is underlined
    by terminal codes even in a file.
    """
    rows = [[c.strip() for c in line.split("\t")] for line in ANSI.sub("", text).splitlines()]
    matrix = [row for row in rows if re.fullmatch(r"GPU\d+", row[0])]
    links: Counter[str] = Counter()
    for index, row in enumerate(matrix):
        links.update(row[2 + index : 1 + len(matrix)])
    return len(matrix), links


def describe_links(links: Counter[str]) -> str:
    """`24 x NV12 (12 NVLinks), 4 x SYS (the link between sockets)`, most frequent first."""
    parts = []
    for link, pairs in links.most_common():
        meaning = f"{link[2:]} NVLinks" if link.startswith("NV") else PCIE_LINKS.get(link, "?")
        parts.append(f"{pairs} x {link} ({meaning})")
    return ", ".join(parts)


def cuda(probe: Probe) -> Finding:
    """Whether torch can use the GPUs."""
    lost = "GPU runs; runs use the CPU"
    if probe.installed("torch") is None:
        return missing("torch is not installed", lost)
    facts, reason = torch_facts(probe)
    if facts is None:
        return missing(f"torch cannot be asked: {reason}", "every run: the engine imports torch")
    build = _build(facts)
    if facts["available"]:
        return ok(f"torch sees {facts['count']} GPUs (built for {build})")
    if not gpu_rows(probe.run(GPU_QUERY)):
        return missing(f"torch is built for {build}; no GPU here", lost)
    if build == "CPU only":
        fix = "pip install --force-reinstall 'torch>=2.6'"
        return fixable("torch is built for CPU only, and GPUs are here", lost, fix)
    if probe.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        found = "CUDA_VISIBLE_DEVICES hides every GPU from torch"
        return fixable(found, lost, "unset CUDA_VISIBLE_DEVICES")
    why = f": {reason}" if reason else ""
    return missing(f"torch (built for {build}) sees no GPU, nvidia-smi does{why}", lost)


def nccl(probe: Probe) -> Finding:
    """The NCCL that torch carries."""
    lost = "collectives between GPUs (gloo serves CPU runs)"
    if probe.installed("torch") is None:
        return missing("torch is not installed", lost)
    facts, reason = torch_facts(probe)
    if facts is None:
        return missing(f"torch cannot be asked: {reason}", lost)
    if not facts["nccl"]:
        return missing(f"not in this torch (built for {_build(facts)})", lost)
    name = "RCCL" if facts["hip"] else "NCCL"
    return ok(f"{name} {'.'.join(str(part) for part in facts['nccl'])}")


def _build(facts: dict[str, Any]) -> str:
    if facts["hip"]:
        return f"ROCm {facts['hip']}"
    return f"CUDA {facts['cuda']}" if facts["cuda"] else "CPU only"


def torch_facts(probe: Probe) -> tuple[dict[str, Any] | None, str]:
    """What torch says of itself, and its last warning; None when it could not be asked."""
    answer = probe.run([sys.executable, "-c", TORCH_QUESTION], TORCH_TIMEOUT_S)
    lines = answer.out.strip().splitlines()
    if not answer.works or not lines:
        return None, answer.reason
    try:
        facts = json.loads(lines[-1])
    except ValueError:
        return None, answer.reason
    return facts, answer.reason if answer.err.strip() else ""
