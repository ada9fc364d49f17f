"""Where `perfkit predict` puts the ranks: a system's nodes, the options', or a search's layouts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from perfkit.errors import ConfigError, one_of
from perfkit.predict.best import GOALS, layouts
from perfkit.predict.gpus import Gpu
from perfkit.predict.grid import numbers
from perfkit.predict.network import Network
from perfkit.predict.rates import Rates, rates_from_file, rates_from_gpu
from perfkit.predict.spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the ranks would be."""

    gpu: str | None = None
    gpus_per_node: int | None = None
    network: Network | None = None


def find_place(
    system: str | None, gpus_per_node: int | None, network: float | None, models_dir: Path | None
) -> Place:
    """A system's GPU, nodes and network, or those of the options."""
    if (gpus_per_node is None) != (network is None) and system is None:
        raise ConfigError("--gpus-per-node and --network belong together. Give both.")
    gpu, rate = None, None if network is None else 1e9 * network
    if system is not None:
        from perfkit.study.systems import load_system

        found = load_system(system, models_dir)
        gpu, gpus_per_node = found.gpu, gpus_per_node or found.gpus_per_node
        rate = rate or found.bytes_per_s_per_gpu
        if not gpu or not gpus_per_node:
            raise ConfigError(f"system {system!r} names no GPU that gpus.toml knows. Use --gpu.")
        if rate is None:
            raise ConfigError(f"no network bandwidth is known of {system!r}. Give --network GB/s.")
    if not gpus_per_node or rate is None:
        return Place(gpu=gpu)
    between = Network(gpus_per_node=gpus_per_node, bytes_per_s=rate)
    return Place(gpu=gpu, gpus_per_node=gpus_per_node, network=between)


def check_search(goal: str, gpus: int | None) -> None:
    one_of("--best", goal, GOALS)
    if gpus is None:
        raise ConfigError("--best searches the layouts of a number of GPUs. Give --gpus N.")


def find_shapes(
    spec: ModelSpec,
    tp: str | None,
    pp: str | None,
    nodes: str | None,
    place: Place,
    gpus: int | None,
) -> list[dict[str, list[int]]]:
    """The layouts asked for: tp x pp, whole nodes, or all of a number of GPUs."""
    if gpus is not None:
        return [{"tp": [t], "pp": [p]} for t, p in layouts(spec, gpus)]
    if nodes is None:
        return [{"tp": numbers(tp or "1", "--tp"), "pp": numbers(pp or "1", "--pp")}]
    if pp is not None:
        raise ConfigError("--nodes gives the number of stages: leave --pp out.")
    if place.gpus_per_node is None:
        raise ConfigError("--nodes needs --system NAME or --gpus-per-node N.")
    return list(node_shapes(numbers(nodes, "--nodes"), tp, place.gpus_per_node))


def node_shapes(
    nodes: list[int], tp: str | None, gpus_per_node: int
) -> Iterator[dict[str, list[int]]]:
    """tp x pp that use all GPUs of that many nodes; ConfigError where tp does not divide them."""
    for degree in numbers(tp, "--tp") if tp else [gpus_per_node]:
        for count in nodes:
            stages, rest = divmod(count * gpus_per_node, degree)
            if rest:
                raise ConfigError(
                    f"--tp {degree} does not divide the {count * gpus_per_node} GPUs of {count} "
                    f"nodes with {gpus_per_node} each. Use --tp {gpus_per_node}.",
                )
            yield {"tp": [degree], "pp": [stages]}


def find_rates(
    gpu: Gpu | None, calibration: Path | None, dtype: str | None, models_dir: Path | None
) -> Rates:
    if calibration is not None:
        return rates_from_file(calibration, dtype, models_dir)
    if gpu is None:
        raise ConfigError("no rates. Give --gpu ID for peak rates or --calibration FILE.")
    return rates_from_gpu(gpu, dtype or "bfloat16", models_dir)


def known(option: str, text: str, allowed: Sequence[str]) -> list[str]:
    """The words of a list; ConfigError for one that is not allowed."""
    words = [word.strip() for word in text.split(",")]
    for word in words:
        one_of(option, word, allowed)
    return words
