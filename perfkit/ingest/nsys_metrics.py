"""The hardware counters of each GPU that nsys sampled (--gpu-metrics-devices), summed up.

Read only where the table is there, and part by part: at 10 kHz it has 220,000 rows for each second
and GPU. What is kept of a part is how often each value was seen, of which mean, median and largest
are exact.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import polars as pl

from perfkit.ingest.frames import GPU_METRICS, finding
from perfkit.ingest.gpu_samples import (
    COUNTS,
    SAMPLES,
    VALUES,
    Kernels,
    counted,
    stretches,
    summed_up,
)
from perfkit.ingest.nsys_facts import gpu_numbers
from perfkit.ingest.nsys_gpu import is_kernel
from perfkit.ingest.nsys_source import METRIC_NAMES, METRICS, Columns, Source, text_of

NAMED = pl.Schema(
    {
        "typeId": pl.Int64(),
        "metricId": pl.Int64(),
        "gpu": pl.Int64(),
        "metric": pl.String(),
        "unit": pl.String(),
    }
)
COLUMNS: Columns = {n: pl.Int64() for n in ("timestamp", "typeId", "metricId", "value")}

# What matters for inference; which of them a GPU has, and by which number, differs by GPU and nsys.
WANTED = (
    r"^(GPC Clock Frequency|SMs? Active|SM Issue|Tensor Active.*|DRAM (Read|Write) Bandwidth|"
    r"PCIe (RX|TX) (Throughput|Bandwidth)|NVLink (RX|TX) .*)$"
)
# The same metric also comes as a count (Avg) and a mean by cycle, of no use by themselves.
UNITS = {"Throughput %": "%", "%": "%", "MHz": "MHz"}
# A clock called MHz is in Hz (2025.3): no GPU has as many MHz.
HZ_FROM = 1e6
# The lowest byte of a type is the number of the GPU, as TARGET_INFO_GPU counts them.
GPU_BITS = 0xFF
MANY_COUNTS = 100_000

Findings = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Sampled:
    """What was sampled, and which GPU each device of each process is."""

    counts: pl.DataFrame
    gpus: Mapping[tuple[int, int], int]

    def table(self, rank: int, process: int, names: Mapping[int, str]) -> pl.DataFrame:
        """GPU_METRICS of one process, whose device numbers are called `names`."""
        parts = [pl.DataFrame(schema=GPU_METRICS)]
        for device, name in names.items():
            if (gpu := self.gpus.get((process, device))) is not None:
                parts.append(summed_up(self.counts.filter(pl.col("gpu") == gpu), rank, name))
        return pl.concat(parts)


class Total:
    """COUNTS of every part of the table, summed up before they take much room."""

    def __init__(
        self, named: pl.DataFrame, known: Sequence[int], kernels: Mapping[int, Kernels]
    ) -> None:
        self._named, self._known, self._kernels = named, known, kernels
        self._parts = [pl.DataFrame(schema=COUNTS)]
        self._lock = Lock()
        self.unnamed = 0
        """samples whose number has no name"""

    def add(self, part: pl.DataFrame) -> None:
        counts = counted(samples_of(part, self._named), self._kernels)
        unnamed = part.height - int(part["metricId"].is_in(self._known).sum())
        with self._lock:
            self.unnamed += unnamed
            self._parts.append(counts)
            if sum(one.height for one in self._parts[1:]) > MANY_COUNTS:
                self._parts = [self.counts()]

    def counts(self) -> pl.DataFrame:
        together = pl.concat(self._parts).group_by(VALUES).agg(pl.col("count").sum())
        return together.select(COUNTS.names())


NOTHING = Sampled(pl.DataFrame(schema=COUNTS), {})


def read_metrics(source: Source, rows: Mapping[int, pl.DataFrame]) -> tuple[Sampled, Findings]:
    """The samples of every GPU on which a kernel ran; `rows` are nsys_gpu.ROWS by process."""
    if not source.columns(METRICS):
        return NOTHING, []
    named, known = metric_names(source)
    gpus = _gpus(source, rows, named["gpu"].unique().to_list())
    kernels = _kernels(rows, gpus)
    total = source.folded(METRICS, COLUMNS, lambda: Total(named, known, kernels))
    counts = total.counts()
    return Sampled(counts, gpus), _about(source, named, kernels, counts, total.unnamed)


def metric_names(source: Source) -> tuple[pl.DataFrame, list[int]]:
    """The metrics that are kept (NAMED), and the numbers of all that have a name."""
    found = source.values(METRIC_NAMES, ("typeId", "metricId", "metricName"), "metricName")
    rows = []
    for kind, number, text in found:
        metric, _bracket, unit = str(text_of(text)).rstrip("]").partition(" [")
        rows.append((kind, number, int(kind) & GPU_BITS, metric, UNITS.get(unit)))
    named = pl.DataFrame(rows, schema=NAMED, orient="row")
    kept = named.filter(pl.col("metric").str.contains(WANTED), pl.col("unit").is_not_null())
    return kept.unique(["typeId", "metricId"], keep="first"), [int(row[1]) for row in found]


def samples_of(part: pl.DataFrame, named: pl.DataFrame) -> pl.DataFrame:
    """SAMPLES of one part of the table; metrics that are not kept are left out."""
    rows = part.drop_nulls().join(named, on=["typeId", "metricId"])
    in_hz = (pl.col("unit") == "MHz") & (pl.col("value") >= HZ_FROM)
    # Whole MHz: there are few different values to be counted.
    value = pl.when(in_hz).then((pl.col("value") / 1e6).round()).otherwise(pl.col("value"))
    return rows.select("gpu", "metric", "unit", time_ns="timestamp", value=value).select(
        pl.col(name).cast(dtype) for name, dtype in SAMPLES.items()
    )


def _gpus(
    source: Source, rows: Mapping[int, pl.DataFrame], sampled: list[int]
) -> dict[tuple[int, int], int]:
    """The GPU of each (process, device); without a word of it, only where there is but one."""
    used = [(p, int(d)) for p, frame in rows.items() for d in frame["device"].unique().sort()]
    numbers = {process: gpu_numbers(source, process) for process in rows}
    found = {(p, d): numbers[p][d] for p, d in used if d in numbers[p]}
    return found or ({used[0]: sampled[0]} if len(used) == len(sampled) == 1 else {})


def _kernels(
    rows: Mapping[int, pl.DataFrame], gpus: Mapping[tuple[int, int], int]
) -> dict[int, Kernels]:
    """When kernels of any process ran on each GPU; one without kernels is not there."""
    parts: dict[int, list[pl.DataFrame]] = {}
    for (process, device), gpu in gpus.items():
        mine = rows[process].filter(pl.col("device") == device, is_kernel())
        parts.setdefault(gpu, []).append(mine.select("start", "end"))
    together = {gpu: pl.concat(mine).sort("start") for gpu, mine in parts.items()}
    return {gpu: stretches(mine) for gpu, mine in together.items() if mine.height}


def _about(
    source: Source,
    named: pl.DataFrame,
    kernels: Collection[int],
    counts: pl.DataFrame,
    unnamed: int,
) -> Findings:
    """Samples that say nothing, and why."""
    name, found = source.path.name, []
    if unnamed:
        text = f"{name}: {unnamed} samples of GPU metrics that it does not name are left out"
        found.append(finding("metrics-unnamed", text, count=unnamed, severity="info"))
    idle = sorted(set(named["gpu"]) - set(kernels))
    if idle:
        text = (
            f"{name}: GPU metrics were sampled on GPU {', '.join(map(str, idle))}, where no kernel "
            "of this file is known to have run: they are left out"
        )
        found.append(finding("metrics-of-others", text, count=len(idle), severity="info"))
    short = sorted(set(named["gpu"]) - set(idle) - set(counts["gpu"]))
    if short:
        text = (
            f"{name}: no sample of GPU metrics lies between the first and the last kernel of GPU "
            f"{', '.join(map(str, short))}: capture for longer, or sample more often"
        )
        found.append(finding("metrics-too-few", text, count=len(short)))
    return found
