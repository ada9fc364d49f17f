"""One cluster of models/systems/*.toml. What is unknown is None, never a guess."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from perfkit.errors import ConfigError
from perfkit.paths import listing
from perfkit.study.toml_file import Table, must_match, place, read_toml, refuse, validate
from perfkit.study.walltime import WallTime, parse_walltime

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Day = Annotated[str, must_match(r"\d{4}-\d{2}-\d{2}", "a day such as 2026-11-23")]
Option = Annotated[str, must_match(r"--\S.*", "an option in full, such as --hint=nomultithread")]


class Sourced(Table):
    """Every table says where its values are from and when somebody looked there."""

    source: str
    checked_on: Day
    unverified: list[str] = Field(default_factory=list)


class NodesTable(Sourced):
    gpus_per_node: Count | None = None
    gpu: str | None = None
    cores_per_node: Positive | None = None
    architecture: Literal["x86_64", "aarch64"] | None = None
    internet: bool | None = None


class SlurmTable(Sourced):
    partition: str | None = None
    qos: str | None = None
    account_required: bool = False
    gpu_request: Literal["gres", "gpus-per-node"] = "gpus-per-node"
    cpus_per_task: Positive | None = None
    max_walltime: WallTime | None = None
    max_nodes: Positive | None = None
    options: list[Option] = Field(default_factory=list)
    srun: list[Option] = Field(default_factory=list)


class NetworkTable(Sourced):
    master_suffix: str = ""
    interface: str | None = None
    bytes_per_s_per_gpu: Annotated[float, Field(gt=0)] | None = None


class SoftwareTable(Sourced):
    modules: list[str] = Field(default_factory=list)
    environment: dict[str, str] = Field(default_factory=dict)


class ContainerTable(Sourced):
    runtime: Literal["apptainer", "singularity"] = "apptainer"
    gpu_flag: Literal["--nv", "--rocm"] | None = None
    binds: list[str] = Field(default_factory=list)
    modules: list[str] = Field(default_factory=list)


class BillingTable(Sourced):
    unit: str
    per_node_hour: Annotated[float, Field(gt=0)]
    whole_nodes: bool | None = None
    rule: str | None = None


class SystemFile(Table):
    """models/systems/NAME.toml."""

    title: str
    notes: list[str] = Field(default_factory=list)
    nodes: NodesTable
    slurm: SlurmTable
    network: NetworkTable | None = None
    software: SoftwareTable | None = None
    container: ContainerTable | None = None
    billing: BillingTable | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSite:
    """How a site runs containers."""

    runtime: str = "apptainer"
    gpu_flag: str | None = None
    binds: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Billing:
    """What a site charges for an hour of a whole node."""

    unit: str
    per_node_hour: float
    whole_nodes: bool | None = None
    """True: a part of a node costs as much as all of it. False: it costs its share."""
    rule: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A cluster, or the part of it with one kind of node."""

    name: str
    title: str
    gpus_per_node: int | None = None
    """as Slurm counts them; 0 on nodes without GPUs"""
    gpu: str | None = None
    """id in models/gpus.toml"""
    hardware: str | None = None
    """of the one machine that perfkit itself runs on: its processor and GPUs by name"""
    cores_per_node: int | None = None
    """that a job can have"""
    architecture: str | None = None
    internet: bool | None = None
    """whether compute nodes reach the internet"""
    partition: str | None = None
    qos: str | None = None
    account_required: bool = False
    gpu_request: str = "gpus-per-node"
    cpus_per_task: int | None = None
    max_walltime_s: int | None = None
    max_nodes: int | None = None
    options: tuple[str, ...] = ()
    """further options of sbatch"""
    srun: tuple[str, ...] = ()
    """further options of srun"""
    master_suffix: str = ""
    interface: str | None = None
    bytes_per_s_per_gpu: float | None = None
    """of the network, one direction, when all GPUs of a node send at once"""
    modules: tuple[str, ...] = ()
    environment: Mapping[str, str]
    container: ContainerSite
    billing: Billing | None = None
    notes: tuple[str, ...] = ()
    unverified: Mapping[str, str]
    """TABLE.KEY of each value that nobody checked at its source, and that source"""

    @property
    def device(self) -> str:
        return "cpu" if self.gpus_per_node == 0 else "cuda"

    @property
    def ranks_per_node(self) -> int | None:
        """One for each GPU; on nodes without GPUs one for each `cpus_per_task` cores."""
        if self.gpus_per_node:
            return self.gpus_per_node
        if self.gpus_per_node is None or self.cores_per_node is None:
            return None
        return max(1, self.cores_per_node // (self.cpus_per_task or 1))

    @property
    def cpus_of_task(self) -> int | None:
        """cpus_per_task, or an equal share of the node's cores for each of its GPUs."""
        if self.cpus_per_task or not self.gpus_per_node or not self.cores_per_node:
            return self.cpus_per_task
        return max(1, self.cores_per_node // self.gpus_per_node)


def load_system(name_or_path: str, models_dir: Path | None = None) -> System:
    """A system by name, or a TOML file of one's own; ConfigError lists every mistake in it."""
    path = _find(name_or_path, models_dir)
    content = read_toml(path)
    file, mistakes = validate(SystemFile, content)
    mistakes += _unknown_marks(content)
    if file is None or mistakes:
        raise refuse(path, mistakes)
    return _system(path.stem, file)


def system_names(models_dir: Path | None = None) -> list[str]:
    return sorted({path.stem for path in listing("models", "systems/*.toml", models_dir)})


def with_overrides(system: System, **given: Any) -> System:
    """The system with what the user said on the command line, which needs no source."""
    known = {key: value for key, value in given.items() if value is not None}
    unverified = {
        key: source
        for key, source in system.unverified.items()
        if key.rpartition(".")[2] not in known
    }
    return replace(system, **known, unverified=unverified)


def _find(name: str, models_dir: Path | None) -> Path:
    if name.endswith(".toml"):
        return Path(name).expanduser()
    found = next(iter(listing("models", f"systems/{name}.toml", models_dir)), None)
    if found is None:
        names = system_names(models_dir)
        near = difflib.get_close_matches(name.lower(), names, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(
            f"no system {name!r}.{hint} Systems: {', '.join(names)}. To add yours, copy "
            "models/systems/generic.toml and give --system YOURS.toml.",
        )
    return found


def _unknown_marks(content: Mapping[str, Any]) -> list[str]:
    """`unverified` must name keys that its table has, or a mark could outlive its value."""
    return [
        f"{place(name, 'unverified')}: {key!r} is not set in [{name}]."
        for name, table in content.items()
        if isinstance(table, dict) and isinstance(table.get("unverified"), list)
        for key in table["unverified"]
        if key not in table
    ]


def _system(name: str, file: SystemFile) -> System:
    nodes, slurm = file.nodes, file.slurm
    network, software, container = file.network, file.software, file.container
    return System(
        name=name,
        title=file.title,
        **_values(nodes),
        **{k: v for k, v in _values(slurm).items() if k != "max_walltime"},
        max_walltime_s=parse_walltime(slurm.max_walltime) if slurm.max_walltime else None,
        **(_values(network) if network else {}),
        modules=tuple(software.modules) if software else (),
        environment=dict(software.environment) if software else {},
        container=ContainerSite(**_values(container)) if container else ContainerSite(),
        billing=Billing(**_values(file.billing)) if file.billing else None,
        notes=tuple(file.notes),
        unverified=_unverified(file),
    )


def _values(table: Sourced) -> dict[str, Any]:
    """The table's own values, lists as tuples."""
    values = table.model_dump(exclude={"source", "checked_on", "unverified"})
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}


def _unverified(file: SystemFile) -> dict[str, str]:
    tables = {name: getattr(file, name) for name in SystemFile.model_fields}
    return {
        f"{name}.{key}": table.source
        for name, table in tables.items()
        if isinstance(table, Sourced)
        for key in table.unverified
    }
