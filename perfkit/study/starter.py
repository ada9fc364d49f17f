"""The commented study that `perfkit init` writes: analysis/starter.toml.j2 filled in."""

import re
from pathlib import Path
from typing import get_args

from jinja2 import Environment, StrictUndefined

from perfkit.errors import ConfigError
from perfkit.paths import find
from perfkit.predict.tensors import usable_degrees
from perfkit.study.model import load_model
from perfkit.study.schema import NAME
from perfkit.study.tables import Kind

TEMPLATE = "starter.toml.j2"
CONTEXTS = (128, 256, 512, 1024, 2048, 4096)
KINDS: tuple[str, ...] = get_args(Kind)
TITLES = {
    None: "What is measured, in one line",
    "strong-scaling": "The same work on more and more GPUs",
    "weak-scaling": "More work on more GPUs, the same for each",
    "batch": "Throughput and latency over the batch",
    "precision": "Data types and 8-bit weights",
    "context": "Time to the first token over the length of the prompt",
    "profiler-overhead": "What each profiler costs",
}


def starter(name: str, kind: str | None, model: str, models_dir: Path | None = None) -> str:
    """A study's text that is valid as it stands; ConfigError for a model that is not here."""
    spec = load_model(model, models_dir).spec
    template, schema = find("analysis", TEMPLATE), find("analysis", NAME)
    if template is None or schema is None:
        raise ConfigError(
            f"analysis/{TEMPLATE} or analysis/{NAME} was not found. Install perfkit again, or set "
            "PERFKIT_ANALYSIS_DIR to a folder that holds them.",
        )
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    text = environment.from_string(template.read_text(encoding="utf-8"))
    values = {"name": name, "kind": kind, "title": TITLES[kind], "model": model, "schema": schema}
    degrees = usable_degrees(spec)[:2]
    contexts = [tokens for tokens in CONTEXTS if tokens + 32 <= spec.max_positions]
    return text.render(values, degrees=degrees, contexts=contexts, experts=spec.num_experts)


def file_for(name: str) -> Path:
    """NAME.toml; ConfigError for a name that a folder of results could not have."""
    path = Path(name if name.endswith(".toml") else f"{name}.toml")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+ -]*", path.stem):
        raise ConfigError(
            f"{name!r} is no name for a study: it names files, folders and jobs. Use letters, "
            "digits, '-', '_' and '.'."
        )
    return path
