"""`perfkit doctor`: what of this machine perfkit can use."""

import csv
import io
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, result, terminal_width

if TYPE_CHECKING:
    from perfkit.collect.doctor import Check

COLUMNS = ("name", "state", "found", "lost", "fix")
MAX_WIDTH = 110
NAME_WIDTH, STATE_WIDTH = 17, 9


def command(
    need: str | None = typer.Option(
        None, help="Checks that must be ok, such as gpu,nsys,slurm; exit code 3 when one is not."
    ),
    out: Path = typer.Option(Path(), "--out", help="Folder that runs would be written to."),
    format: Format = FORMAT_OPTION,
) -> None:
    """Check what of this machine perfkit can use, and how to get the rest (under 15 s)."""
    from perfkit.collect.doctor import examine, next_command, parse_needs, require
    from perfkit.collect.doctor_probe import Probe

    needs = parse_needs(need)
    checks = examine(Probe(out=out))
    result(render(checks, format.value, terminal_width()))
    require(checks, needs)
    closing(None, next_command(checks))


def render(checks: Sequence["Check"], fmt: str, width: int) -> str:
    """The checks as text. No polars here: this must work where little is installed."""
    from perfkit.report.tables import Column, as_json, markdown

    rows = [check.as_row() for check in checks]
    if fmt == "json":
        return as_json({"checks": rows})
    if fmt == "csv":
        return as_csv(rows)
    if fmt == "md":
        cells = [[row[name] or "-" for name in COLUMNS] for row in rows]
        return markdown(cells, [Column(name=name, title=name, kind="text") for name in COLUMNS])
    return as_text(checks, min(width, MAX_WIDTH))


def as_csv(rows: Sequence[dict[str, str | None]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def as_text(checks: Sequence["Check"], width: int) -> str:
    """Groups of lines; what is lost and the fix stand under a line that is not ok."""
    lines: list[str] = []
    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            lines += ["", group]
        lines += check_lines(check, width)
    counts = Counter(check.finding.state for check in checks)
    total = ", ".join(f"{counts[state]} {state}" for state in ("ok", "fixable", "missing"))
    return "\n".join([*lines[1:], "", f"{len(checks)} checks: {total}"]) + "\n"


def check_lines(check: "Check", width: int) -> list[str]:
    finding = check.finding
    margin = 2 + NAME_WIDTH + STATE_WIDTH
    head = f"  {check.name:<{NAME_WIDTH}}{finding.state:<{STATE_WIDTH}}"
    lines = wrapped(finding.found, width - margin)
    if finding.lost:
        lines += wrapped(f"lost: {finding.lost}", width - margin, hanging=6)
    if finding.fix:
        lines += continued(f"fix:  {finding.fix}", width - margin)
    return [f"{head if i == 0 else ' ' * margin}{line}" for i, line in enumerate(lines)]


def wrapped(text: str, width: int, hanging: int = 0) -> list[str]:
    return textwrap.wrap(
        text,
        max(width, 20),
        subsequent_indent=" " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def continued(text: str, width: int) -> list[str]:
    r"""A command over several lines with ` \` at their ends: it can still be copied and typed."""
    lines = wrapped(text, width - 2, hanging=6)
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]
