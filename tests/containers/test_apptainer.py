"""The shipped definition, built by the real Apptainer, and its image under a real Slurm.

Both live in a Debian sid tree (containers/sid.sh), where the packages are; a stage of its own, for
it takes minutes: PERFKIT_APPTAINER=1 pytest tests/containers. The base is a Debian 12 with the
torch of this environment, instead of NVIDIA's image.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from perfkit.engine.models import staged_folder
from perfkit.schema import read_json

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("PERFKIT_APPTAINER"),
        reason="a stage of its own: PERFKIT_APPTAINER=1, after containers/sid.sh make",
    ),
]

CHECKOUT = Path(__file__).parents[2]
SID = CHECKOUT / "containers" / "sid.sh"
MODEL = "smollm2-135m-instruct"
WORK = ("--batch", "2", "--prompt-tokens", "32", "--new-tokens", "8", "--repeats", "1")
# What stands in NVIDIA's image beside torch; the definition itself has to install the rest.
OF_THE_BASE = (
    *("torch", "torchgen", "functorch", "numpy", "sympy", "mpmath", "networkx", "jinja2"),
    *("markupsafe", "fsspec", "filelock", "typing_extensions", "setuptools"),
)
# A folder that tests/nsys/unpack.sh made.
NSYS = os.environ.get("PERFKIT_NSYS", "")
# Debian's certificates may not hold those of a proxy that this machine uses.
CERTIFICATES = "/etc/ssl/certs"


@dataclass(frozen=True, slots=True)
class Stage:
    """The sid tree with a folder that it shares with this machine, and the image in it."""

    shared: Path

    @property
    def image(self) -> Path:
        return self.shared / "perfkit.sif"

    def run(self, *command: str, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
        """A command in the tree, with the checkout, the model and the shared folder."""
        model = staged_folder(MODEL)
        seen = [CHECKOUT, self.shared, model, Path("/etc/resolv.conf"), Path(CERTIFICATES)]
        if NSYS:
            seen.append(Path(NSYS))
        return subprocess.run(
            [str(SID), "run", *command],
            env={
                **os.environ,
                "PERFKIT_SID_BIND": ":".join(str(path) for path in seen if path),
                # A root without every capability, as in a container, cannot ask for them.
                "APPTAINER_NO_PRIVS": "1",
            },
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = subprocess.run([str(SID), "make"], capture_output=True, text=True, check=False)
    if made.returncode == 75:
        pytest.skip(made.stderr.strip().splitlines()[-1])
    assert made.returncode == 0, made.stderr
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the test base is Debian 12 with Python 3.11, which this environment is not")
    shared = tmp_path_factory.mktemp("apptainer")
    yield Stage(shared)
    shutil.rmtree(shared, ignore_errors=True)


@pytest.fixture(scope="module")
def built(stage: Stage) -> subprocess.CompletedProcess[str]:
    """The output of the build, its %test included."""
    base = stage.shared / "base"
    include = "--include=python3,python3-pip,ca-certificates,libgomp1"
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", include, "bookworm", str(base)],
        capture_output=True,
        timeout=300,
        check=True,
    )
    packages = base / "usr" / "local" / "lib" / "python3.11" / "dist-packages"
    for path in torch_of_this_environment():
        if path.is_dir():
            shutil.copytree(path, packages / path.name)
        else:
            shutil.copy2(path, packages / path.name)
    like_nvidias(base)
    # Device nodes cannot be packed as fakeroot.
    shutil.rmtree(base / "dev")
    (base / "dev").mkdir()
    temporary = f"APPTAINER_TMPDIR={stage.shared}"
    cache = f"APPTAINER_CACHEDIR={stage.shared}/cache"
    done = stage.run(
        *("env", "-C", str(CHECKOUT), temporary, cache, "apptainer", "build", "--fakeroot"),
        *("--bind", f"{CERTIFICATES}:{CERTIFICATES}:ro"),
        *("--mksquashfs-args", "-comp zstd -Xcompression-level 1"),
        *("--build-arg", "BOOTSTRAP=localimage", "--build-arg", f"BASE={base}"),
        *(str(stage.image), "containers/perfkit.def"),
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def like_nvidias(base: Path) -> None:
    """What NVIDIA's images do to pip: a list of pins, and a variable that forces it on every pip.

    With a packaging as old as this one no wheel of perfkit can be built.
    """
    pins = base / "etc" / "pip" / "constraint.txt"
    pins.parent.mkdir()
    pins.write_text("packaging==23.2\n")
    variables = base / ".singularity.d" / "env" / "10-docker2singularity.sh"
    variables.parent.mkdir(parents=True)
    variables.write_text("#!/bin/sh\nexport PIP_CONSTRAINT=/etc/pip/constraint.txt\n")
    variables.chmod(0o755)


def torch_of_this_environment() -> list[Path]:
    """Folders and files of torch and what it needs, where this Python found them."""
    import torch

    packages = Path(torch.__file__).parents[1]
    names = [name for package in OF_THE_BASE for name in (package, f"{package}-*", f"{package}.py")]
    found = [path for name in names for path in sorted(packages.glob(name))]
    return [*found, *packages.glob("numpy.libs"), *packages.glob("MarkupSafe-*")]


def test_the_image_keeps_the_torch_of_its_base(
    built: subprocess.CompletedProcess[str], stage: Stage
) -> None:
    import torch

    done = stage.run("apptainer", "exec", str(stage.image), "cat", "/opt/perfkit/versions.txt")
    lines = done.stdout.splitlines()
    assert lines[0] == f"torch {torch.__version__}, kept from the base"
    assert any(line.startswith("deepspeed==") for line in lines)
    assert lines[-1].startswith("nsys none: the base has no Nsight Systems")


def test_the_bases_pins_hold_but_not_for_what_builds_the_wheel(
    built: subprocess.CompletedProcess[str], stage: Stage
) -> None:
    code = "import packaging; print(packaging.__version__)"
    inside = ("apptainer", "exec", str(stage.image), "python3", "-c", code)
    done = stage.run(*inside)
    assert done.stdout == "23.2\n", done.stderr


def test_the_images_own_test_passes_without_a_gpu(
    built: subprocess.CompletedProcess[str],
) -> None:
    assert "Running testscript" in built.stdout + built.stderr
    assert "perfkit 0." in built.stdout


def test_a_gpu_that_is_not_visible_is_told_before_anything_is_loaded(
    built: subprocess.CompletedProcess[str], stage: Stage
) -> None:
    run = ("perfkit", "run", "llama-3.2-1b", "--load", "dummy", "--device", "cuda")
    done = stage.run("apptainer", "exec", str(stage.image), *run)
    assert done.returncode == 2, done.stderr
    assert "no GPU is visible here; nothing was loaded. start perfkit.sif with --nv" in done.stderr


FIVE_RANGES = """import nvtx
for step in range(5):
    with nvtx.annotate(f"step {step}"):
        pass
