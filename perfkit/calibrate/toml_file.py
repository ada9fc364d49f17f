"""A GPU's calibration as models/calibrations/GPU-DTYPE.toml: what `perfkit predict --gpu` reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfkit.errors import ConfigError, ToolMissing
from perfkit.predict.gpus import gpu_of_device

DIGITS = 4


def write_toml(document: Mapping[str, Any], versions: Mapping[str, str], path: Path) -> None:
    """ConfigError for a calibration without curves, or of a GPU that gpus.toml does not name."""
    if "curves" not in document:
        raise ConfigError(
            f"{path}: curves are measured on GPUs only. Give -o a name that ends in .json."
        )
    gpu = gpu_of_device([{"name": str(document["device_name"])}])
    if gpu is None:
        raise ConfigError(
            f"{path}: no GPU of gpus.toml has the name {document['device_name']!r}. Add it to the "
            "smi_names of a table there, in your own models folder.",
        )
    content = {
        "gpu": gpu,
        "dtype": document["dtype"],
        "date": document["date"],
        "versions": dict(versions),
        **document["curves"],
    }
    write_tables(content, path)


def write_tables(content: Mapping[str, Any], path: Path) -> None:
    """A file that predict/curve_files.py reads again; ToolMissing without tomli-w."""
    try:
        import tomli_w
    except ImportError as error:
        raise ToolMissing(
            f"writing {path} needs tomli-w. Install it: pip install 'perfkit[calibrate]'."
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps(rounded(content)), encoding="utf-8")


def rounded(value: Any) -> Any:
    """Floats to four significant digits: no fit knows more."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return value
