"""A study knows every option of `perfkit run`, with the words that it takes."""

from typing import Any, get_args

import pytest
from typer.main import get_command

from perfkit.cli.main import app
from perfkit.cli.run_study import OF_A_STUDY, TAKEN
from perfkit.study import tables

NOT_IN_A_STUDY = {
    *("model", "models_dir", "out", "force", "ranks"),
    # takes prompts, batch and lengths from another run, so that there is nothing left to vary
    "follow",
    *OF_A_STUDY,
}
SAME_FOR_ALL = {
    *("prompts", "device", "warmup", "repeats", "profile_ranks", "collectors_dir", "logprobs"),
}
"""options that are no axis"""


def options() -> dict[str, Any]:
    """Every option of `perfkit run`, by name."""
    command = get_command(app).commands["run"]  # type: ignore[attr-defined]
    return {str(parameter.name): parameter for parameter in command.params}


def test_every_option_of_a_run_can_stand_in_a_study() -> None:
    assert set(tables.SETTINGS) == set(options()) - NOT_IN_A_STUDY


def test_options_stand_in_the_order_of_the_command() -> None:
    assert list(tables.SETTINGS) == [name for name in options() if name in tables.SETTINGS]


def test_every_option_but_a_few_can_be_an_axis() -> None:
    axes = set(tables.AxesTable.model_fields) - {tables.PER_GPU}
    assert axes == set(tables.SETTINGS) - SAME_FOR_ALL


def test_options_that_are_taken_with_a_study_exist() -> None:
    assert set(TAKEN) <= set(options())


@pytest.mark.parametrize("key", tables.WORDS)
def test_a_study_takes_the_words_that_a_run_takes(key: str) -> None:
    type_ = getattr(tables, key.capitalize())
    assert get_args(type_) == tables.WORDS[key]


@pytest.mark.parametrize("key", tables.DEFAULTS)
def test_a_forecast_knows_what_a_run_takes_by_itself(key: str) -> None:
    assert options()[key].default == tables.DEFAULTS[key]
