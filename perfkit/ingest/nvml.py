"""nodes/<host>/nvml.csv -> samples of every GPU of a node, and what each did in a window.

The file is what collectors/nvml.toml has nvidia-smi print twice a second: no header, no units.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from perfkit.errors import ConfigError
from perfkit.ingest.frames import finding

# The columns of --query-gpu, in order; utilization.memory is how busy the memory was, not how full.
COLUMNS = (
    *("timestamp", "index", "uuid", "utilization.gpu", "utilization.memory", "memory.used"),
    *("power.draw", "clocks.sm", "clocks.mem", "temperature.gpu"),
)

SAMPLES = pl.Schema(
    {
        "host": pl.String(),
        "gpu": pl.Int32(),  # nvidia-smi's index on the host
        "uuid": pl.String(),
        "time_local": pl.Datetime("ns"),  # the host's own time of day, as nvidia-smi prints it
        "unix_ns": pl.Int64(),  # UTC; null while the host's offset from UTC is not known
        "utilisation": pl.Float64(),  # 0..1, time in which any kernel ran: not how well it ran
        "memory_busy": pl.Float64(),  # 0..1, time in which memory was read or written
        "memory_used_bytes": pl.Int64(),  # of all processes on the GPU
        "power_w": pl.Float64(),  # of the board; on most GPUs a mean over the last second
        "sm_clock_hz": pl.Float64(),
        "memory_clock_hz": pl.Float64(),
        "temperature_c": pl.Float64(),
    }
)

GPU_SUMMARY = pl.Schema(
    {
        "host": pl.String(),
        "gpu": pl.Int32(),
        "samples": pl.Int32(),  # in the window, of any kind
        "covered_s": pl.Float64(),  # first to last power sample: energy is of this time only
        "longest_gap_s": pl.Float64(),  # between two power samples
        "mean_utilisation": pl.Float64(),  # 0..1
        "max_utilisation": pl.Float64(),
        "max_memory_used_bytes": pl.Int64(),
        "mean_power_w": pl.Float64(),  # energy / covered
        "max_power_w": pl.Float64(),
        "energy_j": pl.Float64(),  # trapezoids between power samples; null with fewer than two
    }
)

TIME_FORMAT = "%Y/%m/%d %H:%M:%S%.f"
MIB, MHZ, PERCENT = 2**20, 1e6, 0.01
NUMBERS = {
    "utilisation": pl.col("utilization.gpu").cast(pl.Float64, strict=False) * PERCENT,
    "memory_busy": pl.col("utilization.memory").cast(pl.Float64, strict=False) * PERCENT,
    "memory_used_bytes": pl.col("memory.used").cast(pl.Int64, strict=False) * MIB,
    "power_w": pl.col("power.draw").cast(pl.Float64, strict=False),
    "sm_clock_hz": pl.col("clocks.sm").cast(pl.Float64, strict=False) * MHZ,
    "memory_clock_hz": pl.col("clocks.mem").cast(pl.Float64, strict=False) * MHZ,
    "temperature_c": pl.col("temperature.gpu").cast(pl.Float64, strict=False),
}


def read_nvml(
    path: Path, host: str, utc_offset_s: int | None = None
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """One node's samples (SAMPLES) and what was wrong; ConfigError if it is no such file.

    nvidia-smi prints local time; `utc_offset_s` is the host's local time minus UTC.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    # A last line without its end was cut off, even if it has every cell: 1 may have been 1835.
    whole, _newline, cut = text.rpartition("\n")
    lines = [line for line in whole.splitlines() if line.strip()]
    cells = _cells(lines)
    samples = _samples(cells, host, utc_offset_s).drop_nulls(["time_local", "gpu"])
    if lines and samples.is_empty():
        raise ConfigError(
            f"{path} is no list of GPU samples: its first line is {lines[0][:80]!r}. "
            f"Expected nvidia-smi's --query-gpu={','.join(COLUMNS)} with csv,noheader,nounits.",
        )
    broken = len(lines) - samples.height + bool(cut.strip())
    return samples, _findings(samples, broken, host, path.name)


def _cells(lines: Sequence[str]) -> pl.DataFrame:
    """Texts by column, of the lines that have the right number of them."""
    parts = pl.Series("line", lines, dtype=pl.String).str.split(",")
    whole = parts.filter(parts.list.len() == len(COLUMNS)).to_frame()
    return whole.select(
        pl.col("line").list.get(at).str.strip_chars().alias(name) for at, name in enumerate(COLUMNS)
    )


