"""Text without secrets, and without the names of home folders and of this checkout."""

import os
import re
from collections.abc import Sequence

from perfkit.paths import PACKAGE
from perfkit.secrets import HIDDEN, says_secret, without_secrets

# A value this short is no secret, and would be found everywhere.
SHORTEST_SECRET = 8
HOME = re.compile(r"(?<=/home/)[^/\s\"':]+|(?<=/Users/)[^/\s\"':]+|(?<=/root)(?=/)")


def clean(text: str, own: Sequence[str] | None = None) -> str:
    """Without secrets, without the names of home folders and of this checkout.

    `own` are this process's own secrets, where many texts are cleaned with them.
    """
    text = HOME.sub(HIDDEN, without_secrets(text).replace(f"{PACKAGE}/__main__.py", "perfkit"))
    for value in own_secrets() if own is None else own:
        text = text.replace(value, HIDDEN)
    return text


def own_secrets() -> list[str]:
    """Values of this process's variables whose names say that they are secret."""
    return [
        value
        for name, value in os.environ.items()
        if says_secret(name) and len(value) >= SHORTEST_SECRET
    ]
