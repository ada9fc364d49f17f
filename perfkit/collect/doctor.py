"""`perfkit doctor`: what of this machine perfkit can use, found out before a job is lost.

A check is a small function of a Probe. All checks run at the same time, each in a thread of its
own, and a check that crashes or hangs becomes a `missing` line with the reason. Standard library
only: it runs on compute nodes and in containers.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from perfkit.collect import (
    doctor_containers,
    doctor_gpu,
    doctor_host,
    doctor_packages,
    doctor_profilers,
    doctor_slurm,
)
from perfkit.collect.doctor_probe import Finding, Probe, missing
from perfkit.errors import CheckFailed, ConfigError

# After the probe's deadline: every command has been killed, only a file system can still hang.
GRACE_S = 1.5

CheckFunction = Callable[[Probe], Finding]

GROUPS: dict[str, dict[str, CheckFunction]] = {
    "GPUs": {
        "gpu": doctor_gpu.gpu,
        "gpu-links": doctor_gpu.gpu_links,
        "rocm": doctor_gpu.rocm,
        "cuda": doctor_gpu.cuda,
        "nccl": doctor_gpu.nccl,
    },
    "Python packages": {
        "torch": doctor_packages.torch,
        "deepspeed": doctor_packages.deepspeed,
        "transformers": doctor_packages.transformers,
        "safetensors": doctor_packages.safetensors,
        "polars": doctor_packages.polars,
        "altair": doctor_packages.altair,
    },
    "Profilers": {
        "nsys": doctor_profilers.nsys,
        "nsys-import": doctor_profilers.nsys_import,
        "gpu-counters": doctor_profilers.gpu_counters,
        "perf": doctor_profilers.perf,
        "perf-access": doctor_profilers.perf_access,
        "perf-events": doctor_profilers.perf_events,
    },
    "Slurm": {
        "slurm": doctor_slurm.slurm,
        "accounting": doctor_slurm.accounting,
        "energy": doctor_slurm.energy,
        "job-gathering": doctor_slurm.job_gathering,
    },
    "Containers": {
        "container": doctor_containers.container,
        "container-gpu": doctor_containers.container_gpu,
        "user-namespaces": doctor_containers.user_namespaces,
    },
    "Output folder": {
        "out-folder": doctor_host.out_folder,
        "out-shared": doctor_host.out_shared,
        "file-locks": doctor_host.file_locks,
    },
    "This node": {
        "cores": doctor_host.cores,
        "memory": doctor_host.memory,
        "shm": doctor_host.shm,
        "open-files": doctor_host.open_files,
        "cache": doctor_host.cache,
        "demo-model": doctor_host.demo_model,
    },
}
CHECKS: dict[str, CheckFunction] = {
    name: function for checks in GROUPS.values() for name, function in checks.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the answer."""

    group: str
    name: str
    finding: Finding

    @property
    def ok(self) -> bool:
        return self.finding.state == "ok"

    def as_row(self) -> dict[str, str | None]:
        """The line as JSON has it."""
        finding = self.finding
        return {
            "name": self.name,
            "state": finding.state,
            "found": finding.found,
            "lost": finding.lost,
            "fix": finding.fix,
        }


def parse_needs(text: str | None) -> tuple[str, ...]:
    """The names that --need lists; ConfigError when one is no check."""
    names = tuple(filter(None, (part.strip() for part in (text or "").split(","))))
    for name in names:
        if name not in CHECKS:
            raise ConfigError(f"--need {name}: no such check. Checks: {', '.join(CHECKS)}.")
    return names


def examine(probe: Probe) -> list[Check]:
    """Run every check; the order is that of GROUPS."""
    findings: dict[str, Finding] = {}
    threads = [
        # Daemons: a thread that a dead file system holds must not keep the command alive.
        threading.Thread(target=_examine_one, args=(name, probe, findings), daemon=True)
        for name in CHECKS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, probe.deadline + GRACE_S - time.monotonic()))
    return [
        Check(group=group, name=name, finding=findings.get(name) or _no_answer(probe))
        for group, checks in GROUPS.items()
        for name in checks
    ]


def _examine_one(name: str, probe: Probe, findings: dict[str, Finding]) -> None:
    try:
        findings[name] = CHECKS[name](probe)
    except Exception as error:
        what = f"the check failed: {type(error).__name__}: {error}"
        findings[name] = missing(what[:300], "unknown; please report this line")


def _no_answer(probe: Probe) -> Finding:
    return missing(f"no answer in {probe.seconds:.0f} s", "unknown: something here hangs")


def require(checks: Sequence[Check], needs: Sequence[str]) -> None:
    """CheckFailed that names each needed check that is not ok, and its fix."""
    failed = [check for check in checks if check.name in needs and not check.ok]
    if not failed:
        return
    lines = []
    for check in failed:
        finding = check.finding
        fix = f" Fix: {finding.fix}" if finding.fix else ""
        lines.append(f"{check.name} is {finding.state}: {finding.found}.{fix}")
    raise CheckFailed("\n  ".join(["not everything that --need names is ok:", *lines]))


def next_command(checks: Sequence[Check]) -> str:
    """What to type next: the first thing that a run of the demo model lacks, else that run."""
    by_name = {check.name: check for check in checks}
    for name in ("torch", "deepspeed", "transformers", "safetensors", "demo-model"):
        if fix := by_name[name].finding.fix:
            return fix
    return f"perfkit run {doctor_host.DEMO_MODEL} --tp 2 --pp 2 --batch 4"