"""
RECORD = "profile --trace=nvtx --sample=none --cpuctxsw=none --export=sqlite --force-overwrite=true"


@pytest.fixture(scope="module")
def marked(stage: Stage) -> Path:
    """A folder with a program of five ranges and an nvtx that nsys 2022.4 understands."""
    if not NSYS:
        pytest.skip("PERFKIT_NSYS names no Nsight Systems: tests/nsys/unpack.sh FOLDER")
    folder = stage.shared / "marked"
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder))
    subprocess.run([sys.executable, *install, "nvtx==0.2.10"], timeout=120, check=True)
    (folder / "program.py").write_text(FIVE_RANGES)
    return folder


def recorded_ranges(stage: Stage, marked: Path, form: str) -> int | None:
    """Ranges in the report of a command; None if its recorder never reached the program."""
    words = {
        "EXEC": f"apptainer exec --bind {marked} --env PYTHONPATH={marked}",
        # With a /tmp and a home folder of its own: those of the machine may hold nsys.
        "ALONE": "--contain",
        "NSYS": f"{NSYS}/bin/nsys {RECORD} -o {marked}/report",
        "BIND": f"--bind {NSYS}",
        "IMAGE": str(stage.image),
        "PROGRAM": f"python3 {marked}/program.py",
    }
    line = " ".join(words[word] for word in form.split())
    done = stage.run(*line.split())
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(f"file:{marked}/report.sqlite?mode=ro", uri=True) as tables:
        if not tables.execute("SELECT 1 FROM sqlite_master WHERE name='NVTX_EVENTS'").fetchone():
            return None
        ranges = "SELECT count(*) FROM NVTX_EVENTS WHERE eventType = 59"  # pushed and popped
        return int(tables.execute(ranges).fetchone()[0])


def test_nsys_records_around_a_container_that_has_its_folder_bound(
    built: subprocess.CompletedProcess[str], stage: Stage, marked: Path
) -> None:
    assert recorded_ranges(stage, marked, "NSYS EXEC BIND IMAGE PROGRAM") == 5


def test_nsys_around_a_container_without_its_folder_records_nothing_and_returns_0(
    built: subprocess.CompletedProcess[str], stage: Stage, marked: Path
) -> None:
    assert recorded_ranges(stage, marked, "NSYS EXEC ALONE IMAGE PROGRAM") is None


def test_nsys_records_inside_a_container(
    built: subprocess.CompletedProcess[str], stage: Stage, marked: Path
) -> None:
    assert recorded_ranges(stage, marked, "EXEC ALONE BIND IMAGE NSYS PROGRAM") == 5


UNDER_SRUN = """set -eu
export PERFKIT_CLUSTER_DIR=/var/lib/perfkit-slurm PERFKIT_CLUSTER_MEMORY=none
export PERFKIT_CLUSTER_PORT={port}
script={checkout}/slurm/dev-cluster.sh
"$script" up >&2
trap '"$script" down >&2' EXIT
eval "$("$script" env)"
srun --version >&2
cd {shared}
srun --nodelist=node0,node1 --ntasks=4 --ntasks-per-node=2 \\
  apptainer exec --nv --bind {shared} --bind {model} {image} \\
  python3 -m perfkit run {model} --tp 2 --pp 2 --device cpu {work} \\
  --collect kineto --out {shared}/run
