"""Figures of a document: a Vega-Lite spec on paper, its caption, and the runs that it is of.

Every figure becomes a PDF of its own, with one regular font in it that vl-convert brings along
(Liberation Sans): the same on every machine, in typst and in LaTeX, and the same bytes each time.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perfkit.documents.tables import NOT_MEASURED
from perfkit.errors import ToolMissing

FONT = "Liberation Sans"
WIDTH, HEIGHT = 340, 190
ROW_HEIGHT = 15
PLAIN = {"titleFontWeight": "normal", "labelFontWeight": "normal"}
PRINT = {
    "font": FONT,
    "background": "#ffffff",
    "view": {"stroke": None},
    "axis": {**PLAIN, "labelFontSize": 9, "titleFontSize": 9, "gridColor": "#dddddd"},
    "legend": {**PLAIN, "labelFontSize": 9, "titleFontSize": 9, "labelLimit": 0},
    "header": {**PLAIN, "labelFontSize": 9, "titleFontSize": 9},
    "title": {"fontWeight": "normal", "subtitleFontWeight": "normal", "fontSize": 10},
    "text": {"fontWeight": "normal"},
}
# A page's named resources, one a line: vl-convert writes them in another order each time.
RESOURCES = re.compile(rb"(?<=<<\n)(?:      /\w+ \d+ 0 R\n)+(?=    >>)")


@dataclass(frozen=True, slots=True, kw_only=True)
class DocFigure:
    """A figure, or the reason why there is none and what would bring it."""

    id: str
    """F1 to F9"""
    caption: str
    alt: str = ""
    spec: Mapping[str, Any] | None = None
    runs: tuple[str, ...] = ()
    query: str = ""
    missing: str = ""
    get: str = ""
    lack: str = NOT_MEASURED


def not_there(id: str, caption: str, why: str, get: str, lack: str = NOT_MEASURED) -> DocFigure:
    return DocFigure(id=id, caption=caption, missing=why, get=get, lack=lack)


def require_libraries() -> None:
    """ToolMissing unless the extra `report` is installed."""
    try:
        import altair  # noqa: F401
        import typst  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise ToolMissing(
            f"documents need altair, vl-convert-python and typst ({error}). "
            "Install them with: pip install 'perfkit[report]'",
        ) from error


def pdf_of(figure: DocFigure) -> bytes:
    """One page as large as the figure; the same bytes each time."""
    import vl_convert

    assert figure.spec is not None
    return in_order(bytes(vl_convert.vegalite_to_pdf(for_print(figure.spec))))


def in_order(pdf: bytes) -> bytes:
    """With a page's resources sorted by name; every object stays where it is in the file."""

    def ordered(found: re.Match[bytes]) -> bytes:
        return b"".join(sorted(found[0].splitlines(keepends=True)))

    return RESOURCES.sub(ordered, pdf)


def for_print(spec: Mapping[str, Any]) -> dict[str, Any]:
    """With the fonts and sizes of paper in place of the page's, and a fixed width."""
    made = {key: value for key, value in plain(spec).items() if key not in ("config", "$schema")}
    if made.get("width", "container") == "container":
        made["width"] = WIDTH
    return {**made, "config": PRINT}


def plain(value: Any) -> Any:
    """Without any font or weight of its own."""
    if isinstance(value, Mapping):
        dropped = ("font", "fontWeight", "labelFont", "titleFont", "titleFontWeight")
        return {key: plain(inner) for key, inner in value.items() if key not in dropped}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [plain(inner) for inner in value]
    return value


def as_data(figure: DocFigure) -> dict[str, Any]:
    """What the templates read."""
    return {
        "id": figure.id,
        "caption": figure.caption,
        "alt": figure.alt,
        "missing": figure.missing,
        "get": figure.get,
        "lack": figure.lack,
        "file": f"figures/{figure.id}.pdf" if figure.spec is not None else "",
    }
