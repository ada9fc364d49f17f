"""What `perfkit report` writes: the page of one run or of several, their table, their picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perfkit.errors import ConfigError
from perfkit.files import check_free
from perfkit.report.html import render_report, require_libraries
from perfkit.report.side_by_side import find_all, runs_table
from perfkit.report.side_by_side_text import as_markdown


def write(runs: Sequence[Path], out: Path, kind: str, *, force: bool = False, **rates: Any) -> Path:
    """Write html, svg or png of the run folders; `rates` as for find_all."""
    check_free(out, force=force)
    content = html(runs, **rates) if kind == "html" else picture_of(runs, kind, **rates)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(content)
    except OSError as error:
        raise ConfigError(
            f"cannot write {out}: {error.strerror}. Give a file you may write to with -o.",
        ) from error
    return out


def html(runs: Sequence[Path], **rates: Any) -> bytes:
    """The page of one run, or of several side by side."""
    from perfkit.report.runs_page import render_runs

    if len(runs) == 1:
        return render_report(runs[0], **rates).encode()
    require_libraries()
    return render_runs(find_all(runs, **rates)).encode()


def picture_of(runs: Sequence[Path], kind: str, **rates: Any) -> bytes:
    """What a decode step of each run is made of, as svg or png."""
    require_libraries()
    from perfkit.report.side_by_side_charts import picture

    return picture(runs_table(find_all(runs, **rates)), kind)


def markdown_of(runs: Sequence[Path], **rates: Any) -> str:
    """The runs side by side as GitHub's Markdown; it needs no extra."""
    return as_markdown(runs_table(find_all(runs, **rates)))
