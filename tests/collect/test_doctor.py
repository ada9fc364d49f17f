"""What `perfkit doctor` says of recorded machines, of this one, and of tools that hang."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from perfkit.cli import doctor as verb
from perfkit.collect import doctor_containers as containers
from perfkit.collect import doctor_gpu as gpus
from perfkit.collect import doctor_host as host
from perfkit.collect import doctor_packages as packages
from perfkit.collect import doctor_profilers as profilers
from perfkit.collect import doctor_slurm as slurms
from perfkit.collect.doctor import (
    CHECKS,
    Check,
    examine,
    next_command,
    parse_needs,
    require,
)
from perfkit.collect.doctor_probe import Answer, Probe, fixable, missing, natural, ok, run_limited
from perfkit.collect.witness import alive
from perfkit.errors import CheckFailed, ConfigError

GIB = 2**30


@dataclass(eq=False)
class Recorded(Probe):
    """A machine that is nothing but recorded answers; commands are named by how they begin."""

    environ: Mapping[str, str] = field(default_factory=dict)
    commands: Mapping[str, Answer] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    programs: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, list[str]] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    spaces: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    requires: Sequence[str] = ()
    folder: tuple[str | None, str | None] = (None, None)

    def run(self, command: Sequence[str], timeout: float = 1.0) -> Answer:
        line = " ".join(command)
        known = (answer for start, answer in self.commands.items() if line.startswith(start))
        return next(known, Answer(127, err=f"{command[0]}: No such file or directory"))

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def which(self, name: str) -> str | None:
        return self.programs.get(name)

    def glob(self, pattern: str) -> list[str]:
        return list(self.paths.get(pattern, []))

    def resolve(self, path: str) -> str:
        return self.links.get(path, path)

    def space(self, path: str) -> tuple[int, int] | None:
        return self.spaces.get(path)

    def try_folder(self, path: str) -> tuple[str | None, str | None]:
        return self.folder

    def installed(self, package: str) -> str | None:
        return self.packages.get(package)

    def requirements(self) -> list[str]:
        return list(self.requires)


# --- GPUs -------------------------------------------------------------------------------------

SMI = {"nvidia-smi": "/usr/bin/nvidia-smi"}
TWO_H200 = Answer(0, "NVIDIA H200, 143771 MiB, 580.159.04\nNVIDIA H200, 143771 MiB, 580.159.04\n")
NO_DRIVER = Answer(
    9,
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running.\n\n",
)
TOPO_NVLINK = (
    "\t\x1b[4mGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m\n"
    "GPU0\t X \tNV18\t0-31\t0\t\tN/A\n"
    "GPU1\tNV18\t X \t0-31\t0\t\tN/A\n"
    "\nLegend:\n\n  X    = Self\n  NV#  = Connection traversing a bonded set of # NVLinks\n"
)
TOPO_MIXED = (
    "\tGPU0\tGPU1\tGPU2\tGPU3\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n"
    "GPU0\t X \tNV4\tSYS\tSYS\tPXB\t0-31\t0\t\tN/A\n"
    "GPU1\tNV4\t X \tSYS\tSYS\tPXB\t0-31\t0\t\tN/A\n"
    "GPU2\tSYS\tSYS\t X \tNODE\tSYS\t32-63\t1\t\tN/A\n"
    "GPU3\tSYS\tSYS\tNODE\t X \tSYS\t32-63\t1\t\tN/A\n"
    "NIC0\tPXB\tPXB\tSYS\tSYS\t X \t\t\t\t\n"
    "\nLegend:\n\nNIC Legend:\n\n  NIC0: mlx5_0\n"
)


def smi(*answers: tuple[str, Answer]) -> Recorded:
    return Recorded(programs=SMI, commands={f"nvidia-smi {k}": a for k, a in answers})


def test_gpus_of_one_kind_are_counted() -> None:
    finding = gpus.gpu(smi(("--query-gpu", TWO_H200)))
    assert finding == ok("2 x NVIDIA H200, 140.4 GiB; driver 580.159.04")


def test_a_driver_that_does_not_answer_is_quoted() -> None:
    finding = gpus.gpu(smi(("--query-gpu", NO_DRIVER)))
    assert finding.state == "missing"
    assert "couldn't communicate with the NVIDIA driver" in finding.found


def test_a_login_node_says_where_the_gpus_are() -> None:
    programs = {"srun": "/usr/bin/srun", "sinfo": "/usr/bin/sinfo"}
    gres = Answer(0, "cpu*|9|(null)\nboost|4|gpu:a100:4(S:0-1)\nboost|1|gpu:a100:3\n")
    probe = Recorded(programs=programs, commands={"sinfo -h": gres})
    finding = gpus.gpu(probe)
    assert finding.state == "fixable"
    assert finding.fix == "srun --partition=boost --gres=gpu:1 perfkit doctor"
    inside = Recorded(programs=programs, commands=probe.commands, environ={"SLURM_JOB_ID": "7"})
    assert gpus.gpu(inside).state == "missing"


def test_nvlink_between_two_gpus() -> None:
    finding = gpus.gpu_links(smi(("topo -m", Answer(0, TOPO_NVLINK))))
    assert finding == ok("2 GPUs; pairs by link: 1 x NV18 (18 NVLinks)")


def test_pairs_without_nvlink_are_named_and_nics_are_left_out() -> None:
    finding = gpus.gpu_links(smi(("topo -m", Answer(0, TOPO_MIXED))))
    assert finding.state == "missing"
    assert finding.found == (
        "4 GPUs; pairs by link: 4 x SYS (the link between sockets), 1 x NV4 (4 NVLinks), "
        "1 x NODE (PCIe across one NUMA node)"
    )


def test_one_gpu_has_no_links() -> None:
    alone = "\tGPU0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\nGPU0\t X \t0-15\t0\t\tN/A\n"
    assert gpus.gpu_links(smi(("topo -m", Answer(0, alone)))).found == "1 GPU, so no links"


def torch_says(gpu_answer: Answer = TWO_H200, err: str = "", **facts: object) -> Recorded:
    given = {"torch": "2.11.0", "cuda": "13.0", "hip": None, "count": 2, "available": True}
    said = Answer(0, json.dumps({**given, "nccl": [2, 28, 9], **facts}) + "\n", err)
    return Recorded(
        programs=SMI,
        packages={"torch": "2.11.0"},
        commands={f"{sys.executable} -c": said, "nvidia-smi --query-gpu": gpu_answer},
    )


def test_torch_that_sees_the_gpus() -> None:
    assert gpus.cuda(torch_says()) == ok("torch sees 2 GPUs (built for CUDA 13.0)")
    assert gpus.nccl(torch_says()) == ok("NCCL 2.28.9")


def test_a_cpu_build_on_a_machine_with_gpus_is_fixable() -> None:
    probe = torch_says(cuda=None, available=False, count=0, nccl=None)
    assert gpus.cuda(probe).fix == "pip install --force-reinstall 'torch>=2.6'"
    assert gpus.nccl(probe).state == "missing"


def test_torch_that_sees_no_gpu_repeats_its_warning() -> None:
    warning = "UserWarning: CUDA initialization: The NVIDIA driver on your system is too old"
    finding = gpus.cuda(torch_says(available=False, count=0, err=warning))
    assert finding.state == "missing"
    assert "too old" in finding.found


def test_torch_that_crashes_or_hangs_is_a_line() -> None:
    crashed = Answer(1, err="Traceback ...\nImportError: libcudart.so.12: cannot open\n")
    probe = Recorded(packages={"torch": "2.11.0"}, commands={sys.executable: crashed})
    assert gpus.cuda(probe).found == (
        "torch cannot be asked: ImportError: libcudart.so.12: cannot open"
    )


# --- Python packages --------------------------------------------------------------------------

REQUIRES = [
    "polars>=1.39",
    "altair>=6; extra == 'report'",
    "deepspeed<0.20,>=0.19; extra == 'run'",
    "torch>=2.6; extra == 'run'",
]


@pytest.mark.parametrize(
    ("version", "state"), [("0.19.8", "ok"), ("0.20.0", "fixable"), ("0.18.9", "fixable")]
)
def test_a_version_is_held_against_perfkits_own_bounds(version: str, state: str) -> None:
    probe = Recorded(packages={"deepspeed": version}, requires=REQUIRES)
    finding = packages.deepspeed(probe)
    assert finding.state == state
    if state == "fixable":
        assert finding.fix == "pip install 'deepspeed>=0.19,<0.20'"


def test_a_package_of_an_extra_is_installed_by_the_extra() -> None:
    probe = Recorded(requires=REQUIRES)
    assert packages.torch(probe).fix == "pip install 'perfkit[run]'"
    assert packages.altair(probe).fix == "pip install 'perfkit[report]'"
    assert packages.polars(probe).fix == "pip install 'polars>=1.39'"


@pytest.mark.parametrize(
    ("version", "bounds", "expected"),
    [
        ("2.13.0+cpu", ">=2.6", True),
        ("2.9.0a0+145a3a7", ">=2.6", True),
        ("2.5.1", ">=2.6", False),
        ("0.20", ">=0.19,<0.20", False),
        ("0.20.0", ">=0.19,<0.20", False),
        ("5.23.0", ">=5.17,<5.24", True),
    ],
)
def test_bounds_are_the_same_without_packaging(version: str, bounds: str, expected: bool) -> None:
    assert packages.inside(version, bounds) is expected
    assert packages.inside_simply(version, bounds) is expected


# --- Slurm ------------------------------------------------------------------------------------

# From a real Slurm 22.05.8 (Debian 12), shortened.
CONFIG = """\
Configuration data as of 2026-11-22T22:42:14
AccountingStorageType   = accounting_storage/slurmdbd
AcctGatherEnergyType    = acct_gather_energy/pm_counters
AcctGatherNodeFreq      = 1 sec
ClusterName             = perfkit
JobAcctGatherFrequency  = task=1,energy=1
JobAcctGatherType       = jobacct_gather/linux
JobAcctGatherParams     = (null)
SLURM_VERSION           = 22.05.8

