"""Doctor's checks of the host: the output folder's file system, memory, cores, limits, cache."""

import os
import re
from pathlib import Path

from perfkit.collect.doctor_probe import Finding, Probe, fixable, missing, ok

GIB = 2**30
MIN_FREE_GIB = 5
MIN_SHM_GIB = 1
MIN_MEMORY_GIB = 4
MIN_OPEN_FILES = 4096
DEMO_MODEL = "smollm2-135m-instruct"

# File systems that every node of a cluster usually sees.
SHARED_KINDS = re.compile(
    r"nfs4?|lustre|gpfs|mmfs|beegfs\w*|ceph|cifs|smb3|afs|9p|panfs|wekafs|pvfs2|orangefs|dvs"
    r"|virtiofs|fuse\.(ceph|glusterfs|beegfs|quobyte|sshfs|weka|juicefs|lustre)\w*"
)
SHORT_LIVED = {"tmpfs": "in memory", "ramfs": "in memory", "overlay": "a container's own layer"}


def out_folder(probe: Probe) -> Finding:
    """Whether runs can be written to --out, and how much fits."""
    folder = existing(probe.out)
    refused, _ = probe.try_folder(str(folder))
    if refused:
        return missing(f"{folder} cannot be written: {refused}", "every run: give another --out")
    space = probe.space(str(folder))
    if space is None:
        return missing(f"{folder}: free space unknown", "a warning before the disk is full")
    total, free = (amount / GIB for amount in space)
    kind = file_system(probe, folder)
    note = f" ({SHORT_LIVED[kind]}: gone with it)" if kind in SHORT_LIVED else ""
    found = f"{folder}: {kind}{note}, {free:,.1f} of {total:,.0f} GiB free"
    if free < MIN_FREE_GIB:
        lost = f"traces of a run may not fit (under {MIN_FREE_GIB} GiB): give another --out"
        return missing(found, lost)
    return ok(found)


def out_shared(probe: Probe) -> Finding:
    """Whether several nodes would meet in --out."""
    kind = file_system(probe, existing(probe.out))
    if SHARED_KINDS.fullmatch(kind):
        return ok(f"{kind}: other nodes usually see it")
    lost = "runs on several nodes: they need an --out that every node sees"
    return missing(f"{kind} looks local to this node", lost)


def file_locks(probe: Probe) -> Finding:
    """POSIX locks in --out, which SQLite (nsys exports) takes."""
    folder = existing(probe.out)
    lost = "nsys exports (SQLite) written there: use an --out on another file system"
    refused, unlocked = probe.try_folder(str(folder))
    if refused:
        return missing(f"not tried: {folder} cannot be written ({refused})", lost)
    if unlocked:
        return missing(f"locks are refused in {folder}: {unlocked}", lost)
    return ok(f"work in {folder}")


def existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    folder = folder.expanduser().absolute()
    return next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))


def file_system(probe: Probe, folder: Path) -> str:
    """Its kind: the last mount whose point is the longest prefix of the folder."""
    resolved = Path(probe.resolve(str(folder)))
    best, kind = -1, "unknown"
    for line in (probe.read("/proc/mounts") or "").splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = Path(unescaped(fields[1]))
        if resolved.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind


def unescaped(text: str) -> str:
    r"""A mount point as /proc/mounts writes it: `\040` is a space."""
    return re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), text)


def shm(probe: Probe) -> Finding:
    """/dev/shm, where NCCL and gloo exchange data inside a node."""
    lost = "collectives inside a node may fail (NCCL: `No space left on device`)"
    space = probe.space("/dev/shm")
    if space is None:
        return missing("no /dev/shm", lost)
    total, free = (amount / GIB for amount in space)
    found = f"{free:,.2f} of {total:,.2f} GiB free"
    if free < MIN_SHM_GIB:
        # A container's default is 64 MiB; outside it is half of the memory.
        return fixable(found, lost, "sudo mount -o remount,size=8G /dev/shm")
    return ok(found)


def open_files(probe: Probe) -> Finding:
    """The limit on open files: each rank opens sockets to its peers and shards of the model."""
    text = probe.read("/proc/self/limits") or ""
    limits = re.search(r"^Max open files\s+(\S+)\s+(\S+)", text, re.MULTILINE)
    if limits is None:
        return missing("unknown", "a warning before `Too many open files`")
    soft, hard = limits[1], limits[2]
    if soft == "unlimited" or int(soft) >= MIN_OPEN_FILES:
        return ok(f"{soft} (hard limit {hard})")
    lost = "runs with many ranks or shards (`Too many open files`)"
    if hard == "unlimited" or int(hard) > int(soft):
        reach = "65536" if hard == "unlimited" else hard
        return fixable(f"{soft} (hard limit {hard})", lost, f"ulimit -n {reach}")
    return missing(f"{soft}, the hard limit too", lost)


