"""Every chart of the report as a file of its own: svg and png, with legends, on white.

On the page the legends are HTML beside the charts; here they are put into the charts themselves.
`figures.md` says of each file what it shows, in words. The same runs give the same bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from perfkit.errors import ConfigError
from perfkit.report.blocks import collectives_block, split_figures, strip_block
from perfkit.report.charts import CONFIG, Figure, headline_figures, memory_figure
from perfkit.report.class_charts import class_figures
from perfkit.report.html import Findings
from perfkit.report.html_parts import headline_rows, memory_rows
from perfkit.report.runs_page import scaling_of
from perfkit.report.scaling_charts import scaling_figures
from perfkit.report.side_by_side import runs_table
from perfkit.report.side_by_side_charts import FONT, LIGHT, tpot_figures

WIDTH = 640
KINDS = ("svg", "png")
CHANNELS = ("color", "stroke", "fill", "shape", "size")
LEGEND = {"title": None, "orient": "top", "columns": 3, "labelLimit": 0}
LIST = "figures.md"
SPEEDS = {"ttft_s": "ttft", "tpot_s": "tpot", "e2e_s": "end-to-end", "tokens_per_s": "throughput"}

Named = tuple[str, Figure]


def write_figures(found: Sequence[Findings], folder: Path, kinds: Sequence[str]) -> list[Path]:
    """The files written, the list of them last; ConfigError where nothing can be drawn."""
    figures = [*of_runs(found)] if len(found) > 1 else []
    for one in found:
        figures += [(f"{one.name.replace('/', '-')}-{name}", fig) for name, fig in of_run(one)]
    if not figures:
        raise ConfigError(
            "nothing of these runs can be drawn: nothing was measured and nothing predicted. "
            "See why with: perfkit report RUN"
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = [path for figure in figures for path in _write(figure, folder, kinds)]
    lines = [f"- **{name}**: {figure.alt or figure.title}" for name, figure in figures]
    (folder / LIST).write_text("\n".join(["# Figures", "", *lines, ""]), encoding="utf-8")
    return [*written, folder / LIST]


def of_run(found: Findings) -> Iterator[Named]:
    """The charts of one run's page, by name."""
    analysis = found.analysis
    headline = headline_rows(found.headline, analysis).to_dicts()
    known = [row for row in headline if row["predicted"] is not None or row["measured"] is not None]
    for row, figure in zip(known, headline_figures(known), strict=True):
        yield f"speed-{SPEEDS.get(row['measure'], row['measure'])}", figure
    for figure in split_figures(analysis):
        yield f"split-{figure.title.split()[0].lower()}", figure
    if step := strip_block(analysis):
        yield "step", step["figure"]
    if found.classes is not None and not found.classes.is_empty():
        for figure in class_figures(found.classes):
            yield f"kernels-{figure.title.split()[-1]}", figure
    collectives = collectives_block(analysis.collectives, found.machine)
    if collectives and collectives["figure"]:
        yield "collectives", collectives["figure"]
    memory, unit = memory_rows(analysis, found.path, found.prediction)
    labels = [{**row, "label": f"rank {row['rank']}"} for row in memory.to_dicts()]
    if held := memory_figure(labels, unit):
        yield "memory", held


def of_runs(found: Sequence[Findings]) -> Iterator[Named]:
    """The charts of several runs together."""
    for number, figure in enumerate(tpot_figures(runs_table(found)), start=1):
        yield f"tpot-{number}", figure
    for number, figure in enumerate(scaling_figures(scaling_of(found)), start=1):
        yield f"scaling-{number}", figure


def _write(named: Named, folder: Path, kinds: Sequence[str]) -> Iterator[Path]:
    import vl_convert

    name, figure = named
    spec = on_paper(figure)
    for kind in kinds:
        path = folder / f"{name}.{kind}"
        if kind == "svg":
            path.write_text(str(vl_convert.vegalite_to_svg(spec)), encoding="utf-8")
        else:
            path.write_bytes(bytes(vl_convert.vegalite_to_png(spec, scale=2)))
        yield path


def on_paper(figure: Figure) -> dict[str, Any]:
    """The chart with its legends, its title, a width and a white background."""
    spec: dict[str, Any] = with_legends(figure.spec)
    titles = {"anchor": "start", "fontSize": 13, "frame": "group"}
    config = {**CONFIG, "font": FONT, "background": LIGHT, "title": titles, "padding": 12}
    heading = {"title": figure.title} if figure.title else {}
    return {**spec, **heading, "width": WIDTH, "config": config}


def with_legends(value: Any, channel: str = "") -> Any:
    """Colours and shapes explained where the page had them explained beside the chart."""
    if isinstance(value, Mapping):
        made = {key: with_legends(inner, key) for key, inner in value.items()}
        if channel in CHANNELS and "field" in value and value.get("legend", 0) is None:
            made["legend"] = LEGEND
        return made
    if isinstance(value, list):
        return [with_legends(inner) for inner in value]
    return value
