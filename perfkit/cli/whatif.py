"""`perfkit whatif`: the measured step again, with some durations changed."""

from pathlib import Path

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, result, story
from perfkit.errors import ConfigError

# A profiler that slows the step by more than this is worth a word: its launches are too slow.
NOTABLE_RATIO = 1.1


def command(
    trace: list[Path] = typer.Argument(metavar="TRACE...", help="A run folder, or trace files."),
    comm: str = typer.Option("1x", help="Transfer time of collectives, e.g. 0.5x."),
    launch: str = typer.Option("1x", help="The host's time between launches; 0 for none at all."),
    copy: str = typer.Option("1x", help="Time of copies between host and device."),
    kernel: list[str] = typer.Option(
        [],
        "--kernel",
        help="Family or name (regular expression) and factor: gemm=0.7x. Repeatable.",
    ),
    format: Format = FORMAT_OPTION,
) -> None:
    """Replay a captured step with changed durations, in its measured order.

    Host issue, stream order, and collectives across ranks are kept: a slow host still holds up a
    faster device. Nothing changed reproduces the measured step, and the difference is printed.
    """
    from perfkit.report.whatif import printed
    from perfkit.timeline.analysis import analyze_paths
    from perfkit.timeline.replay import Change
    from perfkit.timeline.whatif import whatif

    change = Change(
        comm=factor("--comm", comm),
        launch=factor("--launch", launch),
        copy=factor("--copy", copy),
        kernels=dict(map(kernel_factor, kernel)),
    )
    analyses = analyze_paths(trace)
    if len(analyses) > 1:
        raise ConfigError("give one run folder, or the trace files of one run.")
    before, after = whatif(analyses[0], Change()), whatif(analyses[0], change)
    result(printed(before, after, change, format.value))
    ratio = analyses[0].profiler_ratio
    if ratio is not None and ratio > NOTABLE_RATIO:
        story(f"the captured step took {ratio:.2f} times a timed one: the profiler slows the host")
    for warning in analyses[0].warnings:
        story(f"warning: {warning}")
    closing(None, f"perfkit analyze {analyses[0].source}")


def factor(option: str, text: str) -> float:
    """0.5x or 0.5 -> 0.5; ConfigError for anything else, or less than nothing."""
    try:
        value = float(text.removesuffix("x"))
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{option} {text!r} is no factor. Use 0.5x for half, 0 for nothing.")
    return value


def kernel_factor(text: str) -> tuple[str, float]:
    """gemm=0.7x -> ("gemm", 0.7)."""
    import re

    name, equals, value = text.rpartition("=")
    if not equals or not name:
        raise ConfigError(f"--kernel {text!r}: use FAMILY=FACTOR, such as gemm=0.7x.")
    try:
        re.compile(name)
    except re.error as error:
        raise ConfigError(f"--kernel {text!r} is no regular expression: {error}.") from error
    return name, factor("--kernel", value)
