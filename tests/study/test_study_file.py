"""Study files: what they become, and every mistake of a wrong one."""

from pathlib import Path

import pytest
from tiny_model import save_config

from perfkit.errors import ConfigError
from perfkit.study.file import load_study, study_names
from perfkit.study.walltime import flush_s, format_walltime, parse_walltime

GOOD = """
model = "llama-3.1-8b"

[job]
time_limit = 00:30:00
repeats = 2

[run]
prompts = "mine.txt"
batch = 4

[axes]
tp = [1, 2]
dtype = ["float16", "bfloat16"]
"""

WRONG = """
modle = "x"

[job]
time_limit = 5
repeats = 0

[run]
bathc = 4
batch = "8"
prompt_tokens = 10
prompts = "none.txt"

[axes]
tp = [1, 1]
pp = []
prompt_tokens = [1, 2]
microbatches = [1, -2]
"""


def written(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as found:
        load_study(written(folder, text))
    head, *lines = str(found.value).splitlines()
    assert head == f"{folder / 'mine.toml'} cannot be used:"
    return [line.strip() for line in lines]


def test_a_study_with_its_paths_and_times_resolved(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a prompt\n")
    study = load_study(written(tmp_path, GOOD))
    assert (study.name, study.model, study.time_limit_s, study.repeats) == (
        "mine",
        "llama-3.1-8b",
        1800,
        2,
    )
    assert study.run == {"batch": 4, "prompts": str(tmp_path / "mine.txt")}
    assert study.axes == {"tp": (1, 2), "dtype": ("float16", "bfloat16")}


def test_a_model_folder_is_relative_to_the_study(tmp_path: Path) -> None:
    save_config(tmp_path / "tiny")
    study = load_study(written(tmp_path, 'model = "tiny"\n[job]\ntime_limit = "01:00:00"\n'))
    assert study.model == str(tmp_path / "tiny")


def test_every_mistake_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    assert mistakes(tmp_path, WRONG) == [
        "model: is missing.",
        "[job] time_limit: must be a time such as 00:30:00 or 1-12:00:00, found 5.",
        "[job] repeats: must be greater than or equal to 1, found 0.",
        "[run] batch: must be an integer, found '8'.",
        "[run] bathc: not a key here. Did you mean batch?",
        "[axes] microbatches[1]: must be greater than or equal to 1, found -2.",
        "modle: not a key here. Did you mean model?",
        "[axes] prompt_tokens: is in [run], too. Give it once.",
        "[axes] tp: has a value twice: [1, 1].",
        "[axes] pp: has no values.",
        f"[run] prompts: there is no {tmp_path / 'none.txt'}.",
    ]


def test_an_unknown_model_is_a_mistake_among_others(tmp_path: Path) -> None:
    text = 'model = "llama-9"\n[job]\ntime_limit = "01:00:00"\nrepeats = -1\n'
    found = mistakes(tmp_path, text)
    assert found[0] == "[job] repeats: must be greater than or equal to 1, found -1."
    assert found[1].startswith("model: no model 'llama-9' on this machine.")


def test_the_shipped_studies_are_read() -> None:
    assert set(study_names()) >= {"demo-layouts", "scaling-70b"}
    for name in study_names():
        assert load_study(name).title


def test_an_unknown_study_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match=r"shipped studies: .*scaling-70b"):
        load_study("no-such-study")


@pytest.mark.parametrize(
    ("text", "seconds"), [("00:01:00", 60), ("00:30:00", 1800), ("1-12:00:00", 129_600)]
)
def test_wall_times_are_read_and_written_as_slurm_does(text: str, seconds: int) -> None:
    assert parse_walltime(text) == seconds
    assert format_walltime(seconds) == text


@pytest.mark.parametrize("text", ["30", "00:00:59", "1:2", "00:99:00", "an hour"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_walltime(text)


def test_tasks_are_told_before_the_limit_unless_there_is_no_room() -> None:
    assert [flush_s(limit) for limit in (60, 120, 300, 600, 86_400)] == [None, 24, 60, 120, 120]