Slurmctld(primary) at vm is UP
"""
BARE_CONFIG = """\
AccountingStorageType   = (null)
AcctGatherEnergyType    = acct_gather_energy/none
ClusterName             = bare
JobAcctGatherType       = jobacct_gather/none
SLURM_VERSION           = 24.11.5
"""
NO_CONFIG = Answer(
    1,
    err="scontrol: error: fetch_config: DNS SRV lookup failed\n"
    "scontrol: fatal: Could not establish a configuration source\n",
)
SLURM_PROGRAMS = {name: f"/usr/bin/{name}" for name in ("scontrol", "sacct", "sinfo", "srun")}


def cluster(config: str = CONFIG, sacct: Answer | None = None, **environ: str) -> Recorded:
    return Recorded(
        programs=SLURM_PROGRAMS,
        environ=environ,
        commands={"scontrol show config": Answer(0, config), "sacct": sacct or Answer(0)},
    )


def test_a_cluster_that_answers() -> None:
    assert slurms.slurm(cluster()) == ok("22.05.8, cluster perfkit, outside a job")
    assert slurms.slurm(cluster(SLURM_JOB_ID="12")).found.endswith("inside job 12")
    assert slurms.accounting(cluster()) == ok("sacct answers (storage: slurmdbd)")
    assert slurms.energy(cluster()).found.startswith("pm_counters: the whole node")
    assert "sampled every 1 s" in slurms.job_gathering(cluster()).found


def test_a_cluster_that_stores_nothing() -> None:
    probe = cluster(BARE_CONFIG)
    assert slurms.slurm(probe).state == "ok"
    for check in (slurms.accounting, slurms.energy, slurms.job_gathering):
        assert check(probe).state == "missing"
    assert "not zero joules" in str(slurms.energy(probe).lost)


def test_a_database_that_is_down() -> None:
    down = Answer(1, err="sacct: error: Problem talking to the database: Connection refused\n")
    finding = slurms.accounting(cluster(sacct=down))
    assert finding.state == "missing"
    assert "Problem talking to the database" in finding.found


def test_slurm_commands_without_a_configuration() -> None:
    commands = {"scontrol show config": NO_CONFIG}
    lost = Recorded(programs=SLURM_PROGRAMS, commands=commands)
    assert slurms.slurm(lost).found == (
        "/usr/bin/scontrol is here, but: Could not establish a configuration source"
    )
    conf = {"/opt/slurm/etc/slurm.conf": ["/opt/slurm/etc/slurm.conf"]}
    known = Recorded(programs=SLURM_PROGRAMS, commands=commands, paths=conf)
    assert slurms.slurm(known).fix == "export SLURM_CONF=/opt/slurm/etc/slurm.conf"


def test_a_container_inside_a_job_has_no_scontrol() -> None:
    finding = slurms.slurm(Recorded(environ={"SLURM_JOB_ID": "12"}))
    assert finding.found == "inside job 12, but no scontrol here (in a container?)"


# --- nsys and perf ----------------------------------------------------------------------------

HIDDEN = "/opt/nvidia/nsight-compute/2025.3.1/host/target-linux-x64/nsys"
HIDDEN_FOLDER = "/opt/nvidia/nsight-compute/2025.3.1/host"
IMPORTER = f"{HIDDEN_FOLDER}/linux-desktop-glibc_2_11_3-x64/QdstrmImporter"
NSYS_VERSION = Answer(0, "NVIDIA Nsight Systems version 2025.3.1.90-253135822126v0\n")
NO_LIBDW = Answer(
    127,
    err=f"{IMPORTER}: error while loading shared libraries: libdw.so.1: "
    "cannot open shared object file: No such file or directory\n",
)
LDD = Answer(
    0,
    "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibdw.so.1 => not found\n\tlibelf.so.1 => not found\n"
    "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n",
)
ROOT = "Name:\tpython\nUid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\nCpus_allowed_list:\t0-3,8\n"
USER = "Name:\tpython\nUid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\n"


def with_hidden_nsys(importer: Answer, status: str = USER, **programs: str) -> Recorded:
    return Recorded(
        programs=programs,
        files={"/proc/self/status": status},
        paths={
            "/opt/nvidia/nsight-compute/*/host/target-linux-x64/nsys": [HIDDEN],
            "/opt/nvidia/nsight-compute/*/host/target-linux-*/nsys": [HIDDEN],
            f"{HIDDEN_FOLDER}/*/QdstrmImporter": [IMPORTER],
        },
        commands={HIDDEN: NSYS_VERSION, IMPORTER: importer, "ldd": LDD},
    )


def test_the_nsys_hidden_in_nsight_compute_is_found() -> None:
    finding = profilers.nsys(with_hidden_nsys(Answer(0)))
    assert finding == ok(f"2025.3.1, {HIDDEN} (the one inside Nsight Compute)")


@pytest.mark.parametrize(
    ("said", "state", "found"),
    [
        (
            "Possible --gpu-metrics-devices values are:\n"
            "\t0: Hopper GH100 | NVIDIA H200 PCI[0000:00:06.0]\n"
            "\tall: Select all supported GPUs\n",
            "ok",
            "Hopper GH100 | NVIDIA H200",
        ),
        (
            "Insufficient privilege, see https://developer.nvidia.com/ERR_NVGPUCTRPERM\n",
            "fixable",
            "the driver keeps them to administrators",
        ),
        ("unrecognised option '--gpu-metrics-devices'\n", "missing", "unrecognised option"),
    ],
)
def test_hardware_counters_are_there_where_the_driver_gives_them(
    said: str, state: str, found: str
) -> None:
    """The first as nsys 2025.3 says it on an H200."""
    path = "/usr/bin/nsys"
    finding = profilers.gpu_counters(
        Recorded(programs={"nsys": path}, commands={path: Answer(0, said)})
    )
    assert finding.state == state
    assert finding.found.startswith(found)


def test_an_nsys_where_the_collector_does_not_look_needs_a_path() -> None:
    path = "/opt/nvidia/hpc_sdk/Linux_x86_64/25.3/profilers/Nsight_Systems/bin/nsys"
    probe = Recorded(
        paths={"/opt/nvidia/hpc_sdk/*/*/profilers/Nsight_Systems/bin/nsys": [path]},
        commands={path: NSYS_VERSION},
    )
    finding = profilers.nsys(probe)
    assert finding.state == "fixable"
    assert finding.fix == f"export PATH={path.removesuffix('/nsys')}:$PATH"


def test_an_importer_without_its_libraries_names_the_packages() -> None:
    apt = "/usr/bin/apt-get"
    as_root = profilers.nsys_import(with_hidden_nsys(NO_LIBDW, ROOT, **{"apt-get": apt}))
    assert as_root.found == f"{IMPORTER} does not start without libdw.so.1, libelf.so.1"
    assert as_root.fix == "apt-get install -y libdw1 libelf1"
    as_user = profilers.nsys_import(with_hidden_nsys(NO_LIBDW, USER, **{"apt-get": apt}))
    assert "apt-get download libdw1 libelf1" in str(as_user.fix)
    assert "LD_LIBRARY_PATH=" in str(as_user.fix)
    red_hat = profilers.nsys_import(with_hidden_nsys(NO_LIBDW, USER))
    assert red_hat.fix == "sudo dnf install -y elfutils-libelf elfutils-libs"


def test_an_importer_that_starts_is_ok_even_without_a_version_option() -> None:
    refused = Answer(1, err="unrecognised option '--version'\n")
    assert profilers.nsys_import(with_hidden_nsys(refused)).state == "ok"
    hung = Answer(124, err="no answer from QdstrmImporter in 6 s")
    assert profilers.nsys_import(with_hidden_nsys(hung)).state == "missing"


def test_debians_importer_is_where_nsys_does_not_look() -> None:
    """nsight-systems 2022.4.2 of Debian 12: it records, and leaves a .qdstrm."""
    importer = "/usr/lib/nsight-systems/host-linux-x64/QdstrmImporter"
    real = "/usr/lib/x86_64-linux-gnu/nsight-systems"
    probe = Recorded(
        programs={"nsys": "/usr/bin/nsys"},
        links={"/usr/bin/nsys": f"{real}/target-linux-x64/nsys"},
        paths={"/usr/lib/nsight-systems/host*/QdstrmImporter": [importer]},
        commands={importer: Answer(0, "NVIDIA Nsight Systems 2022.4.2.1-df9881f\n")},
    )
    finding = profilers.nsys_import(probe)
    assert finding.state == "fixable"
    assert finding.fix == f"sudo ln -s /usr/lib/nsight-systems/host-linux-x64 {real}/"


def test_the_script_of_a_cuda_toolkit_leads_to_the_newest_install() -> None:
    importer = "/opt/nvidia/nsight-systems/2025.1.3/host-linux-x64/QdstrmImporter"
    paths = {"/opt/nvidia/nsight-systems/*/host*/QdstrmImporter": [importer]}
    found = profilers.find_importer(Recorded(paths=paths), "/usr/local/cuda-12.8/bin/nsys")
    assert found == (importer, None)


@pytest.mark.parametrize(
    ("level", "status", "state", "lost"),
    [
        ("1", USER, "ok", None),
        ("2", USER, "fixable", "false 0"),
        ("4", USER, "fixable", "every counter"),
        ("2", ROOT, "ok", None),
    ],
)
def test_perf_event_paranoid(level: str, status: str, state: str, lost: str | None) -> None:
    files = {profilers.PARANOID: f"{level}\n", "/proc/self/status": status}
    finding = profilers.perf_access(Recorded(files=files))
    assert finding.state == state
    assert (lost or "") in (finding.lost or "")


# perf 6.1 in a virtual machine: as root, then as a user with perf_event_paranoid = 2.
STAT_ROOT = """\
0.35,msec,task-clock,348326,100.00,238.743,CPUs utilized
0,,context-switches,348326,100.00,0.000,/sec
<not supported>,,cycles,0,100.00,,
<not supported>,,instructions,0,100.00,,
"""
STAT_USER = """\
129.99,msec,task-clock:u,129990000,100.00,0.316,CPUs utilized
0,,context-switches:u,129990000,100.00,0.000,/sec
813,,page-faults:u,129990000,100.00,6.254,K/sec
"""


def test_events_that_do_not_count_are_named() -> None:
    perf = {"perf": "/usr/bin/perf"}
    commands = {"/usr/bin/perf stat": Answer(0, err=STAT_ROOT)}
    finding = profilers.perf_events(Recorded(programs=perf, commands=commands))
    assert finding.found == "counts task-clock, context-switches; not cycles, instructions"


def test_a_false_zero_is_not_counted() -> None:
    counted, not_counted = profilers.sort_events(STAT_USER)
    assert counted == ["task-clock", "page-faults"]
    assert not_counted == ["context-switches"]


def test_a_wrapper_without_a_perf_for_this_kernel() -> None:
    failed = Answer(2, err="WARNING: perf not found for kernel 6.8.0-45\n")
    probe = Recorded(programs={"perf": "/usr/bin/perf"}, commands={"/usr/bin/perf": failed})
    assert profilers.perf(probe).found.endswith("perf not found for kernel 6.8.0-45")


# --- containers -------------------------------------------------------------------------------

LDCONFIG = (
    "2 libs found in cache `/etc/ld.so.cache'\n"
    "\tlibnvidia-ml.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1\n"
    "\tlibcuda.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libcuda.so.1\n"
)


def test_apptainer_with_a_driver() -> None:
    probe = Recorded(
        programs={"apptainer": "/usr/bin/apptainer", "ldconfig": "/sbin/ldconfig"},
        commands={
            "/usr/bin/apptainer": Answer(0, "apptainer version 1.4.5\n"),
            "/sbin/ldconfig": Answer(0, LDCONFIG),
        },
        paths={"/etc/apptainer/nvliblist.conf": ["/etc/apptainer/nvliblist.conf"]},
    )
    assert containers.container(probe) == ok("apptainer version 1.4.5, /usr/bin/apptainer")
    assert containers.container_gpu(probe).state == "ok"


def test_a_driver_outside_the_loaders_cache_is_fixable() -> None:
    probe = Recorded(
        commands={"/sbin/ldconfig": Answer(0, "0 libs found\n")},
        paths={"/usr/local/nvidia/lib64/libcuda.so.1": ["/usr/local/nvidia/lib64/libcuda.so.1"]},
    )
    assert containers.container_gpu(probe).fix == "sudo ldconfig /usr/local/nvidia/lib64"


def test_inside_apptainer_what_nv_bound_counts_and_not_the_loaders_cache() -> None:
    inside = {"APPTAINER_CONTAINER": "/images/perfkit.sif"}
    cache = {"/sbin/ldconfig": Answer(0, "0 libs found\n")}
    without = Recorded(environ=inside, commands=cache)
    found = "no driver in perfkit.sif: started without --nv, or the node has none"
    assert containers.container_gpu(without).found == found
    bound = "/.singularity.d/libs/libcuda.so.1"
    probe = Recorded(
        environ=inside, commands=cache, paths={"/.singularity.d/libs/libcuda.so*": [bound]}
    )
    expected = ok("--nv has bound the node's driver into perfkit.sif")
    assert containers.container_gpu(probe) == expected


def test_user_namespaces_that_are_switched_off() -> None:
    off = Recorded(files={containers.DEBIAN_SWITCH: "0\n"})
    fix = "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    assert containers.user_namespaces(off).fix == fix
    refused = Answer(1, err="unshare: write failed /proc/self/uid_map: Operation not permitted\n")
    ubuntu = Recorded(
        files={containers.UBUNTU_SWITCH: "1\n"},
        programs={"unshare": "/usr/bin/unshare"},
        commands={"unshare": refused},
    )
    assert containers.user_namespaces(ubuntu).state == "fixable"


# --- the output folder and the host -----------------------------------------------------------

MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
tmpfs /dev/shm tmpfs rw,nosuid 0 0
10.0.0.7@o2ib:/scratch {point} lustre rw,flock,lazystatfs 0 0
"""


