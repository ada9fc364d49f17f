"""Finds secrets in what is about to be written down: command lines, names, messages.

Standard library only. What looks like a secret is replaced, never shortened: a part is a hint.
"""

import re
from collections.abc import Sequence

HIDDEN = "[hidden]"

# The last part of an option's or variable's name that says its value is secret: --api-key,
# HF_TOKEN. Not --new-tokens, which is a number of tokens.
SECRET_NAMES = frozenset(
    ("key", "apikey", "token", "secret", "password", "passwd", "passphrase", "credentials", "auth")
)

# Forms that the services themselves document.
SECRET_VALUES = re.compile(
    r"\b(?:hf_\w{8,}"  # Hugging Face
    r"|sk-[\w-]{8,}"  # OpenAI, Anthropic
    r"|nvapi-[\w-]{8,}"  # NVIDIA
    r"|gh[opsu]_\w{8,}|github_pat_\w{8,}"  # GitHub
    r"|glpat-[\w-]{8,}"  # GitLab
    r"|xox[abps]-[\w-]{8,}"  # Slack
    r"|AKIA[0-9A-Z]{16}"  # AWS
    r"|eyJ[\w-]{8,}\.[\w-]+\.[\w-]+)"  # JSON web token
)
USER_IN_URL = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")


def without_secrets(text: str) -> str:
    """A text with everything that has the form of a known secret hidden."""
    return USER_IN_URL.sub(HIDDEN, SECRET_VALUES.sub(HIDDEN, text))


def without_secret_arguments(command: Sequence[str]) -> list[str]:
    """A command line without the values of `--api-key VALUE`, `--token=VALUE`, `HF_TOKEN=VALUE`."""
    shown: list[str] = []
    hide_next = False
    for word in command:
        name, equals, value = word.partition("=")
        if hide_next and not word.startswith("-"):
            shown.append(HIDDEN)
        elif value and says_secret(name):
            shown.append(f"{name}{equals}{HIDDEN}")
        else:
            shown.append(without_secrets(word))
        hide_next = word.startswith("-") and not equals and says_secret(word)
    return shown


def says_secret(name: str) -> bool:
    """True for the name of an option or variable that holds a secret."""
    return re.split(r"[-_.]", name.lower())[-1] in SECRET_NAMES
