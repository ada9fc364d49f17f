"""Makes a readable export of an nsys report, which only nsys itself can read."""

import subprocess
from pathlib import Path

from perfkit.collect.collectors import find_program, read_collectors
from perfkit.errors import ConfigError

COLLECTOR = "nsys"
TIMEOUT_S = 3600
# NCCL's message sizes are in blobs, which versions with this option leave out unless it is given.
WITH_BLOBS = "--include-blobs=true"


def export_report(report: Path, folder: Path) -> Path:
    """The report as folder/NAME.sqlite; ConfigError when there is no nsys, or it cannot.

    nsys is looked for where the nsys collector looks.
    """
    program = find_program(read_collectors()[COLLECTOR].program)
    if program is None:
        raise ConfigError(
            f"{report} is a report of Nsight Systems, which only nsys can read, and no nsys was "
            f"found here. Where it is: `nsys export --type sqlite {report.name}`, then give the "
            ".sqlite file.",
        )
    target = folder / f"{report.stem}.sqlite"
    options = [WITH_BLOBS] if WITH_BLOBS.split("=")[0] in _help(program) else []
    command = [program, "export", "--type=sqlite", "--force-overwrite=true", *options]
    done = _run([*command, "-o", str(target), str(report)])
    if done.returncode or not target.is_file():
        words = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise ConfigError(
            f"{report} cannot be exported: `{' '.join(done.args)}` exited with {done.returncode}: "
            f"{' '.join(words)}. A report of a newer nsys needs that nsys.",
        )
    return target


def _help(program: str) -> str:
    return _run([program, "export", "--help"]).stdout


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"`{' '.join(command)}` failed: {error}") from error
