"""`perfkit collect`: fetch what could not be had while the run was going on."""

from pathlib import Path

import typer

from perfkit.cli.output import closing, result, story


def command(
    run: Path = typer.Argument(help="Run folder that `perfkit run` wrote."),
    within: float = typer.Option(60.0, min=0, help="Seconds to wait for late accounting."),
    collectors_dir: Path | None = typer.Option(None, help="Your own collectors, read first."),
) -> None:
    """Ask again for late accounting (sacct) and retry imports, from a login node."""
    from perfkit.collect.later import collect_later

    states, warnings = collect_later(run, within, collectors_dir)
    result("\n".join(f"{name}: {state['state']}" for name, state in states.items()))
    for warning in warnings:
        story(f"warning: {warning}")
    closing(run, f"perfkit analyze {run}")
