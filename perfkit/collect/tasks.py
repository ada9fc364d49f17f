"""What the ranks of a run execute: perfkit's own engine, or any program. Standard library only."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.collect.launch import Place, engine_environment, program_environment
from perfkit.collect.settings import RunSettings
from perfkit.secrets import without_secret_arguments

INTERPRETERS = ("python", "bash", "sh")


@dataclass(frozen=True, slots=True)
class EngineTask:
    """perfkit's engine: it times its own phases and opens the range that profilers record."""

    settings: RunSettings
    model_config: Mapping[str, Any]
    name: str = "inference"
    """inference, or calibration"""

    opens_range = True
    echoed = False

    @property
    def num_ranks(self) -> int:
        return self.settings.num_ranks

    @property
    def title(self) -> str:
        """For the name of the run folder."""
        return f"{self.settings.model_id}-tp{self.settings.tp}-pp{self.settings.pp}"

    @property
    def summary(self) -> str:
        """What will run, in one line."""
        s = self.settings
        return (
            f"{s.model_id}: TP {s.tp} x PP {s.pp} on {s.num_ranks} {s.device} rank(s), batch "
            f"{s.batch} in {s.microbatches} microbatch(es), {s.dtype}"
        )

    def record(self) -> dict[str, Any]:
        """Its part of run.json, which is also what every rank reads."""
        s = self.settings
        return {
            "config": s.as_dict(),
            "model": {"id": s.model_id, "config": dict(self.model_config)},
            "layout": [
                {"rank": rank, "pp_rank": rank // s.tp, "tp_rank": rank % s.tp}
                for rank in range(s.num_ranks)
            ],
        }

    def command(self, folder: Path) -> list[str]:
        return [sys.executable, "-m", "perfkit.engine.worker", str(folder)]

    def environment(
        self, place: Place, rank: int, master: tuple[str, int], environ: Mapping[str, str]
    ) -> dict[str, str]:
        found = engine_environment(place, rank, master, environ)
        # DeepSpeed would move its layers to whatever GPU it sees.
        return found if self.settings.device == "cuda" else {**found, "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True, slots=True)
class ProgramTask:
    """Any command line, once for each rank; perfkit knows nothing of what it does."""

    argv: tuple[str, ...]
    num_ranks: int

    name = "program"
    opens_range = False
    echoed = True

    @property
    def title(self) -> str:
        """The program's name, or the script's that an interpreter is given."""
        first, *rest = self.argv
        name = Path(first).name
        if name.rstrip("0123456789.") in INTERPRETERS and rest and not rest[0].startswith("-"):
            name = Path(rest[0]).stem
        return name

    @property
    def summary(self) -> str:
        return f"{' '.join(without_secret_arguments(self.argv))} on {self.num_ranks} rank(s)"

    def record(self) -> dict[str, Any]:
        return {
            "config": {"program": without_secret_arguments(self.argv)},
            "model": None,
            "layout": [{"rank": rank} for rank in range(self.num_ranks)],
        }

    def command(self, _folder: Path) -> list[str]:
        return list(self.argv)

    def environment(
        self, place: Place, rank: int, master: tuple[str, int], environ: Mapping[str, str]
    ) -> dict[str, str]:
        return program_environment(place, rank, master, environ)


Task = EngineTask | ProgramTask