def out_on(folder: Path, free_gib: float, point: str) -> Recorded:
    return Recorded(
        out=folder,
        files={"/proc/mounts": MOUNTS.format(point=point)},
        spaces={str(folder): (1000 * GIB, int(free_gib * GIB))},
    )


def test_the_longest_mount_point_names_the_file_system(tmp_path: Path) -> None:
    shared = out_on(tmp_path, 40, str(tmp_path))
    assert host.out_folder(shared) == ok(f"{tmp_path}: lustre, 40.0 of 1,000 GiB free")
    assert host.out_shared(shared).state == "ok"
    local = out_on(tmp_path, 40, "/scratch")
    assert host.out_shared(local).found == "ext4 looks local to this node"


def test_mount_points_with_spaces() -> None:
    assert host.unescaped(r"/mnt/my\040disk") == "/mnt/my disk"


def test_too_little_space_is_no_ok(tmp_path: Path) -> None:
    assert host.out_folder(out_on(tmp_path, 4.9, "/scratch")).state == "missing"


def test_a_folder_that_does_not_exist_yet_is_judged_by_its_parent(tmp_path: Path) -> None:
    assert host.existing(tmp_path / "runs" / "new") == tmp_path


def test_locks_that_are_refused(tmp_path: Path) -> None:
    probe = Recorded(out=tmp_path, folder=(None, "Function not implemented"))
    finding = host.file_locks(probe)
    assert finding.state == "missing"
    assert "Function not implemented" in finding.found
    assert host.file_locks(Probe(out=tmp_path)).state == "ok"


