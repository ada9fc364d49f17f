"""`perfkit baseline`: the answers of a hosted model, to compare runs with."""

import os
from pathlib import Path
from urllib.parse import urlsplit

import typer

from perfkit.cli.output import closing, result, story

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def command(
    endpoint: str = typer.Option(
        ..., metavar="URL", help="OpenAI-compatible address, e.g. https://HOST/v1."
    ),
    model: str = typer.Option(..., metavar="ID", help="The endpoint's name of the model."),
    prompts: Path = typer.Option(
        ...,
        help="Prompts: .txt (one a line), .jsonl or .json; or a run folder made with --logprobs, "
        "whose prompts are asked as token ids and whose tokens are scored where that is possible.",
    ),
    out: Path = typer.Option(..., "-o", "--out", metavar="FILE.parquet", help="The baseline."),
    api: str = typer.Option("completions", help="completions, or chat."),
    tokenizer: Path | None = typer.Option(
        None,
        help="Folder of the same model: token ids for an endpoint that tells only texts, and the "
        "chat template that `perfkit run` uses.",
    ),
    new_tokens: int = typer.Option(32, min=1, help="Tokens of each answer."),
    logprobs: int = typer.Option(
        20, min=0, help="Most likely tokens to ask for in each place; fewer where it refuses."
    ),
    key_env: str = typer.Option(
        "OPENAI_API_KEY", metavar="NAME", help="Environment variable that holds the key, if any."
    ),
    rate: float | None = typer.Option(
        None, min=0.001, help="Questions a minute, at most. [default: one after the other]"
    ),
    timeout: float = typer.Option(120.0, min=0.001, help="Seconds for one whole answer."),
    retries: int = typer.Option(5, min=0, help="Tries after one that failed."),
    force: bool = typer.Option(False, "--force", help="Replace the file, and begin again."),
) -> None:
    """Ask an endpoint every prompt once, greedily, and keep answers and log probabilities.

    Interrupted, it goes on where it stopped: type the same command again.
    """
    from perfkit.baseline.endpoint import Asking
    from perfkit.baseline.http import Client, Manners
    from perfkit.baseline.make import (
        Order,
        checked_endpoint,
        checked_key,
        make_baseline,
        prompts_of,
        summary,
    )
    from perfkit.baseline.store import Journal
    from perfkit.baseline.tokens import load_tokens
    from perfkit.errors import ConfigError, one_of
    from perfkit.files import check_free

    one_of("--api", api, ("completions", "chat"))
    if out.suffix != ".parquet":
        raise ConfigError(f"-o {out} is not named .parquet, by which a baseline is known.")
    check_free(out, force=force)
    address = checked_endpoint(endpoint)
    key = checked_key(key_env, os.environ.get(key_env))
    parts = urlsplit(address)
    if key and parts.scheme == "http" and parts.hostname not in LOOPBACK:
        story(f"warning: http to {parts.hostname}: the key travels unencrypted")
    tokens = load_tokens(tokenizer)
    order = Order(
        endpoint=address,
        asking=Asking(model=model, api=api, new_tokens=new_tokens, logprobs=logprobs),
        prompts=prompts_of(prompts, api, tokens),
        prompts_from=str(prompts),
    )
    if force:
        Journal(out).drop()
    manners = Manners(timeout_s=timeout, retries=retries, requests_per_minute=rate)
    rows = make_baseline(order, Client(address, key, manners, story), tokens, out, story)
    for line in summary(rows):
        story(line)
    result(str(out))
    whole = any(row["prompt_token_ids"] and row["token_ids"] for row in rows)
    closing(
        None,
        f"perfkit run MODEL --follow {out}" if whole else f"perfkit verify RUN --against {out}",
    )
