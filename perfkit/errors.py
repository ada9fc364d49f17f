"""The errors perfkit raises on purpose. Each carries its exit code; only cli/main.py prints them.

    PerfkitError            1   the operation failed
    |-- ConfigError         2   the user asked for something that cannot be: also a ValueError
    |-- CheckFailed         3   a check or tolerance did not hold
    `-- ToolMissing         4   an external program is needed and absent

A message says what was wrong, what was found and where, and what to do.
"""

from collections.abc import Iterable


class PerfkitError(Exception):
    """An operation failed for a reason the user can act on."""

    exit_code = 1


class ConfigError(PerfkitError, ValueError):
    """A setting, argument or input file cannot be used."""

    exit_code = 2


class CheckFailed(PerfkitError):
    """Something that was asked to hold does not."""

    exit_code = 3


class ToolMissing(PerfkitError):
    """An external program or optional package is needed and absent."""

    exit_code = 4


def one_of(option: str, value: str, allowed: Iterable[str]) -> None:
    """ConfigError with the words that an option takes, unless the value is one of them."""
    words = list(allowed)
    if value not in words:
        raise ConfigError(f"{option} {value!r} is not known. Use {', '.join(words)}.")
