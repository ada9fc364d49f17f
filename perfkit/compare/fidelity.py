"""Does a run still answer as its baseline? The figures, from the tokens and log probabilities of
both.

The verdict over them: fidelity_gates.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from perfkit.baseline.answers import Answer, Answers, open_answers
from perfkit.compare.fidelity_gates import Judged, judge, read_gates
from perfkit.compare.fidelity_places import PLACES, divergence, places
from perfkit.compare.fidelity_sides import matched, remarks
from perfkit.errors import ConfigError
from perfkit.schema import RunFolder

DIVERGENCES = pl.Schema(
    {
        "prompt_id": pl.String,
        "place": pl.Int32,
        "baseline_token_id": pl.Int32,
        "run_token_id": pl.Int32,
        "margin_nats": pl.Float64,
        "margin_at_least": pl.Boolean,
        "in_each_others_top": pl.Boolean,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured; None where a side has no log probabilities, or nothing has parted."""

    prompts: int
    equal: int
    """prompts whose chosen tokens are all the same"""
    places: int
    """in which both sides were given the same tokens before"""
    new_tokens: int
    """of the baseline, in the prompts compared: as many places there could be"""
    not_numbers: int
    """places in which the run computed no number"""
    top1: float | None
    overlap: float | None
    kl_mean: float | None
    kl_p99: float | None
    truncated_kl_mean: float | None
    truncated_kl_p99: float | None
    covered_mean: float | None
    covered_min: float | None
    dlogp_mean: float | None
    margin_max: float | None
    """the largest margin at a first divergence"""
    outside_top: int | None
    """first divergences at which one side's token is not among the other's most likely"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """One run beside its baseline."""

    baseline: Answers
    run: Answers
    figures: Figures
    judged: Judged
    places: pl.DataFrame
    divergences: pl.DataFrame
    kl: str
    """which KL the figures hold: exact or at least"""
    vocabulary: int | None
    repeat: Path | None
    noise: Figures | None
    notes: tuple[str, ...]


def verify(run: Path, baseline: Path, repeat: Path | None = None) -> Fidelity:
    """Compare and judge; `repeat` is a run known to be good, whose distance is the noise."""
    reference, candidate = open_answers(baseline), open_answers(run)
    if candidate.kind != "run":
        raise ConfigError(
            f"{run} is a baseline, not a run. Give the run first: perfkit verify RUN --against "
            f"{run}",
        )
    pairs, notes = matched(reference, candidate)
    found, parted, figures = measured(pairs)
    noise = None
    if repeat is not None:
        good = open_answers(repeat)
        good_pairs, _notes = matched(reference, good)
        noise = measured(good_pairs)[2]
        check_noise(noise, repeat, baseline)
    vocabulary = _vocabulary(reference, candidate)
    exact = vocabulary is not None and min(reference.top, candidate.top) >= vocabulary
    return Fidelity(
        baseline=reference,
        run=candidate,
        figures=figures,
        judged=verdict(reference, candidate, figures, noise),
        places=found,
        divergences=parted,
        kl="exact" if exact else "at least",
        vocabulary=vocabulary,
        repeat=repeat,
        noise=noise,
        notes=(*notes, *remarks(reference, candidate, figures.places, figures.new_tokens)),
    )


def verdict(baseline: Answers, run: Answers, figures: Figures, noise: Figures | None) -> Judged:
    """healthy, suspicious or broken, and why."""
    good = None if noise is None else asdict(noise)
    return judge(read_gates(), precision(baseline, run), asdict(figures), good)


def precision(baseline: Answers, run: Answers) -> str:
    """The coarser of the two sides': float32, 16-bit or 8-bit; an endpoint's is not known."""
    sides = [_precision(side) for side in (baseline, run)]
    return max(sides, key=("float32", "16-bit", "8-bit").index)


def _precision(side: Answers) -> str:
    if side.kind == "endpoint":
        return "16-bit"
    if side.settings.get("quantize", "none") != "none":
        return "8-bit"
    return "float32" if side.settings["dtype"] == "float32" else "16-bit"


def _vocabulary(*sides: Answers) -> int | None:
    sizes = [side.vocabulary for side in sides]
    return next((size for size in sizes if size is not None), None)


def measured(
    pairs: Sequence[tuple[Answer, Answer]],
) -> tuple[pl.DataFrame, pl.DataFrame, Figures]:
    """PLACES, DIVERGENCES and the figures of the answers in pairs (baseline, run)."""
    check_tokens(pairs)
    rows = [row for pair in pairs for row in _places(*pair)]
    found = pl.DataFrame(rows, schema=PLACES)
    parted = pl.DataFrame([d for pair in pairs if (d := divergence(*pair))], schema=DIVERGENCES)
    equal = sum(_equal(*pair) for pair in pairs)
    return found, parted, _figures(pairs, equal, found, parted)


def check_tokens(pairs: Sequence[tuple[Answer, Answer]]) -> None:
    """ConfigError where a side has neither tokens nor text."""
    for baseline, run in pairs:
        if baseline.token_ids is None and (baseline.text is None or run.text is None):
            raise ConfigError(
                f"prompt {run.prompt_id}: one side has no token ids, the other no text. Make the "
                "baseline again with --tokenizer MODEL_FOLDER.",
            )


def _places(baseline: Answer, run: Answer) -> Iterator[dict[str, object]]:
    if baseline.scored is not None and run.scored is not None:
        yield from places(run.prompt_id, baseline.scored, run.scored)


def _equal(baseline: Answer, run: Answer) -> bool:
    """Over the tokens, or else the characters, that both have: one may have ended earlier."""
    one: Sequence[object] | None = baseline.token_ids
    other: Sequence[object] | None = run.token_ids
    if one is None or other is None:
        one, other = (baseline.text or "").strip(), (run.text or "").strip()
    length = min(len(one), len(other))
    return one[:length] == other[:length] and (length > 0 or not one == other == "")


def _figures(
    pairs: Sequence[tuple[Answer, Answer]], equal: int, found: pl.DataFrame, parted: pl.DataFrame
) -> Figures:
    def mean(name: str) -> float | None:
        return found[name].cast(pl.Float64).mean()  # type: ignore[return-value]

    def p99(name: str) -> float | None:
        return found[name].quantile(0.99, "linear")

    return Figures(
        prompts=len(pairs),
        equal=equal,
        places=found.height,
        new_tokens=sum(_length(baseline) for baseline, _run in pairs),
        not_numbers=found["kl_nats"].null_count(),
        top1=mean("same_top1"),
        overlap=mean("overlap"),
        kl_mean=mean("kl_nats"),
        kl_p99=p99("kl_nats"),
        truncated_kl_mean=mean("truncated_kl_nats"),
        truncated_kl_p99=p99("truncated_kl_nats"),
        covered_mean=mean("covered"),
        covered_min=found["covered"].min(),  # type: ignore[arg-type]
        dlogp_mean=mean("dlogp"),
        margin_max=parted["margin_nats"].max(),  # type: ignore[arg-type]
        outside_top=_outside(parted),
    )


def _length(baseline: Answer) -> int:
    if baseline.scored is not None:
        return len(baseline.scored.token_ids)
    return len(baseline.token_ids or ())


def _outside(parted: pl.DataFrame) -> int | None:
    known = parted["in_each_others_top"].drop_nulls()
    return None if known.is_empty() else int((~known).sum())


def check_noise(noise: Figures, repeat: Path, baseline: Path) -> None:
    """ConfigError when the repeat cannot tell how much good runs differ."""
    if noise.kl_mean is None or noise.places < noise.new_tokens:
        raise ConfigError(
            f"--repeat {repeat} was not scored on the baseline's tokens, so it tells no noise. "
            f"Make it again: perfkit run MODEL --follow {baseline} --out {repeat} --force",
        )


def write_places(fidelity: Fidelity) -> Path:
    """tables/fidelity_*.parquet in the run folder: every place, every divergence."""
    folder = RunFolder(fidelity.run.source).tables
    try:
        folder.mkdir(exist_ok=True)
        fidelity.places.write_parquet(folder / "fidelity_places.parquet")
        fidelity.divergences.write_parquet(folder / "fidelity_divergences.parquet")
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}.") from error
    return folder
