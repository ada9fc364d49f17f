"""`perfkit run`: distributed inference, recorded in a run folder."""

import sys
from pathlib import Path

import typer

from perfkit.cli.output import closing, result, story


def command(
    model: str = typer.Argument(
        help="Model folder (config.json, tokenizer, *.safetensors), or the id of a staged one."
    ),
    tp: int = typer.Option(1, min=1, help="Tensor-parallel ranks in a stage (inside a node)."),
    pp: int = typer.Option(1, min=1, help="Pipeline stages (across nodes)."),
    split: str | None = typer.Option(
        None, help="Layers of each stage, e.g. 16,14. [default: as even as possible]"
    ),
    batch: int = typer.Option(1, min=1, help="Sequences in flight."),
    microbatches: int | None = typer.Option(
        None, min=1, help="Parts of the batch in the pipeline. [default: pp, or fewer]"
    ),
    prompt_tokens: int | None = typer.Option(
        None, min=1, help="Exact tokens of each prompt. [default: each prompt's own length]"
    ),
    new_tokens: int = typer.Option(32, min=1, help="Tokens to generate for each sequence."),
    stop_at_eos: bool = typer.Option(
        False, help="Let sequences end at EOS instead of running to --new-tokens."
    ),
    dtype: str | None = typer.Option(
        None, help="float32, bfloat16 or float16. [default: bfloat16 on GPUs, float32 on CPUs]"
    ),
    load: str = typer.Option(
        "safetensors", help="safetensors, or dummy for random weights without any file."
    ),
    prompts: Path | None = typer.Option(
        None, help="Prompts: .txt (one a line), .jsonl or .json. [default: the shipped 20]"
    ),
    device: str | None = typer.Option(
        None, help="cuda or cpu. [default: cuda where nvidia-smi shows a GPU]"
    ),
    warmup: int = typer.Option(1, min=1, help="Passes before any is timed."),
    repeats: int = typer.Option(3, min=1, help="Timed passes, with no collector recording."),
    collect: str = typer.Option(
        "auto",
        help="Collectors: auto, none, or a list such as nsys,perf-stat,sacct (see collectors/).",
    ),
    profile_ranks: str | None = typer.Option(
        None, help="Ranks under nsys or perf record: ends, all, or 0,3. [default: ends]"
    ),
    collectors_dir: Path | None = typer.Option(None, help="Your own collectors, read first."),
    seed: int = typer.Option(0, help="Seed of random weights and random prompts."),
    models_dir: Path | None = typer.Option(None, help="Folder that holds model folders."),
    out: Path | None = typer.Option(None, help="Run folder. [default: runs/MODEL-tpN-ppN-TIME]"),
    force: bool = typer.Option(False, "--force", help="Replace an existing run folder."),
) -> None:
    """Run distributed inference: timed passes, then a captured one, into a run folder.

    Under srun this process is one rank (tp * pp tasks); otherwise it starts every rank here.
    """
    from perfkit.cli.progress import Progress
    from perfkit.collect.plan import plan_run
    from perfkit.collect.run import execute, tell

    plan = plan_run(
        model=model,
        models_dir=models_dir,
        out=out,
        force=force,
        command=sys.argv,
        tp=tp,
        pp=pp,
        split=split,
        batch=batch,
        microbatches=microbatches,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        stop_at_eos=stop_at_eos,
        dtype=dtype,
        load=load,
        prompts=prompts,
        device=device,
        warmup_passes=warmup,
        timed_passes=repeats,
        collect=collect,
        profile_ranks=profile_ranks,
        collectors_dir=collectors_dir,
        seed=seed,
    )
    if plan.place.first:
        story(f"{plan.summary} -> {plan.folder}")
    progress = Progress()
    outcome = execute(plan, progress.show)
    progress.end()
    if not plan.place.first:
        raise typer.Exit(outcome.exit_code)
    if outcome.exit_code:
        story(f"perfkit: {outcome.state}: {tell(outcome)}")
        closing(plan.folder, f"perfkit analyze {plan.folder}")
        raise typer.Exit(outcome.exit_code)
    result(str(plan.folder))
    closing(plan.folder, f"perfkit analyze {plan.folder}")