def test_a_file_is_no_output_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x", encoding="utf-8")
    assert "Not a directory" in host.out_folder(Probe(out=file)).found


def test_a_containers_small_shm_is_fixable() -> None:
    small = Recorded(spaces={"/dev/shm": (64 * 2**20, 64 * 2**20)})
    assert host.shm(small).state == "fixable"
    assert host.shm(Recorded(spaces={"/dev/shm": (64 * GIB, 64 * GIB)})).state == "ok"


@pytest.mark.parametrize(
    ("soft", "hard", "state", "fix"),
    [
        ("1024", "524288", "fixable", "ulimit -n 524288"),
        ("1024", "1024", "missing", None),
        ("20000", "20000", "ok", None),
    ],
)
def test_open_files(soft: str, hard: str, state: str, fix: str | None) -> None:
    limits = f"Limit    Soft Limit   Hard Limit   Units\nMax open files   {soft}   {hard}   files\n"
    finding = host.open_files(Recorded(files={"/proc/self/limits": limits}))
    assert (finding.state, finding.fix) == (state, fix)


def test_cores_are_those_of_the_affinity_and_the_quota() -> None:
    files = {
        "/proc/self/status": ROOT,
        "/proc/cpuinfo": "processor\t: 0\n" * 16,
        "/proc/self/cgroup": "0::/job_7/step_0\n",
        "/sys/fs/cgroup/job_7/cpu.max": "250000 100000\n",
    }
    found = host.cores(Recorded(files=files)).found
    assert found == "5 of 16 usable, with time for 2.5 (cgroup quota)"


