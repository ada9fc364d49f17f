"""`perfkit run`: distributed inference, or any program, recorded in a run folder."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from perfkit.cli import run_study
from perfkit.cli.output import closing, result, story
from perfkit.errors import ConfigError

if TYPE_CHECKING:
    from perfkit.collect.plan import RunPlan

OF_THE_FOLLOWED = ("batch", "prompts", "prompt_tokens", "new_tokens", "stop_at_eos")
OF_ANY_PROGRAM = ("collect", "profile_ranks", "collectors_dir", "out", "force", "ranks")


class RunCommand(TyperCommand):
    """`perfkit run [OPTIONS] -- CMD...`: what follows the two dashes is a program, not a model."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ours, dashes, program = args, "", list[str]()
        if "--" in args:
            at = args.index("--")
            ours, dashes, program = args[:at], "--", args[at + 1 :]
        ctx.meta["program"] = program if dashes else None
        return super().parse_args(ctx, ours)


def command(
    context: typer.Context,
    model: str | None = typer.Argument(
        None,
        help="Model folder (config.json, tokenizer, *.safetensors), or the id of a staged one; "
        "STUDY, a .toml file or the name of a shipped one; or -- CMD... for any program.",
        show_default=False,
    ),
    tp: int = typer.Option(1, min=1, help="Tensor-parallel ranks in a stage (inside a node)."),
    pp: int = typer.Option(1, min=1, help="Pipeline stages (across nodes)."),
    split: str | None = typer.Option(
        None,
        help="Layers of each stage, e.g. 16,14, or balanced: the last stage, which also has the "
        "head, gets fewer. [default: as even as possible]",
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
    quantize: str = typer.Option(
        "none",
        help="int8 or fp8: linear layers of the decoder blocks with 8-bit weights (torchao); "
        "activations, embedding and head keep --dtype.",
    ),
    load: str = typer.Option(
        "safetensors", help="safetensors, or dummy for random weights without any file."
    ),
    sharding: str = typer.Option(
        "autotp", help="What cuts a stage between ranks: autotp (DeepSpeed), hf-tp, or none (tp 1)."
    ),
    decode: str = typer.Option(
        "eager", help="eager, or graph: each decode step replayed as one CUDA graph."
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
    logprobs: int | None = typer.Option(
        None,
        min=1,
        metavar="K",
        help="Keep each new token's log probability and the K most likely ones, from a pass after "
        "the timed ones: what `perfkit verify` compares. [default: none; 64 with --follow]",
    ),
    follow: Path | None = typer.Option(
        None,
        metavar="RUN",
        help="Take the prompts of this run (or baseline file), and score its tokens: both can then "
        "be compared in every place.",
    ),
    models_dir: Path | None = typer.Option(None, help="Folder that holds model folders."),
    ranks: int | None = typer.Option(
        None, min=1, help="Processes of -- CMD on this machine. [default: 1; under srun, its tasks]"
    ),
    out: Path | None = typer.Option(None, help="Run folder. [default: runs/MODEL-tpN-ppN-TIME]"),
    force: bool = typer.Option(False, "--force", help="Replace an existing run folder."),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Of a study: show the plan; run and write nothing."
    ),
    only: str | None = typer.Option(None, help="Of a study: only points that match, 'tp2-*'."),
    stale: bool = typer.Option(
        False, "--stale", help="Of a study: run finished points again that have changed."
    ),
    force_points: bool = typer.Option(
        False, "--force-points", help="Of a study: also points that do not fit by prediction."
    ),
) -> None:
    """Run distributed inference: timed passes, then a captured one, into a run folder.

    Under srun this process is one rank (tp * pp tasks); otherwise it starts every rank here.

    perfkit run [OPTIONS] -- CMD... does the same for any program: each rank inside its collectors,
    its exit code and the signals passed through, everything in a run folder.

    perfkit run STUDY runs the points of a study on this machine, one after another; run again, it
    goes on with what is not finished.
    """
    from perfkit.collect.plan import plan_program, plan_run

    program = context.meta["program"]
    study = model is not None and program is None and run_study.is_study(model, models_dir)
    run_study.check_options(given(context), study=study)
    if study:
        assert model is not None
        run_study.run_study(
            model,
            out=out,
            only=only,
            stale=stale,
            force_points=force_points,
            dry_run=dry_run,
            models_dir=models_dir,
        )
        return
    check_arguments(context, model, program, ranks)
    if program:
        execute_program(
            plan_program(
                argv=program,
                num_ranks=ranks,
                out=out,
                force=force,
                command=sys.argv,
                collect=collect,
                profile_ranks=profile_ranks,
                collectors_dir=collectors_dir,
            )
        )
    assert model is not None
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
        quantize=quantize,
        load=load,
        sharding=sharding,
        decode=decode,
        prompts=prompts,
        device=device,
        warmup_passes=warmup,
        timed_passes=repeats,
        collect=collect,
        profile_ranks=profile_ranks,
        collectors_dir=collectors_dir,
        seed=seed,
        logprobs=logprobs,
        follow=follow,
    )
    execute_model(plan)


def check_arguments(
    context: typer.Context, model: str | None, program: list[str] | None, ranks: int | None
) -> None:
    """ConfigError unless there is a model or a program, with the options that belong to it."""
    if program is None and model is None:
        raise ConfigError("give a model, `perfkit run MODEL`, or a program, `perfkit run -- CMD`.")
    if program is None:
        if ranks is not None:
            raise ConfigError(
                "--ranks belongs to `perfkit run -- CMD`; a model takes --tp and --pp."
            )
        check_follow(context)
        return
    if not program:
        raise ConfigError("there is no program after --. Use `perfkit run -- CMD ARGUMENTS`.")
    foreign = [name for name in given(context) if name not in OF_ANY_PROGRAM]
    if model is not None:
        raise ConfigError(f"both a model ({model}) and a program after --. Give one of them.")
    if foreign:
        raise ConfigError(
            f"--{foreign[0].replace('_', '-')} is an option of perfkit's own engine, not of "
            "`perfkit run -- CMD`. Put options of the program after its name."
        )


def given(context: typer.Context) -> list[str]:
    """Names of the options on the command line."""
    return [
        name
        for name in context.params
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]


def check_follow(context: typer.Context) -> None:
    """ConfigError for an option that says again, or otherwise, what --follow takes from a run."""
    twice = [name for name in given(context) if name in OF_THE_FOLLOWED]
    if context.params["follow"] is not None and twice:
        raise ConfigError(
            f"--{twice[0].replace('_', '-')} and --follow: prompts, their number and the tokens "
            "are those of the run that is followed. Leave one of the two out."
        )


def execute_model(plan: "RunPlan") -> None:
    """Run perfkit's engine; the run folder is the answer."""
    from perfkit.cli.progress import Progress
    from perfkit.collect.run import execute
    from perfkit.collect.verdict import tell

    if plan.place.first:
        story(f"{plan.task.summary} -> {plan.folder}")
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


def execute_program(plan: "RunPlan") -> None:
    """Run somebody's program: stdout is its own, and so is the exit code."""
    from perfkit.collect.run import execute
    from perfkit.collect.verdict import tell

    outcome = execute(plan, lambda _line: None)
    if plan.place.first:
        if outcome.exit_code:
            story(f"perfkit: {outcome.state}: {tell(outcome)}")
        closing(plan.folder, f"perfkit analyze {plan.folder}")
    raise typer.Exit(outcome.exit_code)
