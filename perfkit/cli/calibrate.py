"""`perfkit calibrate`: measure this machine's rates, so that predictions need no data sheet."""

import sys
from pathlib import Path

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, result, story
from perfkit.files import check_free


def command(
    tp: int = typer.Option(1, min=1, help="Tensor-parallel ranks, as the run will have."),
    pp: int = typer.Option(1, min=1, help="Pipeline stages, as the run will have."),
    dtype: str | None = typer.Option(
        None, help="float32, bfloat16 or float16. [default: bfloat16 on GPUs, float32 on CPUs]"
    ),
    device: str | None = typer.Option(None, help="cuda or cpu. [default: cuda where there is one]"),
    out: Path | None = typer.Option(
        None, "-o", "--out", help="Also write it here, as .json or, with a GPU's curves, .toml."
    ),
    force: bool = typer.Option(False, "--force", help="Replace the file given with --out."),
    format: Format = FORMAT_OPTION,
) -> None:
    """Measure GEMM, memory, dispatch and collective rates on tp * pp ranks (about 20 s)."""
    from perfkit.calibrate.measure import calibrate, render_rates
    from perfkit.cli.progress import Progress
    from perfkit.collect.plan import plan_calibration

    check_free(out, force=force)
    plan = plan_calibration(tp=tp, pp=pp, dtype=dtype, device=device, command=sys.argv)
    progress = Progress()
    calibration = calibrate(plan, progress.show, out)
    progress.end()
    if calibration is None:
        return
    result(render_rates(calibration.document, format.value))
    for warning in calibration.warnings:
        story(f"warning: {warning}")
    closing(calibration.path, f"perfkit run MODEL --tp {tp} --pp {pp}")
