"""`perfkit memory`: how much memory each rank needs, and whether it fits a GPU."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, result, story
from perfkit.errors import ConfigError
from perfkit.predict.cards import load_spec
from perfkit.predict.gpus import Gpu, load_gpu
from perfkit.predict.memory import GIB, Workload
from perfkit.predict.memory_rows import Overrides, even_row, memory_rows, override_notes
from perfkit.predict.spec import ModelSpec, kv_bytes_per_token, num_parameters
from perfkit.predict.tensors import layout_note

if TYPE_CHECKING:
    import polars as pl

    from perfkit.report.tables import Column

GIB_COLUMNS = {
    "weights_bytes": "weights GiB",
    "kv_bytes": "KV GiB",
    "activation_bytes": "activations GiB",
    "overhead_bytes": "overhead GiB",
    "total_bytes": "total GiB",
    "capacity_bytes": "capacity GiB",
    "margin_bytes": "margin GiB",
}


def command(
    model: str = typer.Argument(help="A model card, a folder with config.json, or the file."),
    tp: int = typer.Option(1, "--tp", help="Tensor-parallel degree."),
    pp: int = typer.Option(1, "--pp", help="Pipeline stages."),
    gpus: int | None = typer.Option(
        None, "--gpus", help="Idealised even split over this many GPUs, instead of --tp and --pp."
    ),
    batch: int = typer.Option(1, "--batch", help="Sequences held at once, all microbatches."),
    context: int = typer.Option(2048, "--context", help="Tokens per sequence: prompt and new."),
    prompt: int | None = typer.Option(
        None, "--prompt", help="Tokens of one prefill, for activations. Default: the context."
    ),
    microbatches: int = typer.Option(1, "--microbatches", help="Microbatches of the batch."),
    dtype: str = typer.Option("bfloat16", "--dtype", help="bfloat16, float16 or float32."),
    gpu: str | None = typer.Option(None, "--gpu", help="A GPU of gpus.toml: does it fit?"),
    params: float | None = typer.Option(
        None, "--params", help="Number of parameters, instead of the model's. With --gpus."
    ),
    kv_heads: int | None = typer.Option(
        None, "--kv-heads", help="KV heads, instead of the model's. With --gpus."
    ),
    activations_gib: float | None = typer.Option(
        None, "--activations-gib", help="GiB per GPU, instead of the computed peak."
    ),
    overhead_gib: float | None = typer.Option(
        None, "--overhead-gib", help="GiB per GPU, instead of context, workspace and NCCL."
    ),
    models_dir: Path | None = typer.Option(
        None, "--models-dir", help="Your own models folder, searched first."
    ),
    format: Format = FORMAT_OPTION,
) -> None:
    """Predicted memory per rank: weights, KV cache, activations, overhead."""
    spec = load_spec(model, models_dir)
    work = Workload(
        batch=batch, context=context, prompt=prompt, microbatches=microbatches, dtype=dtype
    )
    over = _overrides(params, kv_heads, activations_gib, overhead_gib)
    device = load_gpu(gpu, models_dir) if gpu else None
    notes = _notes(spec, over, device, tp if gpus is None else 1)
    rows = _rows(spec, work, over, device, tp, pp, gpus)
    _tell(spec, notes)
    result(_render(rows, format, notes))
    closing(None, f"perfkit predict {model} --gpu {gpu or 'h100-sxm'} --tp {tp} --pp {pp}")


def _overrides(
    params: float | None, kv_heads: int | None, activations: float | None, overhead: float | None
) -> Overrides:
    for name, value in (("--params", params), ("--kv-heads", kv_heads)):
        if value is not None and value <= 0:
            raise ConfigError(f"{name} {value}: use a positive number.")
    return Overrides(
        params=params,
        kv_heads=kv_heads,
        activations_bytes=None if activations is None else activations * GIB,
        overhead_bytes=None if overhead is None else overhead * GIB,
    )


def _rows(
    spec: ModelSpec,
    work: Workload,
    over: Overrides,
    gpu: Gpu | None,
    tp: int,
    pp: int,
    num_gpus: int | None,
) -> list[dict[str, Any]]:
    facts: dict[str, Any] = {
        "gpu": gpu.id if gpu else None,
        "capacity_bytes": gpu.memory_bytes if gpu else None,
        "overrides": over,
    }
    if num_gpus is None:
        return memory_rows(spec, work, tp=tp, pp=pp, **facts)
    if tp != 1 or pp != 1:
        raise ConfigError(
            f"--gpus {num_gpus} is an even split without a layout, but tp={tp} and pp={pp} were "
            "given. Use either --gpus or --tp and --pp.",
        )
    return [even_row(spec, work, num_gpus=num_gpus, **facts)]


def _notes(spec: ModelSpec, over: Overrides, gpu: Gpu | None, tp: int) -> list[str]:
    notes = override_notes(spec, over)
    if uneven := layout_note(spec, tp) if tp > 0 else None:
        notes.append(uneven)
    if gpu and gpu.memory_bytes is None:
        notes.append(f"{gpu.id}: memory as NVML reports it is unknown, so no verdict")
    if gpu and "memory_bytes" in gpu.unverified:
        notes.append(f"{gpu.id}: its memory size is unverified")
    return notes


def _tell(spec: ModelSpec, notes: list[str]) -> None:
    cached = f"{spec.num_kv_heads} KV heads"
    if spec.latent:
        cached = f"a latent of {spec.latent.cached_values} values"
    story(
        f"{spec.id}: {num_parameters(spec):,} parameters, {cached}, "
        f"{kv_bytes_per_token(spec):,} bytes of KV per token in 16 bit."
    )
    for note in notes:
        story(f"note: {note}")


def _render(rows: list[dict[str, Any]], fmt: Format, notes: list[str]) -> str:
    import polars as pl

    from perfkit.report.tables import render

    if fmt in (Format.json, Format.csv):
        frame = pl.DataFrame(rows, infer_schema_length=None)
        return render(frame, [], fmt.value, extra={"kind": "predicted", "notes": notes})
    return render(
        _readable(rows), _columns(rows), fmt.value, title="Predicted memory per rank, GiB = 2**30"
    )


def _readable(rows: list[dict[str, Any]]) -> "pl.DataFrame":
    """The rows with GiB as text: two decimals, or three digits below 1 (0.625)."""
    import polars as pl

    return pl.DataFrame([{**row, **{k: gib(row[k]) for k in GIB_COLUMNS}} for row in rows])


def gib(value: float | None) -> str:
    """Bytes as GiB: 24.92, 1.25, 0.625; `-` for what is unknown."""
    if value is None:
        return "-"
    number = value / GIB
    return f"{number:,.2f}" if abs(number) >= 1 else f"{number:#.3g}"


def _columns(rows: list[dict[str, Any]]) -> "list[Column]":
    from perfkit.report.tables import Column

    first = [Column(name="ranks", title="ranks", kind="text")]
    if rows[0]["stage"] is not None:
        first.append(Column(name="stage", title="stage", kind="integer"))
    parts = [Column(name=name, title=title, kind="figure") for name, title in GIB_COLUMNS.items()]
    return [*first, *parts, Column(name="verdict", title="verdict", kind="text")]
