"""Stands between the collectors and a rank's program, and writes down how the program ended.

    python -m perfkit.collect.witness FOLDER -- CMD ...

Profilers hide it: perf stat ends with 0 when its program was killed by a signal. exit.json holds
the program's own pid, exit code or signal, and what the kernel counted for it (getrusage), which
is the last resort where perf and Slurm's accounting are missing. PERFKIT_SUPERVISOR is the pid of
the process that supervises the rank.
"""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perfkit.schema import write_surely

EXIT_FILE = "exit.json"
SUPERVISOR = "PERFKIT_SUPERVISOR"
PR_SET_PDEATHSIG = 1
NOT_STARTED = 127


def main() -> None:
    folder, separator, *command = sys.argv[1:]
    assert separator == "--"
    sys.exit(watch(Path(folder), command))


def die_with_parent() -> None:
    """A rank must not outlive who started it, even one killed with SIGKILL (Linux prctl)."""
    signal_when_parent_dies(signal.SIGKILL)


def signal_when_parent_dies(number: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)


def watch(folder: Path, command: Sequence[str]) -> int:
    """Run the command to its end; 128 + signal when a signal ended it, as shells have it.

    A profiler around the witness may end first (perf does at SIGTERM, and anybody may kill it): the
    program goes on then, as long as the supervisor of the rank lives.
    """
    # The whole process group gets these; the program decides, and we stay to see how it ends.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_ignored: None)
    signal.signal(signal.SIGHUP, lambda *_ignored: _end_orphan(process))
    process: subprocess.Popen[bytes] | None = None
    signal_when_parent_dies(signal.SIGHUP)
    started_ns = time.time_ns()
    try:
        # The progress pipe and whatever a profiler opened stay open for the program.
        process = subprocess.Popen(command, preexec_fn=die_with_parent, close_fds=False)
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        _write(folder, {"pid": None, "exit_code": NOT_STARTED, "signal": None})
        return NOT_STARTED
    mine = {"pid": process.pid, "witness": os.getpid()}
    _write(folder, {**mine, "exit_code": None, "signal": None})
    code = process.wait()
    _write(folder, {**mine, **_how(code), **_usage(started_ns)})
    return code if code >= 0 else 128 - code


def _end_orphan(process: subprocess.Popen[bytes] | None) -> None:
    """Something around this process has ended: end the program if that was the supervisor."""
    if process is not None and not alive(int(os.environ.get(SUPERVISOR, "0"))):
        process.kill()


def alive(pid: int) -> bool:
    """True while a process of this host runs; a zombie has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def _how(code: int) -> dict[str, int | None]:
    return {"exit_code": code if code >= 0 else None, "signal": -code if code < 0 else None}


def _usage(started_ns: int) -> dict[str, Any]:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "started_ns": started_ns,
        "ended_ns": time.time_ns(),
        "user_s": used.ru_utime,
        "system_s": used.ru_stime,
        "max_rss_bytes": used.ru_maxrss * 1024,
        "voluntary_switches": used.ru_nvcsw,
        "involuntary_switches": used.ru_nivcsw,
        "cores": len(os.sched_getaffinity(0)),
    }


def _write(folder: Path, content: dict[str, Any]) -> None:
    """A full disk must not change how the rank ends."""
    write_surely(folder / EXIT_FILE, content)


if __name__ == "__main__":
    main()
