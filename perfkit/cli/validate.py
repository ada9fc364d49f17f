"""`perfkit validate`: every mistake of a study at once, before anything runs."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, result, story
from perfkit.errors import ConfigError

if TYPE_CHECKING:
    from perfkit.study.checks import Checked

WRONG = 2


def command(
    studies: list[str] = typer.Argument(
        None, help="Studies: TOML files, or names of shipped ones.", show_default=False
    ),
    system: str | None = typer.Option(
        None, "--system", help="A system of models/systems: would the points run there?"
    ),
    gpus_per_node: int | None = typer.Option(
        None, min=0, help="GPUs of a node, instead of the system's."
    ),
    schema: bool = typer.Option(
        False, "--schema", help="Print the JSON schema of study files, for editors."
    ),
    models_dir: Path | None = typer.Option(None, help="Your own models folder, searched first."),
    format: Format = FORMAT_OPTION,
) -> None:
    """Check studies against their schema, the models and a system. Exit code 2 for a mistake."""
    if schema:
        from perfkit.study.schema import schema_text

        result(schema_text())
        return
    if not studies:
        raise ConfigError("give one or more studies, or --schema. Start one with: perfkit init")
    from perfkit.predict.gpus import load_gpu
    from perfkit.study.checks import check_study
    from perfkit.study.systems import load_system, with_overrides

    site = load_system(system, models_dir) if system else None
    if site is not None:
        site = with_overrides(site, gpus_per_node=gpus_per_node)
    gpu = load_gpu(site.gpu, models_dir) if site and site.gpu else None
    checked = [check_study(name, site, gpu, models_dir) for name in studies]
    result(render(checked, format))
    wrong = sum(1 for one in checked if one.mistakes)
    if wrong:
        story(f"{wrong} of {len(checked)} cannot be used.")
        raise typer.Exit(WRONG)
    closing(None, next_command(studies[0], system))


def next_command(study: str, system: str | None) -> str:
    there = ["submit", study, "--system", system] if system else ["run", study]
    return shlex.join(["perfkit", *there, "--dry-run"])


def render(checked: "list[Checked]", format: Format) -> str:
    """A paragraph a study, or rows: one a mistake or point that is left out."""
    if format is Format.table:
        return "\n".join(line for one in checked for line in paragraph(one))
    import polars as pl

    from perfkit.report.tables import Column
    from perfkit.report.tables import render as table

    rows = [row for one in checked for row in rows_of(one)]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    columns = [
        Column(name=name, title=name, kind="integer" if name == "points" else "text")
        for name in frame.columns
    ]
    return table(frame, columns, format.value)


def paragraph(one: "Checked") -> list[str]:
    """`mine.toml: 2 mistakes` or `mine.toml: strong-scaling, 9 points 3 times each`."""
    if one.mistakes or one.study is None:
        count = len(one.mistakes)
        head = f"{one.path}: {count} mistake{'' if count == 1 else 's'}"
        return [head, *(f"  {text}" for text in one.mistakes)]
    kind = one.study.kind or "no kind"
    times = "once each" if one.study.repeats == 1 else f"{one.study.repeats} times each"
    head = f"{one.path}: valid, {kind}, {one.points} point(s) {times}"
    notes = [f"  note: {text}" for text in one.notes]
    return [head, *(f"  left out: {text}" for text in one.skipped), *notes]


def rows_of(one: "Checked") -> list[dict[str, Any]]:
    shared = {
        "study": str(one.path),
        "valid": "no" if one.mistakes else "yes",
        "kind": one.study.kind if one.study else None,
        "points": one.points,
    }
    texts: list[tuple[str | None, str | None]] = [("mistake", text) for text in one.mistakes]
    texts += [("left out", text) for text in one.skipped]
    texts += [("note", text) for text in one.notes]
    return [{**shared, "what": what, "text": text} for what, text in texts or [(None, None)]]
