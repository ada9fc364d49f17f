"""Prompts to left-padded microbatches, and tokens back to text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from perfkit.baseline.answers import followable, open_answers, prompt_sha256
from perfkit.collect.settings import RunSettings
from perfkit.engine.microbatch import MicroBatch, Stopping
from perfkit.engine.prompts import fit_token_ids, read_prompts, shipped_prompts
from perfkit.errors import ConfigError

DUMMY_TEXT_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Request:
    """The token ids of one prompt."""

    id: str
    ids: tuple[int, ...]


def load_tokenizer(folder: str | None) -> Any:
    """The model's own tokenizer, or None where there is only a model card."""
    if folder is None or not any(Path(folder).glob("tokenizer*")):
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def make_requests(settings: RunSettings, vocab: int, tokenizer: Any) -> list[Request]:
    """`batch` requests: prompts repeat when the batch is larger than the file."""
    if settings.follow is not None:
        followed = followable(open_answers(Path(settings.follow)))
        return [Request(one.prompt_id, one.prompt_token_ids or ()) for one, _fed in followed]
    if tokenizer is None:
        return _random_requests(settings, vocab)
    if settings.prompts is None:
        return _shipped_requests(settings, tokenizer)
    prompts = read_prompts(Path(settings.prompts))
    chosen = [prompts[index % len(prompts)] for index in range(settings.batch)]
    requests = [Request(p.id, tuple(chat_ids(tokenizer, p.text))) for p in chosen]
    return [_cut(request, settings.prompt_tokens) for request in requests]


def _shipped_requests(settings: RunSettings, tokenizer: Any) -> list[Request]:
    prompts = shipped_prompts()

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    start = start_ids(tokenizer)
    length = settings.prompt_tokens and settings.prompt_tokens - len(start)
    chosen = [index % len(prompts) for index in range(settings.batch)]
    texts = {index: fit_token_ids(tokenize, prompts, index, length) for index in set(chosen)}
    return [Request(prompts[index]["id"], (*start, *texts[index])) for index in chosen]


def start_ids(tokenizer: Any) -> tuple[int, ...]:
    """The token that this tokenizer puts before every text (BOS), when it does."""
    whole = tokenizer("a")["input_ids"]
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    return tuple(whole[: len(whole) - len(plain)])


def chat_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of one user message, through the chat template when the model has one."""
    if getattr(tokenizer, "chat_template", None):
        whole = chat_text(tokenizer, text)
        return list(tokenizer(whole, add_special_tokens=False)["input_ids"])
    return list(tokenizer(text)["input_ids"])


def chat_text(tokenizer: Any, text: str) -> str:
    """One user message through the chat template; the text itself where there is none."""
    if not getattr(tokenizer, "chat_template", None):
        return text
    message = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))


def _random_requests(settings: RunSettings, vocab: int) -> list[Request]:
    """Random ids where there is no tokenizer; their number is what a benchmark needs."""
    generator = torch.Generator().manual_seed(settings.seed)
    length = settings.prompt_tokens or DUMMY_TEXT_TOKENS
    ids = torch.randint(0, vocab, (settings.batch, length), generator=generator).tolist()
    return [Request(f"random-{index}", tuple(row)) for index, row in enumerate(ids)]


def _cut(request: Request, length: int | None) -> Request:
    """The last `length` tokens of a user's prompt; ConfigError when it has fewer."""
    if length is None:
        return request
    if len(request.ids) < length:
        raise ConfigError(
            f"prompt {request.id} has {len(request.ids)} tokens, --prompt-tokens asks for "
            f"{length}. Leave --prompt-tokens out to keep each prompt's own length.",
        )
    return Request(request.id, request.ids[-length:])


def make_microbatches(
    requests: Sequence[Request], count: int, new_tokens: int, pad: int, device: torch.device
) -> list[MicroBatch]:
    """Requests divided into `count` microbatches, as evenly as possible, padded on the left."""
    size, larger = divmod(len(requests), count)
    batches, start = [], 0
    for index in range(count):
        stop = start + size + (index < larger)
        batches.append(_microbatch(index, requests[start:stop], new_tokens, pad, device))
        start = stop
    return batches


def _microbatch(
    index: int, requests: Sequence[Request], new_tokens: int, pad: int, device: torch.device
) -> MicroBatch:
    lengths = [len(request.ids) for request in requests]
    longest = max(lengths)
    rows = [[pad] * (longest - len(r.ids)) + list(r.ids) for r in requests]
    ids = torch.tensor(rows, device=device)
    if min(lengths) == longest:
        return MicroBatch(index, ids, None, None, longest)
    mask = torch.ones(len(rows), longest + new_tokens, dtype=torch.int64)
    for row, length in enumerate(lengths):
        mask[row, : longest - length] = 0
    counts = torch.tensor(lengths)[:, None]
    return MicroBatch(index, ids, mask.to(device), counts.to(device), longest)


def stopping_rule(settings: RunSettings, config: Mapping[str, Any], tokenizer: Any) -> Stopping:
    """EOS and padding as Hugging Face generate takes them from the config."""
    eos = config.get("eos_token_id")
    eos_ids = [eos] if isinstance(eos, int) else list(eos or [])
    pad = config.get("pad_token_id")
    if pad is None:
        pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None:
        pad = eos_ids[0] if eos_ids else 0
    stop = frozenset(eos_ids) if settings.stop_at_eos else frozenset()
    return Stopping(settings.new_tokens, stop, pad)


def outputs(
    requests: Sequence[Request], batches: Sequence[MicroBatch], pad: int, tokenizer: Any
) -> list[dict[str, Any]]:
    """One record a request: prompt id, token ids padded to the longest, text."""
    columns = [column for b in batches for column in zip(*b.tokens, strict=True)]
    longest = max((len(column) for column in columns), default=0)
    records = []
    for request, column in zip(requests, columns, strict=True):
        ids = list(column) + [pad] * (longest - len(column))
        text = tokenizer.decode(ids, skip_special_tokens=True) if tokenizer is not None else None
        records.append(
            {
                "prompt_id": request.id,
                "prompt_tokens": len(request.ids),
                "prompt_sha256": prompt_sha256(request.ids),
                "token_ids": ids,
                "text": text,
            }
        )
    return records
