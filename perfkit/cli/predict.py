"""`perfkit predict`: predicted time and memory of layouts that need not exist yet."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, deliver, story
from perfkit.files import check_free


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
    out: Path | None = typer.Option(
        None, "-o", "--out", help="Write there, not to stdout; .parquet too."
    ),
    force: bool = typer.Option(False, "--force", help="Replace the file given with -o."),
    format: Format = FORMAT_OPTION,
) -> None:
    """Predicted TTFT, TPOT, throughput and memory for every combination of the options."""
    import polars as pl

    from perfkit.cli.predict_place import check_search, find_place, find_rates, find_shapes, known
    from perfkit.predict.best import BATCHES, best, seconds
    from perfkit.predict.cards import load_spec
    from perfkit.predict.changes import changed
    from perfkit.predict.gpus import load_gpu
    from perfkit.predict.grid import numbers, predict_frame
    from perfkit.predict.plan import DECODES
    from perfkit.report.predicted import rendered, told, write_parquet

    check_free(out, force=force)
    spec = load_spec(model, models_dir)
    place = find_place(system, gpus_per_node, network, models_dir)
    gpu = gpu or place.gpu
    device = load_gpu(gpu, models_dir) if gpu else None
    rates = find_rates(device, calibration, dtype, models_dir)
    rates = changed(replace(rates, network=place.network), changes)
    if goal is not None:
        check_search(goal, gpus)
    axes: dict[str, list[Any]] = {
        "batch": numbers(batch, "--batch") if batch else list(BATCHES) if goal else [1],
        "prompt_tokens": numbers(prompt, "--prompt"),
        "new_tokens": numbers(new, "--new"),
        "dtype": [rates.dtype],
        "decode": known("--decode", decode, DECODES),
    }
    if microbatches is not None:
        axes["microbatches"] = numbers(microbatches, "--microbatches")
    capacity = device.memory_bytes if device else None
    shapes = find_shapes(spec, tp, pp, nodes, place, gpus if goal else None)
    frame = pl.concat(
        [
            predict_frame(spec, rates, {**shape, **axes}, capacity_bytes=capacity)
            for shape in shapes
        ],
        how="vertical_relaxed",
    )
    if goal is not None:
        limits = seconds(max_tpot, "--max-tpot"), seconds(max_ttft, "--max-ttft")
        frame = pl.DataFrame(best(frame.to_dicts(), goal, *limits), schema=frame.schema)
    for line in told(rates, device, frame):
        story(line)
    if out is not None and out.suffix == ".parquet":
        write_parquet(frame, out)
    else:
        deliver(rendered(frame, rates, format.value), out, force=force)
    first = frame.row(0, named=True)
    closing(out, f"perfkit memory {model} --tp {first['tp']} --pp {first['pp']}")
