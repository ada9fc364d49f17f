"""`perfkit calibrate`: measure this machine's rates, or take them from runs of it."""

import sys
from pathlib import Path

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, result, story
from perfkit.errors import ConfigError
from perfkit.files import check_free

MEASURED = ("tp", "pp", "dtype", "device")


def command(
    context: typer.Context,
    runs: list[Path] = typer.Option(
        [],
        "--from",
        metavar="RUN",
        help="Measure nothing: take the rates from the traces and timed passes of this run folder. "
        "May be given several times.",
    ),
    tp: int = typer.Option(1, min=1, help="Tensor-parallel ranks, as the run will have."),
    pp: int = typer.Option(1, min=1, help="Pipeline stages, as the run will have."),
    dtype: str | None = typer.Option(
        None, help="float32, bfloat16 or float16. [default: bfloat16 on GPUs, float32 on CPUs]"
    ),
    device: str | None = typer.Option(None, help="cuda or cpu. [default: cuda where there is one]"),
    out: Path | None = typer.Option(
        None, "-o", "--out", help="Also write it here, as .json or, with a GPU's curves, .toml."
    ),
    models_dir: Path | None = typer.Option(
        None, "--models-dir", help="Your own models folder, before the shipped one (--from)."
    ),
    force: bool = typer.Option(False, "--force", help="Replace the file given with --out."),
    format: Format = FORMAT_OPTION,
) -> None:
    """Measure GEMM, memory, dispatch and collective rates on tp * pp ranks (about 20 s)."""
    check_free(out, force=force)
    if runs:
        refuse_given(context)
        from_runs(runs, out, models_dir, format)
        return
    from perfkit.calibrate.measure import calibrate, render_rates
    from perfkit.cli.progress import Progress
    from perfkit.collect.plan import plan_calibration

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


def refuse_given(context: typer.Context) -> None:
    """ConfigError for an option of the measurement beside --from."""
    for name in MEASURED:
        source = context.get_parameter_source(name)
        if source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT"):
            raise ConfigError(f"--{name} does not go with --from: the runs say it themselves.")


def from_runs(runs: list[Path], out: Path | None, models_dir: Path | None, format: Format) -> None:
    """Fit, print, and keep where -o says."""
    from perfkit.calibrate.from_traces import calibrate_from
    from perfkit.calibrate.toml_file import write_tables
    from perfkit.collect.supervise import now
    from perfkit.report.calibrated import render_stretches

    if out is not None and out.suffix != ".toml":
        raise ConfigError(f"-o {out}: what comes from traces is written as .toml.")
    found = calibrate_from(runs, models_dir, date=now()[:10])
    result(render_stretches(found, format.value))
    if out is None:
        story("Next: the same with -o GPU.toml, to predict with it")
        return
    write_tables(found.tables, out)
    closing(out, f"perfkit predict MODEL --calibration {out}")
