"""`perfkit prompts`: the shipped long prompts as a file for `perfkit run --prompts`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, result, story
from perfkit.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

WRITTEN = (".jsonl", ".json")


def command(
    variant: str = typer.Option(
        "2k", help="2k or 4k: 2,048 or 4,096 tokens, and a tenth more where nothing is cut."
    ),
    limit: int | None = typer.Option(None, min=1, help="The first so many. [default: all 20]"),
    model: str | None = typer.Option(
        None,
        help="A staged model or a folder: prompts are cut to exactly that many tokens of its own "
        "tokenizer, its chat template included. [default: nothing is cut or counted]",
    ),
    models_dir: Path | None = typer.Option(None, help="Folder that holds model folders."),
    out: Path | None = typer.Option(
        None, "-o", "--out", help="File to write, .jsonl or .json. [default: only list them]"
    ),
    override: bool = typer.Option(
        False, "--override/--no-override", help="Replace the output file, or keep what is there."
    ),
    format: Format = FORMAT_OPTION,
) -> None:
    """List 20 prompts of technical English, 2k or 4k tokens long, and write them to a file."""
    from perfkit.study.prompt_sets import listed, read_prompt_set, write_prompts

    if out is not None and out.suffix not in WRITTEN:
        raise ConfigError(
            f"-o {out}: name it .jsonl or .json, which `perfkit run --prompts` reads."
        )
    kept = out is not None and out.exists() and not override
    prompts = listed(read_prompt_set(variant, limit), variant, model, models_dir)
    result(render(prompts.frame, format))
    story(prompts.told)
    run = ["perfkit", "run", model or "MODEL", "--prompts", str(out or "FILE")]
    if out is None:
        closing(None, f"perfkit prompts --variant {variant} -o prompts-{variant}.jsonl")
        return
    if kept:
        story(f"{out} is there already and was kept. Use --override to replace it.")
        closing(None, shlex.join(run))
        return
    write_prompts(prompts.frame, out)
    closing(out, shlex.join(run))


def render(frame: "pl.DataFrame", format: Format) -> str:
    """A line for each prompt; json and csv have the texts, too."""
    from perfkit.report.tables import Column
    from perfkit.report.tables import render as table

    counts = [Column(name=name, title=name, kind="integer") for name in ("words", "tokens")]
    names = [Column(name=name, title=name, kind="text") for name in ("id", "title")]
    return table(frame, [*names, *counts], format.value)
