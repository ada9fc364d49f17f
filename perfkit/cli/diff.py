"""`perfkit diff`: what changed from one trace to another."""

from pathlib import Path

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, result, story
from perfkit.errors import ConfigError


def command(
    a: Path = typer.Argument(help="A run folder, a trace file, or a folder of them."),
    b: Path = typer.Argument(help="The other one."),
    format: Format = FORMAT_OPTION,
    kernels: int = typer.Option(10, "--kernels", min=0, help="Operations to print."),
) -> None:
    """Compare two traces by class and by kernel: means over the ranks of each side."""
    from perfkit.compare.diff import diff
    from perfkit.report.diff import printed
    from perfkit.timeline.analysis import analyze_paths

    sides = [analyze_paths([path])[0] for path in (a, b)]
    for side in sides:
        if side.split.is_empty():
            raise ConfigError(
                f"{side.source} has no trace to compare. `perfkit analyze {side.source}` says why."
            )
    result(printed(diff(*sides), format.value, kernels))
    for side in sides:
        for warning in side.warnings:
            story(f"warning: {side.source}: {warning}")
    closing(None, f"perfkit whatif {a}")
