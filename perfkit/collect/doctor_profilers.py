"""Doctor's checks of nsys and perf: found, able to record, able to finish what they record."""

import re
import tomllib
from pathlib import PurePosixPath

from perfkit.collect.doctor_probe import Answer, Finding, Probe, fixable, missing, natural, ok
from perfkit.paths import find

# Install folders beyond those that collectors/nsys.toml looks in.
NSYS_ELSEWHERE = (
    "/opt/nvidia/nsight-systems*/*/target-linux-*/nsys",
    "/opt/nvidia/hpc_sdk/*/*/profilers/Nsight_Systems/bin/nsys",
    "/usr/local/cuda*/[Nn]sight*ystems*/bin/nsys",
    "/usr/local/cuda*/bin/nsys",
    "/usr/lib/nsight-systems/target-linux-*/nsys",
    "/opt/nvidia/nsight-compute/*/host/target-linux-*/nsys",
    "/usr/local/cuda*/nsight-compute*/host/target-linux-*/nsys",
)
# What the nsys script in a CUDA toolkit's bin folder leads to.
TOOLKIT_IMPORTERS = (
    "/opt/nvidia/nsight-systems/*/host*/QdstrmImporter",
    "/usr/local/cuda*/nsight-systems*/host*/QdstrmImporter",
)

# Debian package (Ubuntu's is the same), then Fedora and Red Hat package, of a library.
LIBRARY_PACKAGES = {
    "libdw.so.1": ("libdw1", "elfutils-libs"),
    "libelf.so.1": ("libelf1", "elfutils-libelf"),
    "libpfm.so.4": ("libpfm4", "libpfm"),
    "libssh.so": ("libssh-4", "libssh"),  # Debian's nsight-systems links it so
    "libssh.so.4": ("libssh-4", "libssh"),
    "libnuma.so.1": ("libnuma1", "numactl-libs"),
    "libibverbs.so.1": ("libibverbs1", "libibverbs"),
    "librdmacm.so.1": ("librdmacm1", "librdmacm"),
    "libibumad.so.3": ("libibumad3", "libibumad"),
    "libnl-3.so.200": ("libnl-3-200", "libnl3"),
    "libnl-route-3.so.200": ("libnl-route-3-200", "libnl3"),
}
OWN_LIBRARIES = "$HOME/perfkit-libs"

COUNTER_OPTIONS = ("--gpu-metrics-devices", "--gpu-metrics-device")
"""of nsys since 2024, and before"""
NO_COUNTERS = ("ERR_NVGPUCTRPERM", "Insufficient privilege")
COUNTERS_FIX = (
    "echo options nvidia NVreg_RestrictProfilingToAdminUsers=0 | "
    "sudo tee /etc/modprobe.d/nvidia-counters.conf  # then load the driver again"
)

PERF_EVENTS = "task-clock,context-switches,page-faults,cycles,instructions"
PARANOID = "/proc/sys/kernel/perf_event_paranoid"
CAP_SYS_ADMIN, CAP_PERFMON = 21, 38


def nsys(probe: Probe) -> Finding:
    """Nsight Systems: on PATH, where the collector looks, or elsewhere on this machine."""
    lost = "the GPU timeline by nsys; the PyTorch profiler (kineto) stays"
    path, reachable = find_nsys(probe)
    if path is None:
        return missing("not on PATH or in the usual folders, nor inside Nsight Compute", lost)
    answer = probe.run([path, "--version"])
    if not answer.works:
        return missing(f"{path}: {answer.reason}", lost)
    version = re.search(r"\d{4}\.\d+(\.\d+)?", answer.text)
    found = f"{version[0] if version else answer.text.strip()}, {path}"
    if "nsight-compute" in probe.resolve(path):
        found += " (the one inside Nsight Compute)"
    if not reachable:
        return fixable(found, lost, f"export PATH={PurePosixPath(path).parent}:$PATH")
    return ok(found)


def find_nsys(probe: Probe) -> tuple[str | None, bool]:
    """(path of nsys, whether the collector finds it by itself)."""
    if path := probe.which("nsys"):
        return path, True
    known = [f"{folder}/nsys" for folder in _collector_folders("nsys")]
    for patterns, reachable in ((known, True), (NSYS_ELSEWHERE, False)):
        for pattern in patterns:
            if paths := probe.glob(pattern):
                return paths[0], reachable
    return None, False


