"""Tables of what is asked for: T4 request, T5 partitions, T6 units, T8 jobs."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median

from perfkit.allocation.units import amount, conversions
from perfkit.documents.request import Computed
from perfkit.documents.request_lines import Line
from perfkit.documents.settings import Jobs
from perfkit.documents.tables import (
    NOT_GIVEN,
    Cell,
    DocTable,
    absent,
    left,
    number,
    right,
    without_empty_columns,
    word,
)
from perfkit.paths import listing
from perfkit.predict.gpus import Gpu, load_gpu
from perfkit.study.systems import System
from perfkit.study.toml_file import read_toml

FILL_REQUEST = "[[request.phases]] in proposal.toml; perfkit submit STUDY --system SYSTEM --dry-run"
NAME_SYSTEM = "perfkit proposal --system NAME"
PARTITION = {
    "partition": ("slurm.partition",),
    "GPUs of a node": ("nodes.gpus_per_node",),
    "memory of a GPU": ("nominal_memory_gb",),
    "link of the GPUs": ("link_bytes_per_s",),
    "longest job": ("slurm.max_walltime",),
    "most nodes of a job": ("slurm.max_nodes",),
    "billing": ("billing.rule", "billing.per_node_hour", "billing.whole_nodes"),
    "checked on": (),
}
"""rows of T5, and the keys of the system's and the GPU's files that each is made of"""
TABLES = ("nodes", "slurm", "billing")
"""of the system's file: where these are from is said below T5"""


def request_table(computed: Computed | None) -> DocTable:
    """T4: the printed lines, reserve and request add up exactly."""
    caption = "Resource request"
    if computed is None or not computed.lines:
        why = "no phase is given" if computed is None else "; ".join(computed.notes)
        return absent("T4", caption, why or "no phase is given", FILL_REQUEST, NOT_GIVEN)
    system = computed.system
    heads = (
        left("phase"),
        left("partition"),
        right("nodes per job"),
        right("GPUs of a node"),
        right("hours per run"),
        left("hours are", "computed"),
        right("runs"),
        right("node-hours", "computed"),
        right("GPU-hours", "computed"),
    )
    rows = [_line_cells(line, system) for line in computed.lines]
    share = f"{100 * computed.reserve_share:g} %"
    for name, hours in (
        ("sum", computed.subtotal),
        (f"reserve, {share}", computed.reserve),
        ("request", computed.total),
    ):
        blank = (Cell(text=""),) * 6
        rows.append((word(name), *blank, word(f"{hours:,}"), _gpu_hours(float(hours), system)))
    notes = [*(f"{note}." for note in computed.notes), _in_local_units(computed)]
    if any(line.part < 1 for line in computed.lines):
        notes.insert(0, "A job on a part of each node counts with that part.")
    return DocTable(
        id="T4",
        caption=f"{caption} on {system.title}",
        heads=heads,
        rows=tuple(rows),
        note=" ".join(note for note in notes if note),
        total=True,
    )


def _line_cells(line: Line, system: System) -> tuple[Cell, ...]:
    return (
        word(line.phase),
        word(system.partition),
        number(line.nodes),
        number(line.gpus_per_node),
        number(line.hours_per_run, *line.of_runs, query="run.json: ended_at - started_at"),
        word(f"{line.basis}, {line.source}" if line.source else line.basis),
        number(line.runs),
        word(f"{line.node_hours:,}"),
        _gpu_hours(float(line.node_hours), system),
    )


def _gpu_hours(node_hours: float, system: System) -> Cell:
    hours = amount(node_hours, system).gpu_hours
    return word(None if hours is None else f"{round(hours, 1):,}")


def _in_local_units(computed: Computed) -> str:
    units = computed.amount
    if units.local is None:
        return f"What {computed.system.name} bills in is not known here."
    return f"The request is {round(units.local, 1):,} {units.unit}."


