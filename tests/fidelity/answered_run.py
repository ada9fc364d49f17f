"""Run folders with answers in them, as `perfkit run --logprobs` leaves them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perfkit.baseline.answers import prompt_sha256
from perfkit.schema import write_json

VOCABULARY = 10

Distribution = dict[int, float]
"""{token: probability}"""


def a_run(root: Path, answers: Sequence[dict[str, Any]], **config: Any) -> Path:
    """A run folder; `config` is what of run.json's differs."""
    settings = {
        "dtype": "bfloat16",
        "quantize": "none",
        "tp": 1,
        "pp": 1,
        "decode": "eager",
        "device": "cpu",
        **config,
    }
    root.mkdir()
    model = {"id": "small", "config": {"vocab_size": VOCABULARY}}
    write_json(root / "run.json", {"task": "inference", "config": settings, "model": model})
    (root / "outputs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in answers))
    return root


def an_answer(
    tokens: Sequence[int],
    given: Sequence[Distribution] | None = None,
    *,
    fed: Sequence[int] | None = None,
    prompt: Sequence[int] = (1, 2, 3),
    prompt_id: str = "p1",
) -> dict[str, Any]:
    """One line of outputs.jsonl: tokens chosen, and what was given to the tokens `fed`."""
    record: dict[str, Any] = {
        "prompt_id": prompt_id,
        "prompt_tokens": len(prompt),
        "prompt_sha256": prompt_sha256(tuple(prompt)),
        "token_ids": list(tokens),
        "text": " ".join(map(str, tokens)),
    }
    if given is None:
        return record
    path = list(tokens if fed is None else fed)
    tops = [sorted(one.items(), key=lambda pair: -pair[1]) for one in given]
    record["prompt_token_ids"] = list(prompt)
    record["scored"] = {
        "token_ids": path,
        "logprobs": [
            math.log(one.get(token, 1e-6)) for token, one in zip(path, given, strict=True)
        ],
        "top_ids": [[token for token, _ in top] for top in tops],
        "top_logprobs": [[math.log(p) for _, p in top] for top in tops],
    }
    return record
