"""The errors perfkit raises on purpose. Each carries its exit code; only cli/main.py prints them.

    PerfkitError            1   the operation failed
    |-- ConfigError         2   the user asked for something that cannot be: also a ValueError
    |-- CheckFailed         3   a check or tolerance did not hold
    `-- ToolMissing         4   an external program is needed and absent

A message says what was wrong, what was found and where, and what to do.
"""


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
