"""Which collector records which rank, and what that does to the rank's command line."""

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.collect.collectors import Collector, Probed, fill, run_quietly
from perfkit.errors import ConfigError
from perfkit.schema import RunFolder

SETTLE_FIRST_WAIT_S, SETTLE_LONGEST_WAIT_S = 0.5, 8.0


@dataclass(frozen=True, slots=True)
class Wrapped:
    """One rank's command with its collectors around it."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    collectors: tuple[str, ...]


def ranks_of(collector: Collector, num_ranks: int, asked: str | None) -> set[int]:
    """The ranks that a collector records: --profile-ranks, else its own default."""
    if asked is not None and not (collector.builtin or collector.ranks == "all"):
        return parse_ranks(asked, num_ranks)
    if collector.ranks == "first":
        return {0}
    return {0, num_ranks - 1} if collector.ranks == "ends" else set(range(num_ranks))


def parse_ranks(text: str, num_ranks: int) -> set[int]:
    """ "all", "ends", or numbers such as "0,3"; ConfigError for a rank that does not exist."""
    if text == "all":
        return set(range(num_ranks))
    if text == "ends":
        return {0, num_ranks - 1}
    try:
        found = {int(part) for part in text.split(",")}
    except ValueError:
        raise ConfigError(f"--profile-ranks {text!r}: use all, ends, or 0,3.") from None
    if wrong := sorted(rank for rank in found if not 0 <= rank < num_ranks):
        raise ConfigError(f"--profile-ranks: there is no rank {wrong[0]} of {num_ranks}.")
    return found


def on_rank(probed: Sequence[Probed], rank: int, num_ranks: int, asked: str | None) -> list[Probed]:
    """The collectors that record one rank; one that excludes another comes first."""
    here = [
        p
        for p in probed
        if p.missing is None
        and p.collector.scope == "rank"
        and rank in ranks_of(p.collector, num_ranks, asked)
    ]
    excluded = {name for p in here for name in p.collector.excludes}
    return [p for p in here if p.collector.name not in excluded]


def wrap(
    command: Sequence[str],
    collectors: Sequence[Probed],
    folder: Path,
    scratch: Path,
    *,
    opens_range: bool = True,
) -> Wrapped:
    """The rank's command inside its collectors: the lowest `order` is outermost.

    `opens_range`: the program says what is to be recorded; otherwise all of it is.
    """
    line: list[str] = list(command)
    environment: dict[str, str] = {}
    for probed in sorted(collectors, key=lambda p: p.collector.order, reverse=True):
        values = placeholders(probed, folder, scratch)
        if not opens_range:
            values["items"] = [i for i in probed.items if i not in probed.collector.range_items]
        line = [*fill(probed.collector.wrap, values), *line]
        texts = probed.collector.environment.items()
        environment |= {key: fill([value], values)[0] for key, value in texts}
    names = tuple(probed.collector.name for probed in collectors)
    return Wrapped(tuple(line), environment, names)


def placeholders(probed: Probed, folder: Path, scratch: Path) -> dict[str, str | Sequence[str]]:
    """What a collector's file may name: its program, folders, what probed well, the job."""
    return {
        "program": probed.program or "",
        "folder": str(folder),
        "scratch": str(scratch),
        "items": probed.items,
    }


def after(collectors: Sequence[Probed], folder: Path, scratch: Path) -> dict[str, str]:
    """Run what each collector asks for once its rank has ended; collector -> what went wrong."""
    problems: dict[str, str] = {}
    for probed in collectors:
        name = probed.collector.name
        for step in probed.collector.after:
            problem = run_step(step, placeholders(probed, folder, scratch))
            if problem:
                problems.setdefault(name, problem)
    for name, problem in missing_products(collectors, folder).items():
        problems.setdefault(name, problem)
    return problems


def missing_products(collectors: Sequence[Probed], folder: Path) -> dict[str, str]:
    """collector -> which of its products is not there, or has nothing in it."""
    problems = {}
    for probed in collectors:
        missing = [name for name in probed.collector.products if not has_bytes(folder / name)]
        if missing:
            kept = [file for file in probed.collector.kept if (folder / file).is_file()]
            left = f"; {kept[0]} was kept and can be imported later" if kept else ""
            problems[probed.collector.name] = f"left no {missing[0]}{left}"
    return problems


def has_bytes(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def run_step(step: Mapping[str, Any], values: Mapping[str, str | Sequence[str]]) -> str | None:
    """One command after the end, its output to a file when it names one; None when it worked."""
    command = fill(with_optional(step, values), values)
    target = fill([step["stdout"]], values)[0] if "stdout" in step else None
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=step.get("timeout_s", 60),
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"`{' '.join(command)}` failed: {error}"
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        return f"`{' '.join(command)}` exited with {done.returncode}: {' '.join(words[-1:])}"
    if target:
        Path(target).write_bytes(done.stdout)
    return None


def with_optional(step: Mapping[str, Any], values: Mapping[str, str | Sequence[str]]) -> list[str]:
    """The step's command, "{optional}" replaced by those options that its `listed_by` lists."""
    command = list(step["command"])
    if "optional" not in step:
        return command
    listed = run_quietly(fill(step["listed_by"], values)) or ""
    works = [option for option in step["optional"] if option.split("=")[0] in listed]
    at = command.index("{optional}")
    return [*command[:at], *works, *command[at + 1 :]]


def settle(probed: Probed, folder: Path, job_id: str, within_s: float) -> tuple[bool, str | None]:
    """Ask a late source until two answers agree and nothing is still running.

    Returns (complete, problem). What was read last is kept in any case.
    """
    rules, collector = probed.collector.settle, probed.collector
    folder.mkdir(parents=True, exist_ok=True)
    values = {**placeholders(probed, folder, folder), "job_id": job_id}
    target = Path(fill([rules["stdout"]], values)[0])
    deadline, wait_s, previous = time.monotonic() + within_s, SETTLE_FIRST_WAIT_S, None
    while True:
        problem = run_step({"command": rules["command"], "stdout": rules["stdout"]}, values)
        text = target.read_text(errors="replace") if problem is None else None
        if text is not None and text == previous and settled(text, rules["until_without"]):
            return True, None
        if time.monotonic() + wait_s > deadline:
            return False, problem or f"{collector.name} had not settled: `perfkit collect` later"
        previous = text
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, SETTLE_LONGEST_WAIT_S)


def settled(text: str, unwanted: Sequence[str]) -> bool:
    """True when there are rows and none of them holds a word of a job that still runs."""
    rows = text.splitlines()[1:]
    return bool(rows) and not any(word in row for row in rows for word in unwanted)


@contextlib.contextmanager
def beside(collectors: Sequence[Probed], folder: RunFolder, host: str) -> Iterator[None]:
    """Samplers of the node that run as long as the ranks do."""
    with contextlib.ExitStack() as stack:
        for probed in collectors:
            stack.enter_context(_sampler(probed, folder.node(host)))
        yield


@contextlib.contextmanager
def _sampler(probed: Probed, folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    values = placeholders(probed, folder, folder)
    rules = probed.collector.beside
    with Path(fill([rules["stdout"]], values)[0]).open("wb") as output:
        process = subprocess.Popen(
            fill(rules["command"], values),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def scratch_folders(ranks: Sequence[int]) -> Iterator[dict[int, Path]]:
    """A folder of its own on a local disk for each rank's tools."""
    with contextlib.ExitStack() as stack:
        yield {
            rank: Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perfkit-")))
            for rank in ranks
        }
