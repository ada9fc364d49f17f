"""What cannot be dispatched: one clear message, exit code 2, and nothing else is lost."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from talking_tiny import command, done, outputs, save_talking_tiny, write_prompts

from perfkit.dispatch.journal import Journal
from perfkit.dispatch.prompt_file import open_prompts
from perfkit.errors import ConfigError
from perfkit.schema import RunFolder, read_json, write_json

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_talking_tiny(tmp_path_factory.mktemp("models"))


def refused(model: Path, prompts: Path, out: Path, *options: str | int) -> str:
    """The message of a dispatch that is refused, without its prefix."""
    found = done(command(model, prompts, out, *options))
    assert (found.returncode, found.stdout) == (2, "")
    (message,) = found.stderr.splitlines()
    assert message.startswith("perfkit: ")
    return message.removeprefix("perfkit: ")


def test_a_prompt_file_that_is_not_there(model: Path, tmp_path: Path) -> None:
    message = refused(model, tmp_path / "none.jsonl", tmp_path / "out")
    assert message == f"{tmp_path}/none.jsonl does not exist. Check the path of the prompts."
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", "", "a.jsonl holds no prompts. Write at least one."),
        ("a.jsonl", "\n \n", "a.jsonl holds no prompts. Write at least one."),
        (
            "a.jsonl",
            '"one"\n{"text": " "}\n',
            'a.jsonl line 2 has no text under "text" or "prompt". Write some there.',
        ),
        (
            "a.jsonl",
            '"one"\n[1]\n',
            "a.jsonl line 2 is not a prompt: Expected `str | object`, got `array`. Write one "
            'object a line: {"text": "..."}.',
        ),
        (
            "a.txt",
            "one\n",
            "a.txt is not named .jsonl or .parquet. Write one JSON object a line, such as "
            '{"id": "a", "text": "..."}, or a parquet file with a column "text".',
        ),
        ("a.parquet", "no parquet", "a.parquet is no parquet file that polars reads: "),
    ],
)
def test_a_prompt_file_that_cannot_be_used(
    name: str, content: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError) as caught:
        open_prompts(tmp_path / name)
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(f"{tmp_path}/{expected}")


def test_no_cpu_workers_and_no_replicas(model: Path, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 2)
    for option in ("--cpu-workers", "--replicas"):
        found = done(command(model, prompts, tmp_path / "out", option, 0))
        assert found.returncode == 2
        assert f"Error: Invalid value for '{option}'" in found.stderr
        assert not (tmp_path / "out").exists()


def test_a_model_without_a_tokenizer(model: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(model, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    message = refused(bare, write_prompts(tmp_path / "p.jsonl", 2), tmp_path / "out")
    assert message == (
        f"{bare} has no tokenizer, so nothing can be tokenised. Copy the model's tokenizer files "
        "there."
    )


def test_a_model_that_is_no_folder_of_a_dispatch(tmp_path: Path) -> None:
    found = done([*command(tmp_path, tmp_path, tmp_path)[:4], str(tmp_path)])
    assert (found.returncode, found.stdout) == (2, "")
    assert f"{tmp_path} is not the folder of a dispatch" in found.stderr


@pytest.fixture
def begun(model: Path, tmp_path: Path) -> Callable[..., str]:
    """Says how a dispatch into a folder that was begun with two new tokens is refused."""
    prompts = write_prompts(tmp_path / "p.jsonl", 2)
    out = RunFolder(tmp_path / "out")
    from perfkit.dispatch.plan import Options, plan_dispatch
    from perfkit.dispatch.run import describe

    plan = plan_dispatch(
        Options(
            model=str(model),
            models_dir=None,
            prompts=prompts,
            out=out.root,
            force=False,
            command=(),
            cpu_workers=1,
            replicas=1,
            tp=1,
            pp=1,
            batch=1,
            new_tokens=2,
            stop_at_eos=False,
            dtype=None,
            load="safetensors",
            device="cpu",
            seed=0,
            window=1,
            queue=1,
        )
    )
    write_json(out.run_json, describe(plan, open_prompts(prompts), "before"))

    def refusal(*options: str | int) -> str:
        return refused(model, prompts, out.root, *options)

    return refusal


def test_going_on_with_other_options_or_prompts(begun: Callable[..., str], tmp_path: Path) -> None:
    write_prompts(tmp_path / "p.jsonl", 3)
    assert begun("--new-tokens", 3) == (
        f"{tmp_path}/out was begun with another new_tokens and prompts_sha256. Use the same "
        "options to go on, --force to begin again, or another folder with --out."
    )


def test_a_folder_that_another_dispatch_writes(begun: Callable[..., str], tmp_path: Path) -> None:
    other = Journal(RunFolder(tmp_path / "out"), 2)
    assert begun("--new-tokens", 2) == (
        f"another perfkit dispatch writes {tmp_path}/out now. Wait for its end, or give another "
        "folder with --out."
    )
    other.close()


def test_a_folder_of_another_command(model: Path, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 2)
    write_json(tmp_path / "out" / "run.json", {"task": "inference"})
    assert refused(model, prompts, tmp_path / "out") == (
        f"{tmp_path}/out is a run of another command. Use --force to replace it, or give another "
        "folder with --out."
    )


def test_a_prompt_that_is_longer_than_the_context_is_named_and_all_others_are_answered(
    model: Path, tmp_path: Path
) -> None:
    """The model has 256 positions; four are for new tokens."""
    prompts = write_prompts(tmp_path / "p.jsonl", 20)
    with prompts.open("a") as file:
        file.write(json.dumps({"id": "fits", "text": " ".join(["w1"] * 252)}) + "\n")
        file.write(json.dumps({"id": "long", "text": " ".join(["w1"] * 253)}) + "\n")
    arguments = command(model, prompts, tmp_path / "out", "--new-tokens", 4, "--batch", 4)
    found = done(arguments)
    expected = (
        "1 prompt(s) do not fit the model and have no answer: long (253 tokens; beside the new "
        "ones the model has room for 252). Shorten them or ask for fewer --new-tokens, with "
        "another --out; all others are answered."
    )
    assert found.returncode == 2, found.stderr
    assert found.stderr.splitlines()[-1] == f"perfkit: {expected}"
    by_id = {one["prompt_id"]: one for one in outputs(tmp_path / "out")}
    assert sum("token_ids" in one for one in by_id.values()) == 21
    assert len(by_id["fits"]["token_ids"]) == 4
    assert "token_ids" not in by_id["long"]
    assert read_json(tmp_path / "out" / "run.json")["warnings"] == [expected]
    again = done(arguments)
    assert again.returncode == 2
    assert again.stderr.splitlines()[0] == "all 22 prompts are answered already"
    assert again.stderr.splitlines()[-1] == f"perfkit: {expected}"
