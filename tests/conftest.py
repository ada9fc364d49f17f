"""What every test shares."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Builders that several folders of tests use.
for folder in ("engine", "compare", "slurm", "submit"):
    sys.path.insert(0, str(Path(__file__).parent / folder))

from dev_cluster import Cluster, reason_to_skip, running_cluster  # noqa: E402


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One Slurm for the whole session."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    with running_cluster() as ours:
        yield ours


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that every node sees."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def tiny(shared: Path) -> Path:
    """A model of five small layers, for nodes to run."""
    from tiny import save_tiny

    return save_tiny("llama-untied", shared)
