"""Prompts that are read where they are tokenised, and batches of like length."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from perfkit.dispatch.prepare import Tokenised, bucketed, num_batches
from perfkit.dispatch.prompt_file import Prompt, open_prompts, read


@pytest.fixture(params=["jsonl", "parquet"])
def prompts(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Four prompts, the second without an id."""
    path = tmp_path / f"prompts.{request.param}"
    rows = [("a", "one"), (None, "zwei \u00fc"), ("c", "three"), ("d", "four")]
    if request.param == "parquet":
        pl.DataFrame(rows, schema=["id", "text"], orient="row").write_parquet(path)
        return path
    lines = [json.dumps({"id": known, "prompt": text}) for known, text in rows]
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return path


def test_any_prompts_of_the_file_are_read_by_their_place(prompts: Path) -> None:
    known = open_prompts(prompts)
    assert known.count == 4
    assert list(read(known.asked(0, (1, 3)))) == [
        Prompt(1, "prompt-2", "zwei \u00fc"),
        Prompt(3, "d", "four"),
    ]


def test_a_window_is_cut_into_batches_of_like_length() -> None:
    lengths = [9, 1, 8, 2, 7]
    tokenised = [Tokenised(n, str(n), np.zeros(x, np.int32)) for n, x in enumerate(lengths)]
    batches = bucketed(tokenised, num_batches(5, 2), 2)
    assert [[len(one.ids) for one in batch] for batch in batches] == [[1, 2], [7, 8], [9]]


def test_batches_that_were_promised_are_there_also_when_prompts_were_refused() -> None:
    tokenised = [Tokenised(0, "0", np.zeros(3, np.int32))]
    assert [len(batch) for batch in bucketed(tokenised, num_batches(5, 2), 2)] == [1, 0, 0]
