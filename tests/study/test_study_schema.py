"""The published JSON schema: up to date, and of one mind with the shipped studies and starters."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from perfkit.paths import find, listing
from perfkit.study.schema import NAME, schema_text
from perfkit.study.starter import KINDS, starter

STUDIES = {path.stem: path for path in listing("analysis", "*.toml")}


def published() -> Any:
    path = find("analysis", NAME)
    assert path is not None
    return json.loads(path.read_text())


def errors(text: str) -> list[str]:
    found = Draft202012Validator(published()).iter_errors(tomllib.loads(text))
    return sorted(f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found)


def test_the_published_schema_is_the_tables_own() -> None:
    path = find("analysis", NAME)
    assert path is not None
    again = "python -m perfkit.study.schema > analysis/study.schema.json"
    assert path.read_text() == schema_text(), f"accept with: {again}"


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(published())


@pytest.mark.parametrize("name", STUDIES)
def test_a_shipped_study_passes_and_names_the_schema(name: str) -> None:
    text = STUDIES[name].read_text()
    assert text.startswith(f"#:schema {NAME}\n")
    assert errors(text) == []


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_a_starter_passes(kind: str | None) -> None:
    assert errors(starter("mine", kind, "smollm2-135m-instruct")) == []


def test_what_is_wrong_is_wrong_for_the_schema_too() -> None:
    text = """
        modle = "x"
        kind = "strong"
        [job]
        time_limit = "soon"
        [run]
        batch = 0
        [axes]
        dtype = ["bf16"]
        tp = []
        [[points]]
        split = "16+14"
    """
    assert errors(text) == [
        ": 'model' is a required property",
        ": Additional properties are not allowed ('modle' was unexpected)",
        "axes.dtype.0: 'bf16' is not one of ['float32', 'bfloat16', 'float16']",
        "axes.tp: [] should be non-empty",
        "job.time_limit: 'soon' does not match "
        "'^(?:(\\\\d+)-)?(\\\\d{1,2}):([0-5]\\\\d):([0-5]\\\\d)$'",
        "kind: 'strong' is not one of ['strong-scaling', 'weak-scaling', 'batch', 'precision', "
        "'context', 'profiler-overhead']",
        "points.0.split: '16+14' does not match '^(balanced|\\\\d+(,\\\\d+)*)$'",
        "run.batch: 0 is less than the minimum of 1",
    ]


def test_every_key_is_described() -> None:
    tables = published()["$defs"]
    for table in ("JobTable", "RunTable", "AxesTable"):
        for key, value in tables[table]["properties"].items():
            assert value.get("description"), f"{table} {key}"


def test_the_schema_travels_with_the_noun_folder() -> None:
    path = find("analysis", NAME)
    assert path is not None
    wheel = Path(__file__).parents[2] / "pyproject.toml"
    folders = tomllib.loads(wheel.read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert path.parent.name in folders["force-include"]
