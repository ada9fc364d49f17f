"""Wall-clock limits as Slurm writes them: [D-]HH:MM:SS."""

import re
from datetime import time
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

PATTERN = re.compile(r"(?:(\d+)-)?(\d{1,2}):([0-5]\d):([0-5]\d)")
EXPECTED = "must be a time such as 00:30:00 or 1-12:00:00"

# Before the limit every task gets SIGTERM, so that perfkit and profilers write what they have.
FLUSH_S = 120


def parse_walltime(text: str) -> int:
    """Seconds: "1-12:00:00" is 129,600. ValueError for anything else."""
    matched = PATTERN.fullmatch(text)
    if matched is None:
        raise ValueError(EXPECTED)
    days, hours, minutes, seconds = (int(part or 0) for part in matched.groups())
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total < 60:
        raise ValueError("must be a minute or more: Slurm counts in minutes")
    return total


def format_walltime(seconds: int) -> str:
    """129600 -> 1-12:00:00; 1800 -> 00:30:00."""
    days, rest = divmod(seconds, 86_400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def flush_s(limit_s: int) -> int | None:
    """How long before the limit tasks are told: 120 s, a fifth of a short limit, or not at all.

    Slurm may send the signal up to 60 s early (sbatch manual, --signal), so a limit of a minute
    has no room for it.
    """
    return min(FLUSH_S, limit_s // 5) if limit_s >= 120 else None


def _as_text(value: Any) -> Any:
    """TOML has times of its own: 00:30:00 without quotes."""
    if not isinstance(value, (str, time)):
        raise ValueError(EXPECTED)
    return value.isoformat() if isinstance(value, time) else value


def _checked(text: str) -> str:
    parse_walltime(text)
    return text


WallTime = Annotated[
    str,
    BeforeValidator(_as_text),
    AfterValidator(_checked),
    Field(json_schema_extra={"pattern": f"^{PATTERN.pattern}$"}),
]
