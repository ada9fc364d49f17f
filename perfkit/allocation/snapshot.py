"""Freezes what Slurm says of a project's use into one dated file, before it forgets.

sacct's history expires, and sshare and sinfo keep none: each text is kept as it was printed, with
the command that printed it. Names of users and of jobs are not asked for.
"""

import getpass
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perfkit.errors import ConfigError, PerfkitError, ToolMissing
from perfkit.files import check_free
from perfkit.schema import read_json, write_json

KIND = "allocation-snapshot"
FIELDS = (
    *("JobID", "JobIDRaw", "Account", "Partition", "QOS", "State", "Submit", "Eligible", "Start"),
    *("End", "Elapsed", "Timelimit", "NNodes", "NCPUS", "AllocTRES", "ConsumedEnergyRaw"),
)
SSHARE = "Account,RawShares,NormShares,RawUsage,EffectvUsage,FairShare"
SINFO = "%P|%a|%l|%D|%T"
TIMEOUT_S = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Whose jobs, in which window."""

    account: str | None
    user: str | None
    since: datetime
    until: datetime

    @property
    def whose(self) -> list[str]:
        """sacct's options; one's own jobs where nothing is said."""
        if self.account is not None:
            narrowed = ["--user", self.user] if self.user else ["--allusers"]
            return ["--accounts", self.account, *narrowed]
        return ["--user", self.user or getpass.getuser()]


def take(asked: Asked, now: datetime) -> dict[str, Any]:
    """The snapshot's document. ToolMissing without sacct; PerfkitError with what sacct said."""
    if shutil.which("sacct") is None:
        raise ToolMissing(
            "sacct is not on this machine. Take the snapshot on a login node of the cluster.",
        )
    commands = commands_of(asked)
    texts: dict[str, str] = {}
    not_taken: dict[str, str] = {}
    for name, command in commands.items():
        text, why = printed(command)
        if why is None:
            texts[name] = text
        elif name == "sacct":
            raise PerfkitError(f"`{' '.join(command)}` failed: {why}")
        else:
            not_taken[name] = why
    return {
        "kind": KIND,
        "taken_at": now.astimezone(UTC).isoformat(timespec="seconds"),
        "account": asked.account,
        "since": asked.since.astimezone(UTC).isoformat(timespec="seconds"),
        "until": asked.until.astimezone(UTC).isoformat(timespec="seconds"),
        "commands": commands,
        "texts": texts,
        "not_taken": not_taken,
    }


def commands_of(asked: Asked) -> dict[str, list[str]]:
    """What is run, by program."""
    window = [_local(asked.since), _local(asked.until)]
    sacct = ["sacct", "--parsable2", "--allocations", "--duplicates", *asked.whose]
    sacct += ["--starttime", window[0], "--endtime", window[1], "--format", ",".join(FIELDS)]
    account = ["--accounts", asked.account] if asked.account else []
    return {
        "sacct": sacct,
        "sshare": ["sshare", "--parsable2", *account, "--format", SSHARE],
        "sinfo": ["sinfo", "--noheader", "--format", SINFO],
    }


def printed(command: Sequence[str]) -> tuple[str, str | None]:
    """(stdout, None), or ("", why there is none)."""
    environment = {**os.environ, "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env=environment,
        )
    except FileNotFoundError:
        return "", f"{command[0]} is not here"
    except subprocess.TimeoutExpired:
        return "", f"no answer within {TIMEOUT_S} s"
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        return "", f"exit code {done.returncode}: {last[0]}"
    return done.stdout, None


def _local(time: datetime) -> str:
    """As sacct reads times: in the zone of the machine that it runs on."""
    return time.astimezone().strftime("%Y-%m-%dT%H:%M:%S")


def write_snapshot(document: Mapping[str, Any], path: Path, *, force: bool) -> Path:
    """The dated file; never over another one unless told."""
    check_free(path, force=force)
    try:
        write_json(path, document)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}. Give a file with -o.") from error
    return path


def default_name(document: Mapping[str, Any]) -> Path:
    """allocation-2026-11-23.json, with the account in it where one was named."""
    account = f"{document['account']}-" if document["account"] else ""
    return Path(f"allocation-{account}{document['taken_at'][:10]}.json")


def read_snapshot(path: Path) -> dict[str, Any]:
    """A snapshot's document; ConfigError for any other file."""
    document = read_json(path)
    if document.get("kind") != KIND or "sacct" not in document.get("texts", {}):
        raise ConfigError(
            f"{path} is no allocation snapshot. Take one with: perfkit allocation snapshot",
        )
    return document
