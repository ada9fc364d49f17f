"""The `perfkit` command: registers one file per verb and is the only place that prints errors.

Exit codes: 0 ok, 1 the operation failed, 2 usage or configuration, 3 a check did not hold,
4 an external tool is missing, 130 interrupted.
"""

import sys

import typer

from perfkit import __version__
from perfkit.cli import (
    accuracy,
    allocation,
    analyze,
    baseline,
    bundle,
    calibrate,
    collect,
    compare,
    diff,
    dispatch,
    doctor,
    export,
    fetch,
    figures,
    init,
    memory,
    paper,
    predict,
    prompts,
    proposal,
    report,
    run,
    scaling,
    status,
    submit,
    traces,
    validate,
    verify,
    whatif,
)
from perfkit.errors import PerfkitError

INTERRUPTED = 130

app = typer.Typer(
    name="perfkit",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "PERFKIT"},
    help="Run, record, predict and compare large language models on several GPUs.",
    epilog="stdout is the result, stderr the story. Exit codes: 0 ok, 1 failed, 2 usage, "
    "3 check failed, 4 tool missing, 130 interrupted.",
)


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"perfkit {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False,
        "--version",
        callback=show_version,
        is_eager=True,
        allow_from_autoenv=False,
        help="Print the version.",
    ),
) -> None:
    """Options of perfkit itself."""


app.command("run", cls=run.RunCommand)(run.command)
app.command("dispatch")(dispatch.command)
app.command("init")(init.command)
app.command("validate")(validate.command)
app.command("submit")(submit.command)
app.command("status")(status.command)
app.command("collect")(collect.command)
app.command("analyze")(analyze.command)
app.command("whatif")(whatif.command)
app.command("diff")(diff.command)
app.command("compare")(compare.command)
app.command("scaling")(scaling.command)
app.command("accuracy")(accuracy.command)
app.command("verify")(verify.command)
app.command("baseline")(baseline.command)
app.command("report")(report.command)
app.command("figures")(figures.command)
app.command("paper")(paper.command)
app.command("proposal")(proposal.command)
app.command("bundle")(bundle.command)
app.command("export")(export.command)
app.command("predict")(predict.command)
app.command("memory")(memory.command)
app.command("doctor")(doctor.command)
app.command("calibrate")(calibrate.command)
app.command("fetch")(fetch.command)
app.command("prompts")(prompts.command)
app.add_typer(allocation.app, name="allocation")
app.add_typer(traces.app, name="traces")


def main() -> None:
    """Run perfkit; turn its own errors into one message and an exit code."""
    try:
        app(prog_name="perfkit")
    except PerfkitError as error:
        typer.echo(f"perfkit: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("perfkit: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
