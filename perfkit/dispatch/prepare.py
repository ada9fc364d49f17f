"""What a CPU worker does: read prompts, tokenise them, put those of like length into one batch."""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from perfkit.dispatch.prompt_file import Asked, read


@dataclass(frozen=True, slots=True)
class Tokenised:
    """One prompt as the engine takes it."""

    index: int
    id: str
    ids: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Window:
    """Some prompts in batches, shortest first; how long that took, by this worker's clock."""

    number: int
    batches: tuple[tuple[Tokenised, ...], ...]
    refused: tuple[dict[str, Any], ...]
    """records of prompts that no batch can hold"""
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What every batch must be."""

    model_folder: str
    batch: int
    longest: int
    """tokens that a prompt may have: the model's positions less the new tokens"""


def num_batches(prompts: int, batch: int) -> int:
    """Batches of a window. Of a window with refused prompts some hold fewer, perhaps none."""
    return -(-prompts // batch)


def prepare(asked: Asked, wanted: Wanted, worker: str) -> Window:
    """Read, tokenise, sort by length and cut into batches."""
    tokenise = tokeniser(wanted.model_folder)
    start_ns = time.time_ns()
    prompts = list(read(asked))
    read_ns = time.time_ns()
    tokenised = [Tokenised(p.index, p.id, tokenise(p.text)) for p in prompts]
    fitting = [one for one in tokenised if len(one.ids) <= wanted.longest]
    batches = bucketed(fitting, num_batches(len(prompts), wanted.batch), wanted.batch)
    facts = {
        "window": asked.number,
        "worker": worker,
        "start_ns": start_ns,
        "read_ns": read_ns,
        "end_ns": time.time_ns(),
        "batches": len(batches),
        "prompts": len(prompts),
        "tokens": sum(len(one.ids) for one in tokenised),
    }
    refused = tuple(refusal(one, wanted) for one in tokenised if len(one.ids) > wanted.longest)
    return Window(asked.number, batches, refused, facts)


def bucketed(
    prompts: Sequence[Tokenised], count: int, batch: int
) -> tuple[tuple[Tokenised, ...], ...]:
    """`count` batches of neighbours in length: a batch is padded to its longest prompt."""
    ordered = sorted(prompts, key=lambda one: (len(one.ids), one.index))
    return tuple(tuple(ordered[i * batch : (i + 1) * batch]) for i in range(count))


def refusal(prompt: Tokenised, wanted: Wanted) -> dict[str, Any]:
    """The record of a prompt that is too long: it is answered with the reason."""
    return {
        "index": prompt.index,
        "prompt_id": prompt.id,
        "prompt_tokens": len(prompt.ids),
        "error": f"{len(prompt.ids)} tokens; beside the new ones the model has room for "
        f"{wanted.longest}",
    }


@functools.lru_cache(maxsize=1)
def tokeniser(model_folder: str) -> Any:
    """Text to ids, through the model's chat template where it has one; loaded once a process."""
    from perfkit.engine.batch import chat_ids, load_tokenizer

    tokenizer = load_tokenizer(model_folder)

    def tokenise(text: str) -> npt.NDArray[np.int32]:
        return np.array(chat_ids(tokenizer, text), dtype=np.int32)

    return tokenise
