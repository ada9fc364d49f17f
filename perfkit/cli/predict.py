"""`perfkit predict`: predicted time and memory of layouts that need not exist yet."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, deliver, story
from perfkit.errors import ConfigError
from perfkit.files import check_free
from perfkit.predict.cards import load_spec
from perfkit.predict.gpus import Gpu, load_gpu
from perfkit.predict.grid import numbers, plans, predict_rows
from perfkit.predict.memory import GIB
from perfkit.predict.rates import MICROBENCHMARK, Rates, rates_from_calibration, rates_from_gpu
from perfkit.schema import read_json

if TYPE_CHECKING:
    from perfkit.report.tables import Column


def command(
    model: str = typer.Argument(help="A model card, a folder with config.json, or the file."),
    gpu: str | None = typer.Option(
        None, "--gpu", help="A GPU of gpus.toml: its memory, and its peak rates without a file."
    ),
    tp: str = typer.Option("1", "--tp", help="Tensor-parallel degrees: 1,2,4 or 1:8:1."),
    pp: str = typer.Option("1", "--pp", help="Pipeline stages, a list or range."),
    batch: str = typer.Option("1", "--batch", help="Sequences, a list or range: 1:256:8."),
    microbatches: str | None = typer.Option(
        None, "--microbatches", help="In flight, a list or range. [default: pp, or fewer]"
    ),
    prompt: str = typer.Option("2048", "--prompt", help="Tokens of each prompt."),
    new: str = typer.Option("128", "--new", help="New tokens per sequence."),
    dtype: str | None = typer.Option(
        None, "--dtype", help="bfloat16, float16, float32. Default: the calibration's or bfloat16."
    ),
    decode: str = typer.Option(
        "eager", "--decode", help="eager, graph (captured steps), or both: eager,graph."
    ),
    calibration: Path | None = typer.Option(
        None, "--calibration", help="calibration.json: measured rates instead of peak rates."
    ),
    models_dir: Path | None = typer.Option(
        None, "--models-dir", help="Your own models folder, searched first."
    ),
    out: Path | None = typer.Option(None, "-o", "--out", help="Write there, not to stdout."),
    force: bool = typer.Option(False, "--force", help="Replace the file given with -o."),
    format: Format = FORMAT_OPTION,
) -> None:
    """Predicted TTFT, TPOT, throughput and memory for every combination of the options."""
    check_free(out, force=force)
    spec = load_spec(model, models_dir)
    device = load_gpu(gpu, models_dir) if gpu else None
    rates = _rates(device, calibration, dtype, models_dir)
    axes: dict[str, list[Any]] = {
        "tp": numbers(tp, "--tp"),
        "pp": numbers(pp, "--pp"),
        "batch": numbers(batch, "--batch"),
        "prompt_tokens": numbers(prompt, "--prompt"),
        "new_tokens": numbers(new, "--new"),
        "dtype": [rates.dtype],
        "decode": [mode.strip() for mode in decode.split(",")],
    }
    if microbatches is not None:
        axes["microbatches"] = numbers(microbatches, "--microbatches")
    capacity = device.memory_bytes if device else None
    rows = predict_rows(spec, rates, plans(axes), capacity_bytes=capacity)
    _tell(rates, device, rows)
    deliver(_render(rows, rates, format), out, force=force)
    closing(out, f"perfkit memory {model} --tp {axes['tp'][0]} --pp {axes['pp'][0]}")


def _rates(
    gpu: Gpu | None, calibration: Path | None, dtype: str | None, models_dir: Path | None
) -> Rates:
    if calibration is not None:
        return rates_from_calibration(read_json(calibration), dtype)
    if gpu is None:
        raise ConfigError("no rates. Give --gpu ID for peak rates or --calibration FILE.")
    return rates_from_gpu(gpu, dtype or "bfloat16", models_dir)


def _tell(rates: Rates, gpu: Gpu | None, rows: list[dict[str, Any]]) -> None:
    if gpu and rates.link_bytes_per_s is not None:
        if rates.summary == MICROBENCHMARK:
            file = f"models/calibrations/{gpu.id}-{rates.dtype}.toml"
            story(f"rates: curves measured on {gpu.id} ({file}).")
        else:
            story(f"rates: data sheet of {gpu.id} ({gpu.source}), times what H100 and H200 reach.")
            story(f"note: nobody measured {gpu.id} yet: `perfkit calibrate` on one does.")
        story("note: every pair of ranks has the GPU's own link; no slower network is modelled.")
        if gpu.unverified:
            story(f"note: {gpu.id}: unverified: {', '.join(gpu.unverified)}")
    else:
        story(f"rates: measured on {rates.name} ({rates.summary}).")
    for note in dict.fromkeys(row["note"] for row in rows if row["note"]):
        story(f"note: {note}")
    for mark, reason in enumerate(_reasons(rows), start=1):
        story(f"refused [{mark}]: {reason}")


def _reasons(rows: list[dict[str, Any]]) -> list[str]:
    """Every reason of refusal once, in order."""
    return list(dict.fromkeys(row["refused"] for row in rows if row["refused"]))


def _render(rows: list[dict[str, Any]], rates: Rates, fmt: Format) -> str:
    import polars as pl

    from perfkit.report.tables import render

    frame = pl.DataFrame(rows, infer_schema_length=None)
    if fmt in (Format.table, Format.md):
        marks = {reason: f"[{mark}]" for mark, reason in enumerate(_reasons(rows), start=1)}
        frame = frame.with_columns(refused=pl.Series([marks.get(row["refused"]) for row in rows]))
    extra = {"kind": "predicted", "provenance": dict(rates.provenance)}
    title = f"Predicted, {rates.name}, {rates.dtype}, rates: {rates.summary}"
    return render(frame, _columns(rows), fmt.value, title=title, extra=extra)


def _columns(rows: list[dict[str, Any]]) -> "list[Column]":
    """Inputs that vary or matter, results, memory; `refused` only where there is one."""
    from perfkit.report.tables import Column

    names = ("tp", "pp", "batch", "microbatches", "prompt_tokens", "new_tokens")
    columns = [Column(name=n, title=n.split("_")[0], kind="integer") for n in names]
    if len({row["decode"] for row in rows}) > 1:
        columns.append(Column(name="decode", title="decode", kind="text"))
    columns += [
        Column(name="ttft_s", title="TTFT ms", scale=1e3),
        Column(name="tpot_s", title="TPOT ms", scale=1e3),
        Column(name="tpot_p05_s", title="p05", scale=1e3),
        Column(name="tpot_p95_s", title="p95", scale=1e3),
        Column(name="tokens_per_s", title="tokens/s"),
        Column(name="compute_share", title="compute", kind="percent"),
        Column(name="comm_share", title="comm", kind="percent"),
        Column(name="host_share", title="host", kind="percent"),
        Column(name="bubble", title="bubble", kind="percent"),
        Column(name="bottleneck", title="bottleneck", kind="text"),
        Column(name="total_bytes", title="GiB/rank", scale=1 / GIB),
        Column(name="fits", title="fits", kind="text"),
    ]
    if any(row["refused"] for row in rows):
        columns.append(Column(name="refused", title="refused", kind="text"))
    return columns