def _collector_folders(name: str) -> list[str]:
    """The folders in which a collector's file looks for its program."""
    path = find("collectors", f"{name}.toml")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return []
    folders = content.get("program", {}).get("look_in", [])
    return [str(folder) for folder in folders]


def nsys_import(probe: Probe) -> Finding:
    """Whether nsys can turn what it recorded (.qdstrm) into a report (.nsys-rep)."""
    lost = "reports at the end of a run: only .qdstrm files, to be imported on another machine"
    path, _ = find_nsys(probe)
    if path is None:
        return missing("no nsys here", lost)
    importer, link = find_importer(probe, path)
    if importer is None:
        return missing(f"no QdstrmImporter in the folders beside {path}", lost)
    answer = probe.run([importer, "--version"])
    if libraries := missing_libraries(answer):
        libraries += missing_libraries(probe.run(["ldd", importer]))
        names = sorted(set(libraries))
        found = f"{importer} does not start without {', '.join(names)}"
        if unknown := [name for name in names if name not in LIBRARY_PACKAGES]:
            return missing(f"{found} (find the package of {unknown[0]})", lost)
        return fixable(found, lost, library_fix(probe, names))
    if answer.code >= 124:
        return missing(f"{importer}: {answer.reason}", lost)
    if link:
        return fixable(f"{importer} starts, but nsys does not look there", lost, link)
    # Another code only means that this version has no --version: it did start.
    return ok(f"{importer} starts")


def gpu_counters(probe: Probe) -> Finding:
    """Whether the driver lets nsys sample hardware counters (--collect nsys-metrics)."""
    lost = "hardware counters of GPUs (SMs, tensor cores, DRAM); the GPU timeline stays"
    path, _ = find_nsys(probe)
    if path is None:
        return missing("no nsys here", lost)
    answers = [probe.run([path, "profile", f"{option}=help"]) for option in COUNTER_OPTIONS]
    text = "\n".join(answer.text for answer in answers)
    _, _, listed = text.partition("values are")
    if gpus := sorted(set(re.findall(r"^\s*\d+: (.+?)(?: PCI\[.*)?$", listed, re.MULTILINE))):
        return ok(", ".join(gpus))
    if any(word in text for word in NO_COUNTERS):
        return fixable("the driver keeps them to administrators", lost, COUNTERS_FIX)
    return missing(answers[0].reason, lost)


def find_importer(probe: Probe, nsys_path: str) -> tuple[str | None, str | None]:
    """(QdstrmImporter, the link to make before nsys finds it).

    nsys looks in the siblings of the folder that really holds it. Debian puts the importer in
    /usr/lib/nsight-systems and nsys in /usr/lib/x86_64-linux-gnu/nsight-systems: seen with
    2022.4.2, which then leaves a .qdstrm.
    """
    install = PurePosixPath(probe.resolve(nsys_path)).parent.parent
    if paths := probe.glob(f"{install}/*/QdstrmImporter"):
        return paths[0], None
    if paths := probe.glob(f"{install.parent.parent}/nsight-systems/host*/QdstrmImporter"):
        sudo = "" if is_root(probe) else "sudo "
        return paths[0], f"{sudo}ln -s {PurePosixPath(paths[0]).parent} {install}/"
    toolkit = [path for pattern in TOOLKIT_IMPORTERS for path in probe.glob(pattern)]
    if toolkit and PurePosixPath(nsys_path).parent.name == "bin":
        return toolkit[0], None
    return None, None


def missing_libraries(answer: Answer) -> list[str]:
    """Libraries that the loader or ldd did not find."""
    loader = re.findall(r"error while loading shared libraries: ([^:\s]+):", answer.text)
    return loader + re.findall(r"^\s*(\S+) => not found", answer.text, re.MULTILINE)


