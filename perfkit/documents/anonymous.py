"""Text for everybody's eyes: without the names of hosts, without the folders of a site.

Secrets and home folders are perfkit.publish.clean's; what is left here says where a run was.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from perfkit.documents.evidence import Evidence
from perfkit.schema import RunFolder

# An absolute path, or one below a home folder; its last part is kept.
FOLDERS = re.compile(r"(?<![\w.:/~-])~?/(?:[\w.+@%=-]+/)+([\w.+@%=-]+)")
OF_LAUNCH = ("supervisor", "launch_id", "master")
"""keys of run.json: who started the ranks, and the address where they met"""
OF_JOB = ("SLURM_JOB_NODELIST", "SLURM_CLUSTER_NAME")
EVERYBODY = ("localhost", "127.0.0.1")


def aliases(evidence: Evidence) -> dict[str, str]:
    """{name of a host: host1}, the same in all runs; longer names first."""
    names = {name for run in evidence.runs for name in _hosts(run.record)}
    for run in evidence.runs:
        names |= {folder.name for folder in RunFolder(run.path).root.glob("nodes/*")}
    numbered = {name: f"host{at}" for at, name in enumerate(sorted(names), start=1)}
    return dict(sorted(numbered.items(), key=lambda pair: -len(pair[0])))


def _hosts(record: Mapping[str, Any]) -> Iterator[str]:
    places = [record.get("hardware"), record.get("supervisor"), *(record.get("layout") or [])]
    for place in places:
        name = (place or {}).get("host")
        if name and name not in EVERYBODY:
            yield str(name)


def anonymous(text: str, names: Mapping[str, str]) -> str:
    """With each host under its alias, and of each path the last part."""
    for name, alias in names.items():
        text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", alias, text)
    return without_folders(text)


def without_folders(text: str) -> str:
    """/scratch/project/someone/run7 is run7."""
    return FOLDERS.sub(r"\1", text)


def of_nobody(record: Mapping[str, Any]) -> dict[str, Any]:
    """run.json without what only the one who ran it needs."""
    slurm = {key: value for key, value in (record.get("slurm") or {}).items() if key not in OF_JOB}
    kept = {key: value for key, value in record.items() if key not in OF_LAUNCH}
    return {**kept, "slurm": slurm}
