"""A tiny model with a tokenizer of its own, prompts for it, and a dispatch of them as a process."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dev_cluster import outside_slurm, wait_until
from tiny import save_tiny

TIMEOUT_S = 180.0

VOCABULARY = ["[PAD]", "[BOS]", "[EOS]", "[UNK]", *(f"w{number}" for number in range(150))]


def save_talking_tiny(folder: Path, loops: int = 0) -> Path:
    """llama-untied, and one token for each of the words w0 to w149.

    With `loops` its chat template counts to 100,000 that many times: a tokenizer that is slow.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    model = save_tiny("llama-untied", folder)
    words = {word: number for number, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        unk_token="[UNK]",
    )
    if loops:
        count = "{% for n in range(100000) %}{% endfor %}"
        repeated = f"{{% for m in range({loops}) %}}{count}{{% endfor %}}"
        fast.chat_template = repeated + "{{ messages[0]['content'] }}"
    fast.save_pretrained(str(model))
    return model


def text_of(number: int) -> str:
    """From 1 to 12 words that no other of the first 100 prompts has in this order."""
    return " ".join(f"w{(number + step) % 150}" for step in range(1 + number % 12))


def write_prompts(path: Path, count: int) -> Path:
    lines = (json.dumps({"id": f"p{n}", "text": text_of(n)}) for n in range(count))
    path.write_text("".join(line + "\n" for line in lines))
    return path


def command(model: Path, prompts: Path, out: Path, *options: str | int) -> list[str]:
    words = ["dispatch", model, "--prompts", prompts, "--out", out, "--device", "cpu", *options]
    return [sys.executable, "-m", "perfkit", *map(str, words)]


@contextlib.contextmanager
def started(arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A dispatch that is ended with the test, whatever happens."""
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**outside_slurm(), "OMP_NUM_THREADS": "1"},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def done(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A dispatch to its end."""
    with started(arguments) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def outputs(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "outputs.jsonl").read_text().splitlines()]


def answers(folder: Path) -> list[tuple[str, list[int]]]:
    """(prompt id, new token ids) of every line, by place in the prompt file: one twice shows."""
    found = sorted((one["index"], one["prompt_id"], one["token_ids"]) for one in outputs(folder))
    return [(name, ids) for _, name, ids in found]


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    path = folder / "dispatch.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [one for line in lines if (one := json.loads(line))["kind"] == kind]


def pid_of(folder: Path, role: str) -> int:
    """Of the worker of this role that was born last."""
    return int([one for one in events(folder, "born") if one["role"] == role][-1]["pid"])


def wait_for_batches(folder: Path, count: int) -> None:
    """Until replicas have answered so many; they are at others then."""
    wait_until(lambda: len(events(folder, "batch")) >= count, f"{count} batches", TIMEOUT_S)


def figures(folder: Path) -> dict[str, Any]:
    """What `perfkit dispatch FOLDER --format json` prints."""
    arguments = [sys.executable, "-m", "perfkit", "dispatch", str(folder), "--format", "json"]
    printed = subprocess.run(arguments, capture_output=True, text=True, check=True)
    content: dict[str, Any] = json.loads(printed.stdout)
    return content
