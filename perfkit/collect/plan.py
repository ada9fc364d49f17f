"""Everything about a run that can be wrong is found here, before anything is written."""

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.baseline.answers import DEFAULT_TOP, followable, open_answers
from perfkit.calibrate.store import device_name, folder_for
from perfkit.collect.collectors import AUTO, AUTO_OF_PROGRAMS, Collector, choose, read_collectors
from perfkit.collect.containers import gpu_hint
from perfkit.collect.facts import gpu_facts, host_facts
from perfkit.collect.launch import Place, find_place, num_tasks
from perfkit.collect.settings import (
    DECODES,
    DTYPES,
    LOADS,
    SHARDINGS,
    RunSettings,
    check_quantize,
)
from perfkit.collect.tasks import EngineTask, ProgramTask, Task
from perfkit.collect.wrapping import parse_ranks
from perfkit.engine.checkpoint import check_shapes, read_checkpoint
from perfkit.engine.models import LocalModel, find_model
from perfkit.engine.prompts import read_prompts
from perfkit.errors import ConfigError, ToolMissing, one_of
from perfkit.predict.spec import ModelSpec, spec_from_config
from perfkit.predict.tensors import balanced_layers, check_layout, tensors


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run that may start: what it executes, where, and what records it."""

    task: Task
    place: Place
    folder: Path
    force: bool
    command: tuple[str, ...]
    collectors: tuple[Collector, ...] = ()
    explicit: bool = False
    """the user named the collectors, so that a missing one is worth a warning"""
    profile_ranks: str | None = None


def plan_run(
    *,
    model: str,
    models_dir: Path | None,
    out: Path | None,
    force: bool,
    command: Sequence[str],
    tp: int,
    pp: int,
    split: str | None,
    batch: int,
    microbatches: int | None,
    dtype: str | None,
    load: str,
    prompts: Path | None,
    device: str | None,
    collect: str,
    profile_ranks: str | None,
    collectors_dir: Path | None,
    logprobs: int | None = None,
    follow: Path | None = None,
    **rest: Any,
) -> RunPlan:
    """Resolve and check what the user asked for; ConfigError says what to change."""
    check_sharding(rest["sharding"], tp)
    check_packages(tp, rest["sharding"])
    device, dtype = resolve_device(device, dtype)
    one_of("--load", load, LOADS)
    one_of("--decode", rest["decode"], DECODES)
    found = find_model(model, models_dir, weights=load == "safetensors")
    check_quantize(rest["quantize"], {"id": found.id, "config": found.config})
    spec = spec_from_config(found.config, model_id=found.id)
    counts = parse_split(split, spec, pp)
    check_layout(spec, tp=tp, pp=pp, split=counts)
    place = find_place(tp * pp, os.environ)
    if follow is not None:
        batch, rest["new_tokens"] = followed_size(follow, spec)
        logprobs = logprobs or DEFAULT_TOP
    check_logprobs(logprobs, spec)
    check_tokens(spec, rest["prompt_tokens"], rest["new_tokens"])
    if prompts is not None:
        read_prompts(prompts)
    if load == "safetensors":
        check_weights(found, spec)
    if device == "cuda":
        check_gpus(place)
    recorded = recording(collect, AUTO, collectors_dir, profile_ranks, place)
    settings = RunSettings(
        model_id=found.id,
        model_folder=str(found.folder.resolve()) if found.folder else None,
        tp=tp,
        pp=pp,
        split=counts,
        batch=batch,
        microbatches=resolve_microbatches(microbatches, batch, pp),
        dtype=dtype,
        load=load,
        prompts=str(prompts.resolve()) if prompts else None,
        device=device,
        logprobs=logprobs or 0,
        follow=str(follow.resolve()) if follow else None,
        **rest,
    )
    task = EngineTask(settings, found.config)
    return RunPlan(
        task, place, out or default_folder(task, place), force, tuple(command), **recorded
    )


def plan_program(
    *,
    argv: Sequence[str],
    num_ranks: int | None,
    out: Path | None,
    force: bool,
    command: Sequence[str],
    collect: str,
    profile_ranks: str | None,
    collectors_dir: Path | None,
) -> RunPlan:
    """Any program as a run: under srun one rank a task, else `num_ranks` processes here."""
    if shutil.which(argv[0]) is None:
        raise ConfigError(
            f"cannot run {argv[0]}: there is no such program on PATH, or it is not executable."
        )
    tasks = num_tasks(os.environ)
    if num_ranks is not None and tasks not in (1, num_ranks):
        raise ConfigError(f"srun started {tasks} tasks, each is a rank: leave --ranks out.")
    place = find_place(num_ranks or tasks, os.environ)
    recorded = recording(collect, AUTO_OF_PROGRAMS, collectors_dir, profile_ranks, place)
    if own := [collector.name for collector in recorded["collectors"] if collector.builtin]:
        raise ConfigError(
            f"--collect {own[0]}: only perfkit's own engine records it. For another program use "
            "nsys, or torch.profiler inside it, and give its files to `perfkit analyze`.",
        )
    task = ProgramTask(tuple(argv), place.num_ranks)
    return RunPlan(
        task, place, out or default_folder(task, place), force, tuple(command), **recorded
    )


def recording(
    collect: str,
    auto: Sequence[str],
    collectors_dir: Path | None,
    profile_ranks: str | None,
    place: Place,
) -> dict[str, Any]:
    """What a plan says of its collectors; ConfigError for one, or a rank, that does not exist."""
    collectors = choose(collect, read_collectors(collectors_dir), auto)
    if profile_ranks is not None:
        parse_ranks(profile_ranks, place.num_ranks)
    return {
        "collectors": collectors,
        "explicit": collect not in ("auto", "none"),
        "profile_ranks": profile_ranks,
    }


def plan_calibration(
    *, tp: int, pp: int, dtype: str | None, device: str | None, command: Sequence[str]
) -> RunPlan:
    """The microbenchmark as a run; its folder is where the calibration is kept."""
    check_packages(tp)
    device, dtype = resolve_device(device, dtype)
    place = find_place(tp * pp, os.environ)
    if device == "cuda":
        check_gpus(place)
    settings = RunSettings(
        model_id="microbenchmark",
        model_folder=None,
        tp=tp,
        pp=pp,
        dtype=dtype,
        load="dummy",
        device=device,
    )
    folder = folder_for(settings, device_name(device, host_facts()))
    return RunPlan(EngineTask(settings, {}, "calibration"), place, folder, True, tuple(command))


def check_sharding(sharding: str, tp: int) -> None:
    one_of("--sharding", sharding, SHARDINGS)
    if sharding == "none" and tp > 1:
        raise ConfigError(
            f"--sharding none with --tp {tp}: nothing would be divided. Use --tp 1, or autotp."
        )


def check_packages(tp: int, sharding: str = "autotp") -> None:
    """ToolMissing, before anything is written, when the engine cannot be imported here."""
    deepspeed = ["deepspeed"] if tp > 1 and sharding == "autotp" else []
    needed = ["torch", "transformers", "safetensors", *deepspeed]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ToolMissing(
            f"{' and '.join(missing)} cannot be imported by {sys.executable}. On a cluster load "
            "the module or container that has your torch; then: pip install 'perfkit[run]'",
        )


def resolve_device(device: str | None, dtype: str | None) -> tuple[str, str]:
    """A GPU where there is one, and the dtype that is usual there."""
    device = device or ("cuda" if gpu_facts() else "cpu")
    dtype = dtype or ("bfloat16" if device == "cuda" else "float32")
    one_of("--dtype", dtype, DTYPES)
    one_of("--device", device, ("cuda", "cpu"))
    return device, dtype


def parse_split(text: str | None, spec: ModelSpec, pp: int) -> tuple[int, ...] | None:
    """Layer counts; `balanced` are those that make all stages equally fast."""
    if text is None:
        return None
    if text == "balanced":
        return balanced_layers(spec, pp)
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--split {text!r} is neither balanced nor a list of layer counts such as 16,14."
        ) from None


def resolve_microbatches(asked: int | None, batch: int, pp: int) -> int:
    """As many as there are stages fill the pipeline; a batch cannot be cut finer than 1."""
    if asked is None:
        return min(pp, batch)
    if asked > batch:
        raise ConfigError(
            f"--microbatches {asked} is more than --batch {batch}. Use {batch} or fewer."
        )
    return asked


def check_tokens(spec: ModelSpec, prompt_tokens: int | None, new_tokens: int) -> None:
    asked = (prompt_tokens or 0) + new_tokens
    if asked > spec.max_positions:
        raise ConfigError(
            f"--prompt-tokens plus --new-tokens is {asked}, but {spec.id} has "
            f"{spec.max_positions} positions. Ask for fewer tokens.",
        )


def check_logprobs(logprobs: int | None, spec: ModelSpec) -> None:
    if logprobs is not None and logprobs > spec.vocab:
        raise ConfigError(
            f"--logprobs {logprobs}: {spec.id} has {spec.vocab} tokens. Ask for at most that."
        )


def followed_size(path: Path, spec: ModelSpec) -> tuple[int, int]:
    """Sequences and new tokens of the run that is followed; ConfigError if this model cannot."""
    pairs = followable(open_answers(path))
    longest = max(len(answer.prompt_token_ids or ()) for answer, _fed in pairs)
    new_tokens = max(len(fed) for _answer, fed in pairs)
    largest = max(max(*(answer.prompt_token_ids or (0,)), *fed) for answer, fed in pairs)
    if largest >= spec.vocab:
        raise ConfigError(
            f"{path} has token {largest}, but {spec.id} has {spec.vocab} tokens only: it is "
            "of a model with another tokenizer. Follow a run of the same model.",
        )
    check_tokens(spec, longest, new_tokens)
    return len(pairs), new_tokens


def check_weights(model: LocalModel, spec: ModelSpec) -> None:
    """Every tensor that config.json implies is on disk, whole, with the right shape."""
    assert model.folder is not None
    expected = [(tensor.name, tensor.shape) for tensor in tensors(spec)]
    check_shapes(read_checkpoint(model.folder), expected, model.folder)


def check_gpus(place: Place) -> None:
    found = len(gpu_facts())
    if not found:
        raise ConfigError(
            "--device cuda, but no GPU is visible here; nothing was loaded. "
            f"{gpu_hint(os.environ)}. Or use --device cpu.",
        )
    if place.whole and place.num_ranks > found:
        raise ConfigError(
            f"tp * pp = {place.num_ranks} ranks need as many GPUs; this machine has {found}. "
            "Use fewer ranks, more nodes under srun, or --device cpu.",
        )


def default_folder(task: Task, place: Place) -> Path:
    """runs/TITLE-TIME; under srun every rank must come to the same name."""
    stamp = place.launch_id if place.slurm else time.strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{task.title}-{stamp}"
