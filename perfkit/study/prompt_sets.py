"""Twenty long prompts in two lengths, analysis/prompts.parquet: made here, and read again.

    python -m perfkit.study.prompt_sets     # makes the file again; needs the staged demo model

A prompt is numbered documents, the last of which its question is about: one of the 20 passages of
analysis/prompts.jsonl, behind others of these and of analysis/passages.jsonl. Which and in what
order follows from a hash of the names, so that two prompts share few documents and no beginning;
4k is 2k with more documents in front.

2k and 4k mean 2,048 and 4,096 tokens and a tenth more, by SmolLM2's tokenizer, in whole documents:
every tokenizer that makes up to a tenth fewer tokens of English can cut exactly 2,048 or 4,096.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perfkit.engine.models import find_model, staged_folder
from perfkit.engine.prompts import shipped_prompts
from perfkit.errors import ConfigError, one_of
from perfkit.files import write_text
from perfkit.paths import find
from perfkit.study.prompt_tokens import Count, counter_of, cut, plain_count

if TYPE_CHECKING:
    import polars as pl

VARIANTS = {"2k": 2048, "4k": 4096}
MARGIN = 1.1
REFERENCE = "smollm2-135m-instruct"
"""the model whose tokenizer counted `tokens`"""
FILE, PASSAGES = "prompts.parquet", "passages.jsonl"
SOURCE = "passages of analysis/prompts.jsonl and analysis/passages.jsonl, written for perfkit"
LICENCE = "Apache-2.0"


def read_prompt_set(variant: str, limit: int | None = None) -> "pl.DataFrame":
    """id, variant, title, text, words, tokens, source, licence of one variant, in order."""
    import polars as pl

    one_of("--variant", variant, VARIANTS)
    path = find("analysis", FILE)
    if path is None:
        raise ConfigError(
            f"analysis/{FILE} was not found. Install perfkit again, or set PERFKIT_ANALYSIS_DIR "
            "to a folder that holds it.",
        )
    frame = pl.read_parquet(path).filter(pl.col("variant") == variant)
    return frame if limit is None else frame.head(limit)


@dataclass(frozen=True, slots=True)
class Listed:
    """Prompts as they will be run, and how their tokens were counted."""

    frame: "pl.DataFrame"
    """id, variant, title, text, words, tokens (null: not counted), model (of the tokenizer)"""
    told: str


def listed(
    frame: "pl.DataFrame", variant: str, model: str | None, models_dir: Path | None = None
) -> Listed:
    """Prompts of one variant: whole, or cut to its tokens by the model's own tokenizer."""
    import polars as pl

    if model is None:
        unknown = {"tokens": pl.lit(None, pl.Int64), "model": pl.lit(None, pl.String)}
        told = (
            "Tokens are not counted, words are: tokens need a tokenizer, give --model. By "
            f"SmolLM2's these have {min(frame['tokens'])} to {max(frame['tokens'])}."
        )
        return Listed(frame.drop("source", "licence").with_columns(**unknown), told)
    found = find_model(model, models_dir, weights=True)
    assert found.folder is not None
    counter = counter_of(found.folder)
    parts = [cut(text, VARIANTS[variant], counter.count) for text in frame["text"]]
    short = sum(part.tokens != VARIANTS[variant] for part in parts)
    told = f"Cut at the front to {VARIANTS[variant]} tokens of {found.id}, by {counter.told}."
    if short:
        told += f" {short} prompt(s) have fewer: no cut gives that number."
    texts = pl.Series("text", [part.text for part in parts])
    return Listed(
        frame.drop("source", "licence").with_columns(
            texts,
            words=pl.Series([len(text.split()) for text in texts]),
            tokens=pl.Series([part.tokens for part in parts]),
            model=pl.lit(found.id),
        ),
        told,
    )


def write_prompts(frame: "pl.DataFrame", path: Path) -> None:
    """One object a line in .jsonl, one list in .json: what `perfkit run --prompts` reads."""
    rows = frame.to_dicts()
    if path.suffix == ".json":
        write_text(path, json.dumps(rows, indent=1) + "\n")
    else:
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def make_prompt_set(count: Count) -> "pl.DataFrame":
    """The whole file; `count` gives the tokens of a text by REFERENCE's tokenizer."""
    import polars as pl

    prompts, pool = shipped_prompts(), documents()
    rows = []
    for prompt in prompts:
        for variant, tokens in VARIANTS.items():
            text = assemble(prompt, pool, tokens, count)
            rows.append(
                {
                    "id": f"{prompt['id']}-{variant}",
                    "variant": variant,
                    "title": prompt["title"],
                    "text": text,
                    "words": len(text.split()),
                    "tokens": count(text),
                    "source": SOURCE,
                    "licence": LICENCE,
                }
            )
    return pl.DataFrame(rows)


def documents() -> list[dict[str, str]]:
    """Every passage that may stand in front of another's question."""
    path = find("analysis", PASSAGES)
    assert path is not None, "analysis/passages.jsonl is in the checkout"
    more = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [*shipped_prompts(), *more]


def assemble(
    prompt: Mapping[str, str], pool: Sequence[Mapping[str, str]], tokens: int, count: Count
) -> str:
    """The fewest documents in front that give `tokens` and a tenth more; the question at the end.

    Documents are added at the front, so that a longer variant ends with the shorter one.
    """
    chosen = [prompt]
    background = in_front(prompt, pool)
    while count(text := written(chosen, prompt["question"])) < MARGIN * tokens:
        chosen.insert(0, next(background))
    return text


def in_front(
    prompt: Mapping[str, str], pool: Sequence[Mapping[str, str]]
) -> Iterator[Mapping[str, str]]:
    """The other documents in an order of this prompt's own: by the hash of both names."""

    def place(other: Mapping[str, str]) -> str:
        return hashlib.sha256(f"{prompt['id']} {other['id']}".encode()).hexdigest()

    return iter(sorted((one for one in pool if one["id"] != prompt["id"]), key=place))


def written(chosen: Sequence[Mapping[str, str]], question: str) -> str:
    """Numbered so that the last document is always 1: a longer prompt ends as a shorter one."""
    numbered = zip(range(len(chosen), 0, -1), chosen, strict=True)
    parts = [f"Document {n}: {one['title']}\n\n{one['passage']}" for n, one in numbered]
    return "\n\n".join([*parts, f"Question about document 1: {question}"])


def main() -> None:
    frame = make_prompt_set(plain_count(staged_folder(REFERENCE)))
    passages = find("analysis", PASSAGES)
    assert passages is not None, "analysis/passages.jsonl is in the checkout"
    target = passages.with_name(FILE)
    frame.write_parquet(target, compression="zstd", statistics=False)
    sys.stdout.write(f"{target}: {len(frame)} prompts\n")


if __name__ == "__main__":
    main()
