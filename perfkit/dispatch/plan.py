"""Everything about a dispatch that can be wrong is found here, before anything is written."""

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.collect.facts import gpu_facts
from perfkit.collect.plan import check_packages, check_tokens, check_weights, resolve_device
from perfkit.collect.settings import LOADS, RunSettings
from perfkit.engine.models import LocalModel, find_model
from perfkit.errors import ConfigError, ToolMissing, one_of
from perfkit.predict.spec import ModelSpec, spec_from_config
from perfkit.predict.tensors import check_layout

SAME_ANSWERS = ("model_id", "tp", "pp", "new_tokens", "stop_at_eos", "dtype", "load", "seed")
"""settings that a dispatch which goes on must share with the parts before"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user asked for, as the command line has it."""

    model: str
    models_dir: Path | None
    prompts: Path
    out: Path
    force: bool
    command: tuple[str, ...]
    cpu_workers: int
    replicas: int
    tp: int
    pp: int
    batch: int
    new_tokens: int
    stop_at_eos: bool
    dtype: str | None
    load: str
    device: str | None
    seed: int
    window: int
    queue: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchPlan:
    """A dispatch that may start."""

    settings: RunSettings
    """of every replica; `prompts` is the file, `batch` the prompts of a batch"""
    model_config: Mapping[str, Any]
    positions: int
    """tokens that the model has room for"""
    folder: Path
    force: bool
    command: tuple[str, ...]
    cpu_workers: int
    replicas: int
    window: int
    """batches that are cut from one tokenised part of the file"""
    queue: int
    """batches that may wait for each replica"""

    @property
    def prompts(self) -> Path:
        assert self.settings.prompts is not None
        return Path(self.settings.prompts)

    @property
    def longest_prompt(self) -> int:
        return self.positions - self.settings.new_tokens

    @property
    def windows_under_way(self) -> int:
        """What keeps memory flat: windows that are prepared or answered at any moment.

        Two for each CPU worker, so that none waits for its next one, and what fills the queue of
        every replica.
        """
        return 2 * self.cpu_workers + self.replicas * max(1, -(-self.queue // self.window))


def plan_dispatch(options: Options) -> DispatchPlan:
    """Resolve and check what the user asked for; ConfigError says what to change."""
    check_worker(options)
    device, dtype = resolve_device(options.device, options.dtype)
    found, spec = check_model(options)
    settings = RunSettings(
        model_id=found.id,
        model_folder=str(found.folder and found.folder.resolve()),
        tp=options.tp,
        pp=options.pp,
        batch=options.batch,
        microbatches=min(options.pp, options.batch),
        new_tokens=options.new_tokens,
        stop_at_eos=options.stop_at_eos,
        dtype=dtype,
        load=options.load,
        sharding="autotp" if options.tp > 1 else "none",
        prompts=str(options.prompts.resolve()),
        device=device,
        seed=options.seed,
    )
    return DispatchPlan(
        settings=settings,
        model_config=found.config,
        positions=spec.max_positions,
        folder=options.out,
        force=options.force,
        command=options.command,
        cpu_workers=options.cpu_workers,
        replicas=options.replicas,
        window=options.window,
        queue=options.queue,
    )


def check_worker(options: Options) -> None:
    """What every task of a Slurm step needs on its own node."""
    check_distributed()
    check_packages(options.tp)


def check_model(options: Options) -> tuple[LocalModel, ModelSpec]:
    """The model, with everything that a dispatch needs of it; no torch is needed for that."""
    one_of("--load", options.load, LOADS)
    found = find_model(options.model, options.models_dir, weights=True)
    assert found.folder is not None
    spec = spec_from_config(found.config, model_id=found.id)
    check_tokens(spec, 1, options.new_tokens)
    check_layout(spec, tp=options.tp, pp=options.pp)
    if options.load == "safetensors":
        check_weights(found, spec)
    if not any(found.folder.glob("tokenizer*")):
        raise ConfigError(
            f"{found.folder} has no tokenizer, so nothing can be tokenised. Copy the model's "
            "tokenizer files there.",
        )
    return found, spec


def check_distributed() -> None:
    if importlib.util.find_spec("distributed") is None:
        raise ToolMissing(
            f"perfkit dispatch needs dask.distributed, which {sys.executable} cannot import: "
            "pip install 'perfkit[cluster]', on every node of the job.",
        )


def check_gpus(plan: DispatchPlan) -> None:
    """ConfigError when this machine has fewer GPUs than the replicas take."""
    if plan.settings.device != "cuda":
        return
    found, needed = len(gpu_facts()), plan.replicas * plan.settings.num_ranks
    if needed > found:
        raise ConfigError(
            f"--replicas {plan.replicas} with --tp {plan.settings.tp} --pp {plan.settings.pp} need "
            f"{needed} GPUs; this machine has {found}. Use fewer, a Slurm job (--system), or "
            "--device cpu.",
        )


def check_same(plan: DispatchPlan, record: Mapping[str, Any], prompts_sha256: str) -> None:
    """ConfigError when the folder was begun with something that gives other answers."""
    before = record["config"]
    now = {**plan.settings.as_dict(), "prompts_sha256": prompts_sha256}
    changed = [name for name in (*SAME_ANSWERS, "prompts_sha256") if before[name] != now[name]]
    if record["model"]["config"] != dict(plan.model_config):
        changed.append("config.json")
    if changed:
        raise ConfigError(
            f"{plan.folder} was begun with another {' and '.join(changed)}. Use the same options "
            "to go on, --force to begin again, or another folder with --out.",
        )
