"""What `perfkit report` writes: the page of one run or of several, their table, their picture."""

from pathlib import Path
from typing import Any

from perfkit.errors import ConfigError
from perfkit.files import check_free
from perfkit.report.given import Given
from perfkit.report.html import Findings, render_report, require_libraries
from perfkit.report.side_by_side import find_all, runs_table
from perfkit.report.side_by_side_text import as_markdown


def write(what: Given, out: Path, kind: str, *, force: bool = False, **rates: Any) -> Path:
    """Write html, svg or png of what was given; `rates` as for find_all."""
    check_free(out, force=force)
    content = html(what, **rates) if kind == "html" else picture_of(what, kind, **rates)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(content)
    except OSError as error:
        raise ConfigError(
            f"cannot write {out}: {error.strerror}. Give a file you may write to with -o.",
        ) from error
    return out


def html(what: Given, **rates: Any) -> bytes:
    """The page of one run, or of several side by side with what is missing among them."""
    from perfkit.report.runs_page import render_runs

    if len(what.runs) == 1 and not what.missing:
        return render_report(what.runs[0], **rates).encode()
    require_libraries()
    found, unread = find_all(what.runs, **rates)
    return render_runs(found, [*what.missing, *unread]).encode()


def picture_of(what: Given, kind: str, **rates: Any) -> bytes:
    """What a decode step of each run is made of, as svg or png."""
    require_libraries()
    from perfkit.report.side_by_side_charts import picture

    return picture(runs_table(at_least_one(what, **rates)), kind)


def markdown_of(what: Given, **rates: Any) -> str:
    """The runs side by side as GitHub's Markdown; it needs no extra."""
    return as_markdown(runs_table(at_least_one(what, **rates)))


def at_least_one(what: Given, **rates: Any) -> list[Findings]:
    """The runs that can be read; ConfigError with what is missing where there are none."""
    found, unread = find_all(what.runs, **rates)
    if not found:
        raise ConfigError(f"no run can be shown: {'; '.join([*what.missing, *unread])}")
    return found