def test_a_step_with_fewer_cores_than_its_job() -> None:
    files = {"/proc/self/status": "Cpus_allowed_list:\t3\n"}
    finding = host.cores(Recorded(files=files, environ={"SLURM_CPUS_PER_TASK": "8"}))
    assert finding.fix == "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"
    assert host.cores(Recorded(files=files)).state == "missing"


def test_the_lowest_memory_limit_on_the_way_up_counts() -> None:
    files = {
        "/proc/meminfo": f"MemTotal:       {64 * 2**20} kB\n",
        "/proc/self/cgroup": "4:memory:/slurm/job_7/step_0\n0::/\n",
        "/sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes": f"{3 * GIB}\n",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    finding = host.memory(Recorded(files=files, environ={"SLURM_JOB_ID": "7"}))
    assert finding.state == "missing"
    assert finding.found == (
        "3.0 GiB (cgroup limit; the host has 64.0 GiB); ask for more with --mem"
    )


def test_the_demo_model_is_staged_only_with_its_weights(tmp_path: Path) -> None:
    folder = tmp_path / "models" / host.DEMO_MODEL
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    assert host.demo_model(Probe(cache=tmp_path)).fix == f"perfkit fetch {host.DEMO_MODEL}"
    (folder / "model.safetensors").write_bytes(b"")
    assert host.demo_model(Probe(cache=tmp_path)).state == "ok"


# --- the whole --------------------------------------------------------------------------------


def test_a_bare_machine_has_no_crash_in_any_check() -> None:
    for name, check in CHECKS.items():
        finding = check(Recorded())
        assert finding.state in ("ok", "missing", "fixable"), name
        assert finding.found, name
        assert (finding.state == "ok") == (finding.lost is None), name
        assert (finding.state == "fixable") == (finding.fix is not None), name


def test_a_check_that_crashes_is_a_line() -> None:
    class Broken(Recorded):
        def which(self, name: str) -> str | None:
            raise RuntimeError("a broken machine")

    by_name = {check.name: check for check in examine(Broken())}
    assert by_name["gpu"].finding == missing(
        "the check failed: RuntimeError: a broken machine", "unknown; please report this line"
    )
    assert len(by_name) == len(CHECKS)


def sleeper(folder: Path, name: str) -> None:
    """A tool that hangs, with a child of its own that holds its output open."""
    script = folder / name
    script.write_text("#!/bin/sh\nsleep 300\n", encoding="utf-8")
    script.chmod(0o755)


def test_hanging_tools_cost_their_lines_and_no_more(tmp_path: Path) -> None:
    tools = ("nvidia-smi", "nsys", "perf", "scontrol", "sacct", "apptainer", "unshare", "ldconfig")
    for name in tools:
        sleeper(tmp_path, name)
    path = f"{tmp_path}:{os.environ['PATH']}"
    start = time.monotonic()
    checks = examine(Probe(environ={**os.environ, "PATH": path}, out=tmp_path, seconds=1.0))
    assert time.monotonic() - start < 5
    by_name = {check.name: check.finding for check in checks}
    for name in ("gpu", "nsys", "perf", "slurm", "container", "container-gpu", "user-namespaces"):
        assert by_name[name].state == "missing", name
        assert "no answer" in by_name[name].found, name
    assert by_name["out-folder"].state in ("ok", "missing")
    assert "no answer" not in by_name["out-folder"].found


def test_what_a_hanging_tool_started_is_killed_too(tmp_path: Path) -> None:
    mark = tmp_path / "child"
    code = f"sleep 300 & echo $! > {mark}; wait"
    answer = run_limited(["sh", "-c", code], 3.0, os.environ)
    assert answer.code == 124
    child = int(mark.read_text(encoding="utf-8"))
    deadline = time.monotonic() + 10
    while alive(child):
        assert time.monotonic() < deadline, "it still runs"


def test_a_command_runs_once_however_many_checks_ask(tmp_path: Path) -> None:
    log = tmp_path / "log"
    probe = Probe()
    for _ in range(3):
        probe.run(["sh", "-c", f"echo ran >> {log}"])
    assert log.read_text(encoding="utf-8") == "ran\n"


def test_newer_versions_sort_later() -> None:
    assert sorted(["v/2025.10", "v/2025.3"], key=natural) == ["v/2025.3", "v/2025.10"]


def test_needs_are_names_of_checks() -> None:
    assert parse_needs(" gpu, nsys ,") == ("gpu", "nsys")
    assert parse_needs(None) == ()
    with pytest.raises(ConfigError, match=r"no such check. Checks: gpu, gpu-links"):
        parse_needs("gpus")


def lines(**findings: str) -> list[Check]:
    made = {
        "ok": ok("x"),
        "missing": missing("gone", "much"),
        "fixable": fixable("f", "l", "do it"),
    }
    return [Check(group="g", name=name, finding=made[state]) for name, state in findings.items()]


def test_a_need_that_is_not_ok_fails_with_exit_code_3() -> None:
    checks = lines(gpu="ok", nsys="fixable", perf="missing")
    require(checks, ["gpu"])
    with pytest.raises(CheckFailed, match=r"nsys is fixable: f\. Fix: do it") as caught:
        require(checks, ["gpu", "nsys"])
    assert caught.value.exit_code == 3
    assert "perf" not in str(caught.value)


def test_the_next_command_is_the_first_thing_a_run_lacks() -> None:
    parts = {"torch": "ok", "deepspeed": "fixable", "transformers": "ok", "safetensors": "ok"}
    assert next_command(lines(**parts, **{"demo-model": "ok"})) == "do it"
    ready = dict.fromkeys([*parts, "demo-model"], "ok")
    assert next_command(lines(**ready)).startswith("perfkit run ")


APP = typer.Typer()
APP.command()(verb.command)


def test_the_real_command_on_this_machine(tmp_path: Path) -> None:
    secret = {"HF_TOKEN": "hf_doctor_secret", "WANDB_API_KEY": "doctor_secret"}
    start = time.monotonic()
    done = CliRunner().invoke(APP, ["--out", str(tmp_path), "--format", "json"], env=secret)
    assert time.monotonic() - start < 15
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    assert [row["name"] for row in document["checks"]] == list(CHECKS)
    assert all(list(row) == list(verb.COLUMNS) for row in document["checks"])
    assert "doctor_secret" not in done.output
    assert done.stderr.startswith("Next: ")


def test_a_failed_need_still_prints_the_table() -> None:
    done = CliRunner().invoke(APP, ["--need", "out-folder,rocm"])
    assert isinstance(done.exception, CheckFailed)
    assert "rocm is missing" in str(done.exception)
    assert "out-folder" in done.stdout


def test_an_unknown_need_is_refused_before_anything_runs() -> None:
    done = CliRunner().invoke(APP, ["--need", "warp-drive"])
    assert isinstance(done.exception, ConfigError)
    assert done.stdout == ""


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_table_fits_its_terminal(width: int) -> None:
    checks = [
        Check(group="g", name=name, finding=check(Recorded())) for name, check in CHECKS.items()
    ]
    text = verb.render(checks, "table", width)
    assert max(len(line) for line in text.splitlines()) <= min(width, 110)


def test_a_long_fix_can_be_copied() -> None:
    words = [f"word{i}" for i in range(30)]
    printed = verb.continued(f"fix:  {' '.join(words)}", 50)
    assert all(line.endswith(" \\") for line in printed[:-1])
    joined = "\n".join(printed).removeprefix("fix:  ").replace("\\\n", " ")
    assert joined.split() == words


@pytest.mark.parametrize("fmt", ["csv", "md"])
def test_csv_and_markdown_have_a_line_for_each_check(fmt: str) -> None:
    text = verb.render(lines(gpu="ok", nsys="fixable"), fmt, 100).splitlines()
    assert len(text) == (3 if fmt == "csv" else 4)
    assert "do it" in text[-1]


def test_polars_is_not_needed() -> None:
    code = (
        "import sys; sys.modules['polars'] = sys.modules['numpy'] = None\n"
        "from perfkit.cli import doctor\n"
        "from perfkit.collect.doctor import Check\n"
        "from perfkit.collect.doctor_probe import ok\n"
        "for fmt in ('table', 'json', 'csv', 'md'):\n"
        "    print(doctor.render([Check(group='g', name='n', finding=ok('f'))], fmt, 80))\n"
        "print(sorted({'torch', 'rich.table', 'pydantic'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
