"""What dev-cluster.sh says when it cannot do what it is asked; no cluster is started."""

import os
import socket
import subprocess
from pathlib import Path

import pytest
from dev_cluster import SCRIPT, Done, outside_slurm, reason_to_skip

# Nothing is written before every setting has been checked.
NOWHERE = Path("/tmp/pk-slurm-no-cluster")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="dev-cluster.sh checks for root first")


def dev_cluster(*arguments: str, **settings: str) -> Done:
    return subprocess.run(
        [str(SCRIPT), *arguments],
        env={**outside_slurm(), **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_lists_the_commands_and_settings() -> None:
    done = dev_cluster("--help")
    assert done.returncode == 0
    for word in ("install", "up", "env", "status", "down", "PERFKIT_CLUSTER_DIR"):
        assert word in done.stdout


@pytest.mark.parametrize("arguments", [(), ("start",), ("up", "now")])
def test_a_wrong_command_line_exits_2(arguments: tuple[str, ...]) -> None:
    done = dev_cluster(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""


@pytest.mark.parametrize(("command", "code"), [("env", 1), ("status", 3)])
def test_without_a_cluster_it_says_how_to_start_one(
    command: str, code: int, tmp_path: Path
) -> None:
    done = dev_cluster(command, PERFKIT_CLUSTER_DIR=str(tmp_path))
    assert done.returncode == code
    assert f"Start one: {SCRIPT} up" in done.stderr


@needs_root
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DIR", "relative/folder", "use an absolute path"),
        ("DIR", "/tmp/" + 60 * "x", "too long for sockets"),
        ("NODES", "many", "is not a number"),
        ("PORT", "80", "use 1024 to 65000"),
        ("MEMORY", "some", "use auto, cgroup, poll or none"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, message: str) -> None:
    settings = {"PERFKIT_CLUSTER_DIR": str(NOWHERE), f"PERFKIT_CLUSTER_{name}": value}
    done = dev_cluster("up", **settings)
    assert done.returncode == 1
    assert message in done.stderr
    assert not NOWHERE.exists()


@needs_root
def test_up_without_slurm_says_how_to_install_it(tmp_path: Path) -> None:
    """On a PATH that has the shell's tools and no Slurm."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "env", "id", "awk", "dirname", "basename", "sed"):
        source = next(Path(p, name) for p in ("/usr/bin", "/bin") if Path(p, name).exists())
        (tools / name).symlink_to(source)
    script = tmp_path / "dev-cluster.sh"
    # The script adds the usual sbin folders by itself, where a real Slurm may stand.
    script.write_text(SCRIPT.read_text().replace(":/usr/local/sbin:/usr/sbin:/sbin", ""))
    done = subprocess.run(
        ["/bin/bash", str(script), "up"],
        env={"PATH": str(tools), "PERFKIT_CLUSTER_DIR": str(NOWHERE)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"munged is not installed. First: {script} install" in done.stderr


@needs_root
@pytest.mark.skipif(
    reason_to_skip() is not None, reason="looks at ports once it has found every program"
)
def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        settings = {"PERFKIT_CLUSTER_DIR": str(NOWHERE), "PERFKIT_CLUSTER_PORT": port}
        done = dev_cluster("up", **settings)
    assert done.returncode == 1
    assert f"port {port}, for slurmctld, is taken" in done.stderr
    assert not NOWHERE.exists()


@needs_root
def test_down_without_a_cluster_is_no_error(tmp_path: Path) -> None:
    done = dev_cluster("down", PERFKIT_CLUSTER_DIR=str(tmp_path))
    assert done.returncode == 0
    assert "there is no cluster" in done.stderr
