"""`perfkit verify`: does a run still answer as its baseline?"""

from pathlib import Path

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, result, story
from perfkit.errors import CheckFailed


def command(
    run: Path = typer.Argument(help="Run folder that `perfkit run --logprobs` wrote."),
    against: Path = typer.Option(
        ...,
        "--against",
        metavar="BASELINE",
        help="A run folder (one process, another layout, another day), or the .parquet file of "
        "`perfkit baseline`.",
    ),
    repeat: Path | None = typer.Option(
        None,
        metavar="RUN",
        help="A run that is known to be good and followed the same baseline: its distance is "
        "noise, and the limits are multiples of it.",
    ),
    strict: bool = typer.Option(False, "--strict", help="Exit with 3 when suspicious, too."),
    format: Format = FORMAT_OPTION,
) -> None:
    """Judge a run's answers against a baseline: healthy, suspicious or broken (exit code 3).

    Greedy tokens part by rounding alone, so equal answers are not asked for below float32. Run
    with --follow BASELINE first: then both are compared in every place.
    """
    from perfkit.compare.fidelity import verify, write_places
    from perfkit.report.fidelity import document, printed
    from perfkit.schema import write_json

    found = verify(run, against, repeat)
    written = write_places(found)
    write_json(written / "fidelity.json", document(found))
    result(printed(found, format.value))
    if format is Format.csv:
        for note in found.notes:
            story(f"note: {note}")
    closing(written, f"perfkit analyze {run}")
    verdict = found.judged.verdict
    if verdict == "broken" or (strict and verdict == "suspicious"):
        raise CheckFailed(f"{run} against {against}: {found.judged.reasons[0]}.")