def partitions_table(
    system: System | None, tables: Mapping[str, Mapping[str, object]], models_dir: Path | None
) -> DocTable:
    """T5: from the system's file and models/gpus.toml, with who says so and when it was checked."""
    caption = "Partition"
    if system is None:
        return absent("T5", caption, "no system is named", NAME_SYSTEM, NOT_GIVEN)
    gpu = load_gpu(system.gpu, models_dir) if system.gpu else None
    cells = zip(PARTITION, _partition(system, gpu, tables), strict=True)
    notes = [f"Source: {_sources(tables)}."]
    unverified = {*system.unverified, *(gpu.unverified if gpu else ())}
    doubted = [title for title, keys in PARTITION.items() if unverified & set(keys)]
    if doubted:
        notes.append(f"Not checked at the site itself: {', '.join(doubted)}.")
    return DocTable(
        id="T5",
        caption=caption,
        heads=(left(""), left(system.title)),
        rows=tuple((word(title), cell) for title, cell in cells),
        note=" ".join(notes),
    )


def _partition(
    system: System, gpu: Gpu | None, tables: Mapping[str, Mapping[str, object]]
) -> tuple[Cell, ...]:
    limit = system.max_walltime_s
    return (
        word(system.partition),
        word(f"{system.gpus_per_node} x {gpu.name}" if gpu else system.gpus_per_node),
        word(f"{gpu.nominal_memory_gb:g} GB" if gpu else None),
        word(f"{gpu.link}, {gpu.link_bytes_per_s / 1e9:g} GB/s" if gpu else None),
        word(f"{limit / 3600:g} h" if limit else None),
        number(system.max_nodes),
        word(system.billing.rule if system.billing else None),
        word(min((str(table["checked_on"]) for table in tables.values()), default=None)),
    )


def system_tables(name_or_path: str, models_dir: Path | None) -> dict[str, dict[str, object]]:
    """TABLES of the system's file."""
    own = name_or_path.endswith(".toml")
    shipped = listing("models", f"systems/{name_or_path}.toml", models_dir)
    content = read_toml(Path(name_or_path).expanduser() if own else next(iter(shipped)))
    return {name: table for name in TABLES if isinstance(table := content.get(name), dict)}


def _sources(tables: Mapping[str, Mapping[str, object]]) -> str:
    return "; ".join(dict.fromkeys(str(table["source"]) for table in tables.values()))


def units_table(system: System | None, request_node_hours: float | None) -> DocTable:
    """T6: one node-hour in every unit, and the request in it."""
    caption = "Units of compute time"
    if system is None:
        return absent("T6", caption, "no system is named", NAME_SYSTEM, NOT_GIVEN)
    heads = (
        left("unit"),
        right("of a node-hour"),
        left("from"),
        right("the request", "computed"),
    )
    rows = tuple(
        (
            word(unit),
            number(factor),
            word(why),
            Cell()
            if request_node_hours is None
            else word(f"{round(request_node_hours * factor, 1):,}"),
        )
        for unit, factor, why in conversions(system)
    )
    rule = system.billing.rule if system.billing else None
    note = f"Billing rule: {rule}." if rule else "The site's billing rule is not known here."
    return without_empty_columns(
        DocTable(id="T6", caption=caption, heads=heads, rows=rows, note=note)
    )


def jobs_table(computed: Computed | None, jobs: Jobs | None) -> DocTable:
    """T8: the profile of the request's jobs."""
    caption = "Job profile"
    if computed is None or not computed.lines:
        return absent("T8", caption, "no phase is given", FILL_REQUEST, NOT_GIVEN)
    lines = computed.lines
    hours = [line.hours_per_run for line in lines for _ in range(line.runs)]
    rows = (
        ("most nodes of a job", number(max(line.nodes for line in lines)), "computed from T4"),
        ("jobs in all", number(len(hours)), "computed from T4"),
        ("typical wall time of a job [h]", number(median(hours)), "computed from T4: median"),
        ("longest wall time of a job [h]", number(max(hours)), "computed from T4"),
        ("jobs at the same time", number(jobs.concurrent if jobs else None), "given"),
        ("memory of a node [GB]", number(jobs.memory_gb_per_node if jobs else None), "given"),
        ("checkpointing", word(jobs.checkpointing if jobs else None), "given"),
    )
    return DocTable(
        id="T8",
        caption=caption,
        heads=(left(""), left("value", "computed"), left("from")),
        rows=tuple((word(what), value, word(source)) for what, value, source in rows),
    )