def cores(probe: Probe) -> Finding:
    """Cores that this process may use: affinity (Slurm, taskset) and the cgroup's quota."""
    allowed = re.search(
        r"^Cpus_allowed_list:\s*(\S+)", probe.read("/proc/self/status") or "", re.MULTILINE
    )
    if allowed is None:
        return missing("unknown", "a sensible number of threads per rank")
    usable = count_cores(allowed[1])
    present = len(re.findall(r"^processor\s*:", probe.read("/proc/cpuinfo") or "", re.MULTILINE))
    found = f"{usable} of {max(present, usable)} usable"
    quota = cpu_quota(probe)
    if quota is not None and quota < usable:
        found += f", with time for {quota:g} (cgroup quota)"
    if usable > 1:
        return ok(found)
    lost = "parallel CPU ranks and fast launches: all share one core"
    if probe.environ.get("SLURM_CPUS_PER_TASK", "1") != "1":
        # Since Slurm 22.05 a step does not inherit its job's --cpus-per-task.
        fix = "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"
        return fixable(f"{found}, the job has more per task", lost, fix)
    if "SLURM_JOB_ID" in probe.environ:
        found += " (ask for more with --cpus-per-task)"
    return missing(found, lost)


def count_cores(listed: str) -> int:
    """`0-3,8` -> 5."""
    count = 0
    for part in listed.split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count


def cpu_quota(probe: Probe) -> float | None:
    """Cores' worth of time that the cgroup allows; None where it sets no limit."""
    for folder in cgroup_folders(probe, "cpu"):
        version_2 = (probe.read(f"{folder}/cpu.max") or "").split()
        quota = version_2 or [
            (probe.read(f"{folder}/cpu.cfs_{name}_us") or "").strip()
            for name in ("quota", "period")
        ]
        if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit():
            return int(quota[0]) / int(quota[1])
    return None


def memory(probe: Probe) -> Finding:
    """Memory of the host, and the cgroup's limit (Slurm, containers) when it is lower."""
    total = re.search(r"^MemTotal:\s+(\d+) kB", probe.read("/proc/meminfo") or "", re.MULTILINE)
    if total is None:
        return missing("unknown", "a warning before a rank is killed for memory")
    host = int(total[1]) * 1024
    limit = min([host, *memory_limits(probe)])
    found = f"{host / GIB:,.1f} GiB"
    if limit < host:
        found = f"{limit / GIB:,.1f} GiB (cgroup limit; the host has {found})"
    if limit >= MIN_MEMORY_GIB * GIB:
        return ok(found)
    lost = "several ranks: each takes part of a GiB before its weights, then is killed (exit -9)"
    if "SLURM_JOB_ID" in probe.environ:
        found += "; ask for more with --mem"
    return missing(found, lost)


def memory_limits(probe: Probe) -> list[int]:
    """Every memory limit on the way up the cgroup; v1 writes about 2**63 for none."""
    files = ("memory.max", "memory.limit_in_bytes")
    folders = cgroup_folders(probe, "memory")
    texts = [(probe.read(f"{folder}/{file}") or "").strip() for folder in folders for file in files]
    return [int(text) for text in texts if text.isdigit()]


def cgroup_folders(probe: Probe, controller: str) -> list[str]:
    """This process's cgroup folders for a controller, innermost first, v1 and v2.

    Inside a container the path is the host's and is not there; its root then holds the limit.
    """
    folders = []
    for line in (probe.read("/proc/self/cgroup") or "").splitlines():
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        root = f"/sys/fs/cgroup/{controller}" if names else "/sys/fs/cgroup"
        parts = [part for part in path.split("/") if part]
        folders += ["/".join([root, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
    return folders


def cache(probe: Probe) -> Finding:
    """perfkit's cache folder: staged models and calibrations."""
    lost = "staged models and calibrations"
    folder = existing(probe.cache)
    refused, _ = probe.try_folder(str(folder))
    if refused:
        found = f"{probe.cache} cannot be written: {refused}"
        return fixable(found, lost, "export PERFKIT_CACHE_DIR=$PWD/perfkit-cache")
    space = probe.space(str(folder))
    free = f", {space[1] / GIB:,.1f} GiB free" if space else ""
    return ok(f"{probe.cache}{free}")


def demo_model(probe: Probe) -> Finding:
    """Whether the demo model is staged for `perfkit run`."""
    folder = probe.cache / "models" / DEMO_MODEL
    if probe.glob(f"{folder}/config.json") and probe.glob(f"{folder}/*.safetensors"):
        return ok(f"{DEMO_MODEL} is staged")
    lost = f"`perfkit run {DEMO_MODEL}`, the first thing to try"
    return fixable(f"{DEMO_MODEL} is not staged", lost, f"perfkit fetch {DEMO_MODEL}")
