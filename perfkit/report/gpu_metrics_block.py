"""The table of the hardware counters that nsys sampled, as people read it."""

import polars as pl

from perfkit.ingest.collected import Collected
from perfkit.report.collected_blocks import Block
from perfkit.report.tables import Column

# Means of perfkit.ingest.frames.GPU_METRICS, and median and largest of the whole capture.
COLUMNS = (
    Column(name="rank", title="rank", kind="integer"),
    Column(name="device", title="device", kind="text"),
    Column(name="named", title="GPU metric", kind="text"),
    Column(name="mean", title="mean"),
    Column(name="p50", title="p50"),
    Column(name="max", title="max"),
    Column(name="kernels", title="mean, kernels ran"),
    Column(name="no kernels", title="mean, none ran"),
    Column(name="samples", title="samples", kind="integer"),
)
NOTES = [
    "from the first captured kernel to the last, % of the GPU's peak, whoever used the GPU",
    "kernels ran: at least 95 % of a sample's time; none ran: not at all; the rest is in neither",
]


def gpu_metrics(collected: Collected) -> Block:
    """One row a metric; a dash where no sample was long enough with, or without, a kernel."""
    table = collected.gpu_metrics.with_columns(named=pl.format("{} [{}]", "metric", "unit"))
    keys = ["rank", "device", "named"]
    frame = table.filter(pl.col("during") == "capture")
    for during in ("kernels", "no kernels"):
        means = table.filter(pl.col("during") == during).select(*keys, pl.col("mean").alias(during))
        frame = frame.join(means, on=keys, how="left", maintain_order="left")
    return Block(
        name="gpu_metrics",
        title="GPU metrics",
        source="hardware counters, sampled by Nsight Systems",
        frame=frame,
        columns=COLUMNS,
        notes=NOTES,
    )
