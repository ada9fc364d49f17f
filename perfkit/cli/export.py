"""`perfkit export`: analyses in the formats of other tools."""

from enum import StrEnum
from pathlib import Path

import typer

from perfkit.cli.output import closing, result
from perfkit.errors import ConfigError
from perfkit.files import check_free


class Target(StrEnum):
    """What `perfkit export` can write."""

    perfetto = "perfetto"
    csv = "csv"
    extrap = "extrap"


def command(
    target: Target = typer.Argument(
        help="perfetto (a viewer), csv (tables), extrap (scaling models)."
    ),
    paths: list[Path] = typer.Argument(metavar="RUN...", help="Run folders, or trace files."),
    out: Path = typer.Option(..., "-o", "--out", help="File to write; for csv a folder."),
    force: bool = typer.Option(False, "--force", help="Replace it."),
) -> None:
    """Write what an analysis found for Perfetto's viewer, a spreadsheet or Extra-P."""
    from perfkit.publish import export
    from perfkit.timeline.analysis import analyze_paths

    check_free(out, force=force)
    analyses = analyze_paths(paths)
    if len(analyses) > 1 and target is not Target.extrap:
        raise ConfigError(f"{target} takes one run. Give one; several go to extrap.")
    try:
        if target is Target.extrap:
            export.extrap(analyses, out)
        elif target is Target.csv:
            export.csv(analyses[0], out)
        else:
            export.perfetto(analyses[0], out)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}.") from error
    result(str(out))
    closing(out, NEXT[target].format(out=out))


NEXT = {
    Target.perfetto: "open {out} in ui.perfetto.dev (it stays in your browser)",
    Target.csv: "open {out}/split.csv",
    Target.extrap: "extrap --json {out}",
}