"""


@pytest.fixture(scope="module")
def under_srun(
    built: subprocess.CompletedProcess[str], stage: Stage
) -> subprocess.CompletedProcess[str]:
    from dev_cluster import free_ports

    model = staged_folder(MODEL)
    if model is None:
        pytest.skip(f"the demo model is not staged: perfkit fetch {MODEL}")
    script = UNDER_SRUN.format(
        port=free_ports(),
        checkout=CHECKOUT,
        shared=stage.shared,
        image=stage.image,
        model=model,
        work=" ".join(WORK),
    )
    done = stage.run("bash", "-c", script)
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def token_ids(folder: Path) -> list[list[int]]:
    lines = (folder / "outputs.jsonl").read_text().splitlines()
    return [json.loads(line)["token_ids"] for line in lines]


def test_the_demo_runs_in_the_image_on_two_nodes(
    under_srun: subprocess.CompletedProcess[str], stage: Stage
) -> None:
    record = read_json(stage.shared / "run" / "run.json")
    assert record["state"] == "finished"
    assert record["container"] == "perfkit.sif"
    assert [place["host"] for place in record["layout"]] == ["node0", "node0", "node1", "node1"]
    assert record["collectors"]["kineto"]["ranks"] == [0, 1, 2, 3]


def test_its_tokens_are_those_of_one_rank_outside(
    under_srun: subprocess.CompletedProcess[str], stage: Stage
) -> None:
    alone = stage.shared / "alone"
    subprocess.run(
        [sys.executable, "-m", "perfkit", "run", MODEL, *WORK, "--device", "cpu"]
        + ["--collect", "none", "--out", str(alone)],
        capture_output=True,
        timeout=300,
        check=True,
    )
    tokens = token_ids(stage.shared / "run")
    assert [len(ids) for ids in tokens] == [8, 8]
    assert tokens == token_ids(alone)
