"""`perfkit traces`: copies of recorded runs that can be given to others."""

from pathlib import Path

import typer

from perfkit.cli.output import closing, result, story

app = typer.Typer(no_args_is_help=True, help="Copies of traces that can be published.")


@app.command("scrub")
def scrub_command(
    source: Path = typer.Argument(
        metavar="IN", help="A run folder, an nsys export (.sqlite) or a Kineto file."
    ),
    target: Path = typer.Argument(metavar="OUT", help="The copy; it must not exist."),
) -> None:
    """Copy without environment, secrets, home folders and command lines. IN is only read."""
    from perfkit.publish.scrub import scrub

    for line in scrub(source, target):
        story(line)
    result(str(target))
    closing(target, f"perfkit analyze {target}")


@app.command("add")
def add_command(
    run: Path = typer.Argument(help="Run folder to keep as evidence."),
    name: str = typer.Option(..., "--name", help="Its folder in traces/, e.g. h200-8b-tp2."),
    folder: Path = typer.Option(Path("traces"), help="The folder of recorded runs."),
    note: str = typer.Option(..., "--note", help="One line: what was run, on what, and why."),
) -> None:
    """Add a scrubbed copy of a run to traces/; refused above 3 MB or with a secret in it."""
    from perfkit.publish.evidence import add

    added = add(run, folder, name, note)
    result(str(added))
    closing(added, f"perfkit analyze {added}")
