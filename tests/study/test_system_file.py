"""System files: the shipped ones, their sources, and what is said of a wrong one."""

import tomllib
from pathlib import Path

import pytest
from builders import a_system

from perfkit.errors import ConfigError
from perfkit.paths import listing
from perfkit.predict.gpus import gpu_tables
from perfkit.study.systems import load_system, system_names, with_overrides
from perfkit.submit.trust import unverified_values

SHIPPED = {path.stem: path for path in listing("models", "systems/*.toml")}

WRONG = """
titel = "x"

[nodes]
gpus_per_node = -1
source = "a"
checked_on = "today"
unverified = ["gpu"]

[slurm]
source = "a"
checked_on = "2026-11-23"
options = ["hint"]
max_walltime = "1 day"
gpu_request = "gpu"
"""


def test_the_promised_systems_are_shipped() -> None:
    assert set(system_names()) >= {
        *("leonardo", "lumi-g", "marenostrum5-acc", "jupiter", "karolina-gpu", "meluxina-gpu"),
        *("generic", "dev-cluster"),
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_system_is_read_and_names_a_known_gpu(name: str) -> None:
    system = load_system(name)
    assert system.name == name
    assert system.gpu is None or system.gpu in gpu_tables()


@pytest.mark.parametrize("name", SHIPPED)
def test_every_table_says_its_source_and_the_day(name: str) -> None:
    content = tomllib.loads(SHIPPED[name].read_text())
    for table in (value for value in content.values() if isinstance(value, dict)):
        assert len(table["source"]) > 10
        assert table["checked_on"] >= "2026-11-23"


def test_cores_are_shared_by_the_gpus() -> None:
    assert [load_system(name).cpus_of_task for name in ("leonardo", "lumi-g", "jupiter")] == [
        8,
        7,
        72,
    ]


def test_a_node_without_gpus_has_a_rank_for_each_task_of_cores() -> None:
    system = load_system("dev-cluster")
    assert (system.device, system.ranks_per_node, system.cpus_of_task) == ("cpu", 4, 1)


def test_what_is_not_known_is_none() -> None:
    system = load_system("generic")
    assert (system.partition, system.gpus_per_node, system.billing) == (None, None, None)
    assert system.ranks_per_node is None


def test_every_mistake_of_a_file_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(WRONG)
    with pytest.raises(ConfigError) as found:
        load_system(str(tmp_path / "mine.toml"))
    assert str(found.value).splitlines()[1:] == [
        "  title: is missing.",
        "  [nodes] checked_on: must be a day such as 2026-11-23, found 'today'.",
        "  [nodes] gpus_per_node: must be greater than or equal to 0, found -1.",
        "  [slurm] gpu_request: must be 'gres' or 'gpus-per-node', found 'gpu'.",
        "  [slurm] max_walltime: must be a time such as 00:30:00 or 1-12:00:00, found '1 day'.",
        "  [slurm] options[0]: must be an option in full, such as --hint=nomultithread, "
        "found 'hint'.",
        "  titel: not a key here. Did you mean title?",
        "  [nodes] unverified: 'gpu' is not set in [nodes].",
    ]


def test_a_syntax_error_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('title = "x"\n[nodes\n')
    with pytest.raises(ConfigError, match=r"cannot read .*mine\.toml: .*line 2"):
        load_system(str(tmp_path / "mine.toml"))


def test_an_unknown_system_lists_near_ones() -> None:
    with pytest.raises(ConfigError, match="Did you mean leonardo"):
        load_system("leonard")


def test_a_folder_of_ones_own_goes_first(tmp_path: Path) -> None:
    (tmp_path / "systems").mkdir()
    text = SHIPPED["generic"].read_text().replace("a Slurm cluster", "our own")
    (tmp_path / "systems" / "leonardo.toml").write_text(text)
    assert load_system("leonardo", tmp_path).title == "our own"


def test_unverified_values_are_told_by_table_with_their_source() -> None:
    system = a_system(
        interface="ib0",
        unverified={
            "slurm.partition": "notes",
            "nodes.gpus_per_node": "a page",
            "container.gpu_flag": "a script",
            "billing.rule": "somebody",
        },
    )
    outside = [
        "[nodes] gpus_per_node = 4; source: a page",
        "[slurm] partition = gpu; source: notes",
    ]
    assert unverified_values(system, in_container=False) == outside
    inside = [*outside, "[container] gpu_flag = --nv; source: a script"]
    assert unverified_values(system, in_container=True) == inside


def test_what_the_user_says_needs_no_source() -> None:
    system = a_system(unverified={"slurm.partition": "notes", "slurm.qos": "notes"})
    ours = with_overrides(system, partition="debug", qos=None, gpus_per_node=None)
    assert (ours.partition, ours.gpus_per_node) == ("debug", 4)
    assert list(ours.unverified) == ["slurm.qos"]
