"""`perfkit predict`: predicted time and memory of layouts that need not exist yet."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, deliver, story
from perfkit.cli.predict_place import check_search, find_place, find_shapes
from perfkit.errors import ConfigError
from perfkit.files import check_free
from perfkit.predict.best import BATCHES, best, seconds
from perfkit.predict.cards import load_spec
from perfkit.predict.changes import changed
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
    tp: str | None = typer.Option(
        None, "--tp", help="Tensor-parallel degrees: 1,2,4 or 1:8:1. [default: 1]"
    ),
    pp: str | None = typer.Option(None, "--pp", help="Stages, a list or range. [default: 1]"),
    batch: str | None = typer.Option(
        None, "--batch", help="Sequences, a list or range: 1:256:8. [default: 1]"
    ),
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
    system: str | None = typer.Option(
        None, "--system", help="A cluster of models/systems: its GPU, nodes and network."
    ),
    nodes: str | None = typer.Option(
        None,
        "--nodes",
        help="Whole nodes, a list or range; pp follows. [default tp: a node's GPUs]",
    ),
    gpus_per_node: int | None = typer.Option(
        None, "--gpus-per-node", min=1, help="With --network, where no --system is given."
    ),
    network: float | None = typer.Option(
        None, "--network", min=0.01, help="GB/s of the network for each GPU, one direction."
    ),
    changes: list[str] = typer.Option(
        [], "--set", help="What if: flops=2x, memory=2x, nvlink=2x, network=0.5x, launch_us=0, ..."
    ),
    goal: str | None = typer.Option(
        None, "--best", help="Search layouts of --gpus: throughput, tpot or ttft first."
    ),
    gpus: int | None = typer.Option(None, "--gpus", min=1, help="With --best: at most so many."),
    max_tpot: str | None = typer.Option(None, "--max-tpot", help="With --best: 50ms."),
    max_ttft: str | None = typer.Option(None, "--max-ttft", help="With --best: 2s."),
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
    place = find_place(system, gpus_per_node, network, models_dir)
    gpu = gpu or place.gpu
    device = load_gpu(gpu, models_dir) if gpu else None
    rates = _rates(device, calibration, dtype, models_dir)
    rates = changed(replace(rates, network=place.network), changes)
    if goal is not None:
        check_search(goal, gpus)
    axes: dict[str, list[Any]] = {
        "batch": numbers(batch, "--batch") if batch else list(BATCHES) if goal else [1],
        "prompt_tokens": numbers(prompt, "--prompt"),
        "new_tokens": numbers(new, "--new"),
        "dtype": [rates.dtype],
        "decode": [mode.strip() for mode in decode.split(",")],
    }
    if microbatches is not None:
        axes["microbatches"] = numbers(microbatches, "--microbatches")
    capacity = device.memory_bytes if device else None
    shapes = find_shapes(spec, tp, pp, nodes, place, gpus if goal else None)
    rows = [
        row
        for shape in shapes
        for row in predict_rows(
            spec, rates, plans({**shape, **axes}), capacity_bytes=capacity, network=place.network
        )
    ]
    if goal is not None:
        limits = seconds(max_tpot, "--max-tpot"), seconds(max_ttft, "--max-ttft")
        rows = best(rows, goal, *limits)
    _tell(rates, device, rows)
    deliver(_render(rows, rates, format), out, force=force)
    closing(out, f"perfkit memory {model} --tp {rows[0]['tp']} --pp {rows[0]['pp']}")


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
        if rates.network is None:
            story("note: every pair of ranks has the GPU's own link. Over nodes, give --system, or")
            story("      --gpus-per-node and --network.")
        else:
            story(f"note: between nodes {rates.network.bytes_per_s / 1e9:g} GB/s a GPU and")
            story(f"      {1e6 * rates.network.latency_s:g} us, assumed: no such run was measured.")
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
        Column(name="ttft_ms", title="TTFT ms"),
        Column(name="tpot_ms", title="TPOT ms"),
        Column(name="tpot_p05_ms", title="p05"),
        Column(name="tpot_p95_ms", title="p95"),
        Column(name="tokens_per_s", title="tokens/s"),
        Column(name="compute_share", title="compute", kind="percent"),
        Column(name="comm_share", title="comm", kind="percent"),
        Column(name="wait_share", title="wait", kind="percent"),
        Column(name="host_share", title="host", kind="percent"),
        Column(name="bubble", title="bubble", kind="percent"),
        Column(name="bottleneck", title="bottleneck", kind="text"),
        Column(name="total_bytes", title="GiB/rank", scale=1 / GIB),
        Column(name="fits", title="fits", kind="text"),
    ]
    if rows[0]["nodes"] is not None:
        columns[2:2] = [Column(name="nodes", title="nodes", kind="integer")]
        columns.append(Column(name="node_hours_per_mtok", title="node-h/Mtok"))
    if any(row["refused"] for row in rows):
        columns.append(Column(name="refused", title="refused", kind="text"))
    return columns
