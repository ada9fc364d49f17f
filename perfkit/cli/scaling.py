"""`perfkit scaling`: the tables of a scaling study."""

from pathlib import Path

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, deliver, story
from perfkit.errors import ConfigError, one_of
from perfkit.files import check_free


def command(
    runs: list[Path] = typer.Argument(
        help="Run folders, or folders of them: traces/, runs/STUDY that `perfkit submit` filled."
    ),
    form: str = typer.Option(
        "users", help="users: every column; prace: the headings of PRACE and EuroHPC forms."
    ),
    calibration: Path | None = typer.Option(
        None, "--calibration", help="Measured rates for the prediction, as `perfkit calibrate -o`."
    ),
    gpu: str | None = typer.Option(None, "--gpu", help="Predict with this GPU's rates."),
    models_dir: Path | None = typer.Option(
        None, "--models-dir", help="Your own models folder, searched first."
    ),
    out: Path | None = typer.Option(None, "-o", "--out", help="Write there, not to stdout."),
    force: bool = typer.Option(False, "--force", help="Replace the file given with -o."),
    format: Format = FORMAT_OPTION,
) -> None:
    """Speed-up, efficiency and where the time went, beside what was predicted.

    Strong: the same work on more GPUs; weak: the same work for each GPU. Series are found by what
    runs have in common, and set against the smallest number of GPUs that was measured.
    """
    from perfkit.compare.run_facts import Rates
    from perfkit.compare.scaling import scaling_table
    from perfkit.compare.study_runs import find_runs
    from perfkit.report.scaling import FORMS, render_scaling

    one_of("--form", form, FORMS)
    check_free(out, force=force)
    found = find_runs(runs)
    for line in found.missing:
        story(f"no run: {line}")
    if not found.runs:
        raise ConfigError(
            "none of the points has a run yet, see above. Follow them with: perfkit status"
        )
    frame = scaling_table(found.runs, Rates(calibration, gpu, models_dir))
    if frame["series"].null_count() == frame.height:
        story("note: no two runs do the same work on different numbers of GPUs: no scaling to show")
    deliver(render_scaling(frame, form, format.value), out, force=force)
    closing(out, f"perfkit report {runs[0]} -o report.html")