def library_fix(probe: Probe, libraries: list[str]) -> str:
    """The command that brings the libraries: as root by the package manager, else unpacked."""
    debian, red_hat = zip(*(LIBRARY_PACKAGES[name] for name in libraries), strict=True)
    root = is_root(probe)
    if probe.which("apt-get") is None:
        return f"{'' if root else 'sudo '}dnf install -y {' '.join(sorted(set(red_hat)))}"
    packages = " ".join(sorted(set(debian)))
    if root:
        return f"apt-get install -y {packages}"
    return (
        f"mkdir -p {OWN_LIBRARIES} && (cd {OWN_LIBRARIES} && apt-get download {packages} && "
        "for d in *.deb; do dpkg -x $d .; done) && "
        f"export LD_LIBRARY_PATH={OWN_LIBRARIES}/usr/lib/$(uname -m)-linux-gnu:$LD_LIBRARY_PATH"
    )


def perf(probe: Probe) -> Finding:
    """perf itself; Debian's and Ubuntu's wrapper fails when no perf fits the kernel."""
    lost = "CPU counters and CPU stacks of the ranks"
    path = probe.which("perf")
    if path is None:
        others = sorted(probe.glob("/usr/lib/linux-tools*/*/perf"), key=natural)
        if others:
            folder = PurePosixPath(others[-1]).parent
            return fixable(f"only {others[-1]}", lost, f"export PATH={folder}:$PATH")
        if is_root(probe) and probe.which("apt-get"):
            return fixable("not on PATH", lost, "apt-get install -y linux-perf")
        return missing("not on PATH", lost)
    answer = probe.run([path, "--version"])
    if not answer.works:
        return missing(f"{path}: {answer.reason}", lost)
    kernel = (probe.read("/proc/sys/kernel/osrelease") or "unknown").strip()
    return ok(f"{answer.out.strip().removeprefix('perf version ')}, {path}; kernel {kernel}")


def perf_access(probe: Probe) -> Finding:
    """What the kernel lets perf see: perf_event_paranoid, unless privileged."""
    text = (probe.read(PARANOID) or "").strip()
    if not re.fullmatch(r"-?\d+", text):
        return missing(f"{PARANOID} cannot be read", "every counter of perf")
    level = int(text)
    if has_capability(probe, CAP_SYS_ADMIN) or has_capability(probe, CAP_PERFMON):
        return ok(f"perf_event_paranoid = {level}, without effect: this process is privileged")
    if level <= 1:
        return ok(f"perf_event_paranoid = {level}: user and kernel are counted")
    lost = "time in the kernel; context switches and migrations read a false 0 (not measured)"
    if level > 2:
        lost = "every counter of perf"
    fix = "sudo sysctl -w kernel.perf_event_paranoid=1"
    return fixable(f"perf_event_paranoid = {level}", lost, fix)


def perf_events(probe: Probe) -> Finding:
    """Which events really count, tried on `true`."""
    lost = "cycles and instructions of the ranks (virtual machines often hide these counters)"
    path = probe.which("perf")
    if path is None:
        return missing("perf is not on PATH", lost)
    answer = probe.run([path, "stat", "-x", ",", "-e", PERF_EVENTS, "--", "true"])
    counted, not_counted = sort_events(answer.text)
    if not counted:
        return missing(f"nothing is counted: {answer.reason}", "every counter of perf")
    if not_counted:
        return missing(f"counts {', '.join(counted)}; not {', '.join(not_counted)}", lost)
    return ok(f"counts {', '.join(counted)}")


def sort_events(text: str) -> tuple[list[str], list[str]]:
    """(events that count, events that do not) from `perf stat -x,`.

    Without kernel access perf counts `context-switches:u`, which is always 0: a false zero.
    """
    counted: list[str] = []
    not_counted: list[str] = []
    for line in text.splitlines():
        cells = line.split(",")
        if len(cells) < 4:
            continue
        event, user_only = cells[2].removesuffix(":u"), cells[2].endswith(":u")
        false_zero = user_only and event in ("context-switches", "cpu-migrations")
        works = re.fullmatch(r"[\d.]+", cells[0]) is not None and not false_zero
        (counted if works else not_counted).append(event)
    return counted, not_counted


def is_root(probe: Probe) -> bool:
    return bool(re.search(r"^Uid:\s+\d+\s+0\b", probe.read("/proc/self/status") or "", re.M))


def has_capability(probe: Probe, number: int) -> bool:
    held = re.search(r"^CapEff:\s+([0-9a-f]+)", probe.read("/proc/self/status") or "", re.M)
    return held is not None and bool(int(held[1], 16) >> number & 1)