def _samples(cells: pl.DataFrame, host: str, utc_offset_s: int | None) -> pl.DataFrame:
    """SAMPLES; what nvidia-smi could not read ([N/A], [Not Supported]) is null."""
    offset_ns = None if utc_offset_s is None else utc_offset_s * 1_000_000_000
    time = pl.col("timestamp").str.to_datetime(TIME_FORMAT, time_unit="ns", strict=False)
    return (
        cells.with_columns(time.alias("time_local"))
        .select(
            pl.lit(host, pl.String).alias("host"),
            pl.col("index").cast(pl.Int32, strict=False).alias("gpu"),
            "uuid",
            "time_local",
            (pl.col("time_local").cast(pl.Int64) - pl.lit(offset_ns, pl.Int64)).alias("unix_ns"),
            **NUMBERS,
        )
        .cast(SAMPLES)
    )


def _findings(samples: pl.DataFrame, broken: int, host: str, name: str) -> list[dict[str, Any]]:
    """What was wrong with the file, for the quality table."""
    source = f"nodes/{host}/{name}"
    nulls = {column: samples[column].null_count() for column in NUMBERS}
    never = [column for column, count in nulls.items() if count == samples.height]
    some = sum(count for column, count in nulls.items() if column not in never)
    local = samples["unix_ns"].null_count()
    said = (
        ("nvml-empty", int(samples.is_empty()), "no sample", "warning"),
        ("nvml-broken-lines", broken, f"{broken} cut or unreadable line(s) left out", "warning"),
        (
            "nvml-not-supported",
            len(never) if samples.height else 0,
            f"this GPU does not tell {', '.join(never)}",
            "info",
        ),
        ("nvml-gaps", some, f"{some} value(s) could not be read by nvidia-smi", "info"),
        ("nvml-local-times", local, "times are local, the host's offset from UTC unknown", "info"),
    )
    return [
        finding(code, f"{source}: {text}", source=source, count=count, severity=severity)
        for code, count, text, severity in said
        if count
    ]


def summarise_gpus(
    samples: pl.DataFrame, start_ns: int | None = None, end_ns: int | None = None
) -> pl.DataFrame:
    """What each GPU did from start_ns to end_ns in UTC (GPU_SUMMARY), or over all samples.

    One row for every GPU in `samples`; a GPU without a sample in the window has only nulls.
    Energy is summed over the samples inside the window and not stretched to its ends.
    """
    inside = samples
    if start_ns is not None:
        inside = inside.filter(pl.col("unix_ns") >= start_ns)
    if end_ns is not None:
        inside = inside.filter(pl.col("unix_ns") <= end_ns)
    keys = ["host", "gpu"]
    gpus = samples.select(keys).unique().sort(keys)
    told = inside.group_by(keys).agg(
        samples=pl.len(),
        mean_utilisation=pl.col("utilisation").mean(),
        max_utilisation=pl.col("utilisation").max(),
        max_memory_used_bytes=pl.col("memory_used_bytes").max(),
        max_power_w=pl.col("power_w").max(),
    )
    frame = gpus.join(told, on=keys, how="left").join(_power(inside, keys), on=keys, how="left")
    return (
        frame.with_columns(pl.col("samples").fill_null(0))
        .select(GPU_SUMMARY.names())
        .cast(GPU_SUMMARY)
    )


def _power(samples: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Energy between neighbouring power samples of each GPU."""
    seconds = (pl.col("time_local").diff().over(keys).dt.total_nanoseconds() / 1e9).alias("step_s")
    mean_w = ((pl.col("power_w") + pl.col("power_w").shift(1).over(keys)) / 2).alias("step_w")
    return (
        samples.drop_nulls("power_w")
        .sort(*keys, "time_local")
        .with_columns(seconds, mean_w)
        .drop_nulls("step_s")
        .group_by(keys)
        .agg(
            covered_s=pl.col("step_s").sum(),
            longest_gap_s=pl.col("step_s").max(),
            energy_j=(pl.col("step_s") * pl.col("step_w")).sum(),
        )
        .with_columns(
            mean_power_w=pl.when(pl.col("covered_s") > 0).then(
                pl.col("energy_j") / pl.col("covered_s")
            )
        )
    )
