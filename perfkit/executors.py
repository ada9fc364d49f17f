"""Where the work on many files is done: in this process, on its cores, or on a dask cluster.

An executor keeps large results where they were made (`keep`) and brings small ones (`fetch`). Calls
take what `keep` returned in place of the result itself.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from perfkit import __version__
from perfkit.collect.facts import usable_cores
from perfkit.errors import ConfigError, ToolMissing

Rows = Sequence[tuple[Any, ...]]
WorthIt = Callable[[Callable[..., Any], tuple[Any, ...]], bool]


class Executor(Protocol):
    """Calls a function once for each row of arguments."""

    here: bool
    """what `keep` returns are the results themselves, in this process"""

    def keep(self, function: Callable[..., Any], rows: Rows) -> list[Any]:
        """Stand-ins for the results, which stay where they were made."""

    def fetch(self, function: Callable[..., Any], rows: Rows) -> list[Any]:
        """The results."""


class Here:
    """This process."""

    here = True

    def keep(self, function: Callable[..., Any], rows: Rows) -> list[Any]:
        return [function(*row) for row in rows]

    def fetch(self, function: Callable[..., Any], rows: Rows) -> list[Any]:
        # numpy and polars leave Python's lock while they work.
        with ThreadPoolExecutor(usable_cores()) as pool:
            return list(pool.map(lambda row: function(*row), rows))


class Cores(Here):
    """This process, and one more for each core where `worth_it` says of a call that it pays."""

    def __init__(self, worth_it: WorthIt) -> None:
        self.worth_it = worth_it

    def keep(self, function: Callable[..., Any], rows: Rows) -> list[Any]:
        others = [index for index, row in enumerate(rows) if self.worth_it(function, row)]
        cores = min(len(others), usable_cores())
        if cores < 2:
            return super().keep(function, rows)
        # A forked child of a process with polars' threads can hang: new ones are started.
        try:
            with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
                futures = {index: pool.submit(function, *rows[index]) for index in others}
                return [
                    futures[index].result() if index in futures else function(*row)
                    for index, row in enumerate(rows)
                ]
        except BrokenProcessPool:
            # One was killed, for its memory perhaps: one file after the other needs less.
            return super().keep(function, rows)


class Dask:
    """The workers of a dask.distributed scheduler that runs already."""

    here = False
    CONNECT_S, WORKERS_S = 10, 30

    def __init__(self, address: str) -> None:
        try:
            import distributed
        except ImportError as error:
            raise ToolMissing(
                "--executor needs dask.distributed: `pip install 'perfkit[cluster]'`, here and "
                "where the workers run."
            ) from error
        where = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
        try:
            self.client = distributed.Client(**where, timeout=self.CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"--executor {address}: no dask scheduler answers there within {self.CONNECT_S} s "
                f"({error}). Give tcp://HOST:PORT, or the file of `dask scheduler "
                "--scheduler-file`.",
            ) from error
        self._check_workers(address)

    def _check_workers(self, address: str) -> None:
        try:
            self.client.wait_for_workers(1, timeout=self.WORKERS_S)
        except TimeoutError as error:
            raise ConfigError(
                f"the scheduler at {address} has no worker after {self.WORKERS_S} s. Start some: "
                "`srun dask worker --scheduler-file FILE`.",
            ) from error
        for worker, found in self.client.run(_version, on_error="return").items():
            if found != __version__:
                raise ConfigError(
                    f"the dask worker at {worker} has {_said(found)}, this is {__version__}. Start "
                    "the workers from the environment that perfkit is installed in.",
                )

    def keep(self, function: Callable[..., Any], rows: Rows) -> list[Any]:
        return [self.client.submit(function, *row, pure=False) for row in rows]

    def fetch(self, function: Callable[..., Any], rows: Rows) -> list[Any]:
        import distributed

        try:
            results: list[Any] = self.client.gather(self.keep(function, rows))
        except distributed.KilledWorker as error:
            raise ConfigError(
                f"dask workers died again and again at the same file ({error}). Give them more "
                "memory (`dask worker --memory-limit`), or fewer files each.",
            ) from error
        return results


def _version() -> str:
    from perfkit import __version__ as here

    return here


def _said(found: Any) -> str:
    return f"perfkit {found}" if isinstance(found, str) else f"no perfkit ({found})"


def executor_for(address: str | None, worth_it: WorthIt) -> Executor:
    """The cluster at an address; else the cores of this machine."""
    return Dask(address) if address else Cores(worth_it)
