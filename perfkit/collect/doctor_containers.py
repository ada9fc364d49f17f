"""Doctor's checks of containers: Apptainer or Singularity, the driver inside, user namespaces."""

import re
from pathlib import PurePosixPath

from perfkit.collect.containers import DRIVER_LIBRARY, apptainer_image
from perfkit.collect.doctor_probe import Finding, Probe, fixable, missing, ok

RUNTIMES = ("apptainer", "singularity")
LIBRARY_LISTS = (
    "/etc/apptainer/nvliblist.conf",
    "/etc/singularity/nvliblist.conf",
    "/usr/local/etc/apptainer/nvliblist.conf",
    "/usr/local/etc/singularity/nvliblist.conf",
    "/opt/apptainer*/etc/apptainer/nvliblist.conf",
)
# `--nv` binds these from the loader's cache; without them a container sees no GPU.
DRIVER_LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1")
DRIVER_FOLDERS = ("/usr/local/nvidia/lib64", "/usr/lib64", "/usr/lib/x86_64-linux-gnu")
MAX_NAMESPACES = "/proc/sys/user/max_user_namespaces"
DEBIAN_SWITCH = "/proc/sys/kernel/unprivileged_userns_clone"
UBUNTU_SWITCH = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"


def container(probe: Probe) -> Finding:
    """The container program of clusters."""
    for name in RUNTIMES:
        path = probe.which(name)
        if path is None:
            continue
        answer = probe.run([path, "--version"])
        if answer.works:
            return ok(f"{answer.out.strip()}, {path}")
        return missing(f"{path}: {answer.reason}", "runs in a container")
    if apptainer_image(probe.environ):
        return missing("this is inside a container already", "containers started from in here")
    found = f"neither {' nor '.join(RUNTIMES)} is on PATH (clusters: try `module avail`)"
    return missing(found, "runs in a container")


def container_gpu(probe: Probe) -> Finding:
    """Whether `--nv` has a driver to bind. It is silent and exits 0 when it has none."""
    lost = "the GPU inside containers: --nv gives no error and no GPU"
    if image := apptainer_image(probe.environ):
        return _bound_here(probe, image, lost)
    ldconfig = probe.which("ldconfig") or "/sbin/ldconfig"
    cached = probe.run([ldconfig, "-p"])
    if not cached.works:
        return missing(f"the loader's cache cannot be read: {cached.reason}", lost)
    absent = [name for name in DRIVER_LIBRARIES if f"\t{name} " not in cached.out]
    if absent:
        return _driver_uncached(probe, absent, lost)
    if all(probe.which(name) is None for name in RUNTIMES):
        return missing("the driver's libraries are here, no container program", lost)
    if not any(probe.glob(pattern) for pattern in LIBRARY_LISTS) and not _beside(probe):
        return missing("the container program has no nvliblist.conf", lost)
    return ok("--nv finds the driver's libraries; check once inside with nvidia-smi")


def _bound_here(probe: Probe, image: str, lost: str) -> Finding:
    """Inside, the loader's cache is the image's own: what counts is what --nv bound."""
    if probe.glob(DRIVER_LIBRARY):
        return ok(f"--nv has bound the node's driver into {image}")
    return missing(f"no driver in {image}: started without --nv, or the node has none", lost)


def _beside(probe: Probe) -> bool:
    """nvliblist.conf in the prefix of the program itself: PREFIX/bin, PREFIX/etc."""
    for name in RUNTIMES:
        if path := probe.which(name):
            prefix = PurePosixPath(probe.resolve(path)).parent.parent
            if probe.glob(f"{prefix}/etc/*/nvliblist.conf"):
                return True
    return False


def _driver_uncached(probe: Probe, absent: list[str], lost: str) -> Finding:
    found = f"ldconfig does not list {', '.join(absent)}"
    for folder in DRIVER_FOLDERS:
        if probe.glob(f"{folder}/{absent[0]}"):
            return fixable(f"{found}, but {folder} has it", lost, f"sudo ldconfig {folder}")
    return missing(f"{found} (no NVIDIA driver)", lost)


def user_namespaces(probe: Probe) -> Finding:
    """User namespaces, tried: what Apptainer needs where it is not installed setuid."""
    lost = "containers without a setuid Apptainer, and image builds without root"
    if (probe.read(MAX_NAMESPACES) or "").strip() == "0":
        return fixable("max_user_namespaces = 0", lost, _sysctl("user.max_user_namespaces=15000"))
    if (probe.read(DEBIAN_SWITCH) or "").strip() == "0":
        fix = _sysctl("kernel.unprivileged_userns_clone=1")
        return fixable("unprivileged_userns_clone = 0", lost, fix)
    if probe.which("unshare") is None:
        limit = (probe.read(MAX_NAMESPACES) or "").strip()
        if re.fullmatch(r"\d+", limit):
            return ok(f"up to {limit} allowed (not tried: no unshare here)")
        return missing("unknown: no unshare here to try", lost)
    answer = probe.run(["unshare", "--user", "true"])
    if answer.works:
        return ok("`unshare --user` works")
    if (probe.read(UBUNTU_SWITCH) or "").strip() == "1":
        fix = _sysctl("kernel.apparmor_restrict_unprivileged_userns=0")
        return fixable("AppArmor restricts them (Ubuntu)", lost, fix)
    return missing(f"`unshare --user` fails: {answer.reason}", lost)


def _sysctl(setting: str) -> str:
    return f"sudo sysctl -w {setting}"
