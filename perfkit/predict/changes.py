"""What if the machine were different? `--set nvlink=2x --set launch_us=0` on its rates."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from perfkit.errors import ConfigError
from perfkit.predict.curves import Collective, Curves, Regime
from perfkit.predict.network import Network
from perfkit.predict.rates import Compute, Rates

Change = Callable[[Rates, float], Rates]


def changed(rates: Rates, settings: Sequence[str]) -> Rates:
    """The rates with every NAME=VALUE applied; ConfigError lists the names.

    A value such as 2x multiplies the rate; launch_us, hop_us and latency_us are microseconds.
    """
    for setting in settings:
        name, _, value = setting.partition("=")
        if name in FACTORS:
            rates = FACTORS[name](rates, _factor(setting, value))
        elif name in MICROSECONDS:
            rates = MICROSECONDS[name](rates, 1e-6 * _number(setting, value))
        else:
            raise ConfigError(
                f"--set {setting}: {name!r} cannot be changed. Use {', '.join(FACTORS)} with a "
                f"factor such as 2x, or {', '.join(MICROSECONDS)} with a number.",
            )
    return rates


def _factor(setting: str, value: str) -> float:
    if not value.endswith("x"):
        raise ConfigError(f"--set {setting}: use a factor, such as 2x or 0.5x.")
    return _number(setting, value[:-1], zero=False)


def _number(setting: str, value: str, *, zero: bool = True) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if number < 0 or not (zero or number):
        raise ConfigError(
            f"--set {setting}: {value!r} is not a {'' if zero else 'positive '}number."
        )
    return number


def _of_curves(rates: Rates, change: Callable[[Curves], Curves]) -> Rates:
    entries = tuple(
        entry if entry.curves is None else replace(entry, curves=change(entry.curves))
        for entry in rates.compute
    )
    return replace(rates, compute=entries)


def _of_compute(rates: Rates, change: Callable[[Compute], Compute]) -> Rates:
    return replace(rates, compute=tuple(map(change, rates.compute)))


def _flops(rates: Rates, factor: float) -> Rates:
    def faster(curves: Curves) -> Curves:
        attention, grouped = curves.prefill_attention, curves.grouped
        return replace(
            curves,
            gemm=replace(curves.gemm, flops_per_s=curves.gemm.flops_per_s * factor),
            grouped=grouped and replace(grouped, flops_per_s=grouped.flops_per_s * factor),
            prefill_attention=replace(attention, flops_per_s=attention.flops_per_s * factor),
        )

    rates = _of_compute(
        rates, lambda one: replace(one, gemm_flops_per_s=one.gemm_flops_per_s * factor)
    )
    return _of_curves(rates, faster)


def _memory(rates: Rates, factor: float) -> Rates:
    def faster(curves: Curves) -> Curves:
        names = ("gemm", "vector", "decode_attention", "elementwise", "norm", "grouped")
        parts = {name: getattr(curves, name) for name in names if getattr(curves, name)}
        return replace(
            curves,
            **{n: replace(one, bytes_per_s=one.bytes_per_s * factor) for n, one in parts.items()},
        )

    rates = _of_compute(
        rates, lambda one: replace(one, read_bytes_per_s=one.read_bytes_per_s * factor)
    )
    return _of_curves(rates, faster)


def _nvlink(rates: Rates, factor: float) -> Rates:
    def faster(one: Collective) -> Collective:
        regimes = (Regime(r.start_s, r.bytes_per_s * factor) for r in one.regimes)
        return replace(one, regimes=tuple(regimes))

    links = {
        group: replace(link, bytes_per_s=link.bytes_per_s * factor)
        for group, link in rates.all_reduce.items()
    }
    send = rates.send_recv
    rates = replace(
        rates,
        all_reduce=links,
        send_recv=send and replace(send, bytes_per_s=send.bytes_per_s * factor),
        link_bytes_per_s=rates.link_bytes_per_s and rates.link_bytes_per_s * factor,
    )
    return _of_curves(
        rates,
        lambda curves: replace(
            curves, collectives={key: faster(one) for key, one in curves.collectives.items()}
        ),
    )


def _network(rates: Rates, factor: float) -> Rates:
    network = _need_network(rates, "network")
    return replace(rates, network=replace(network, bytes_per_s=network.bytes_per_s * factor))


def _latency(rates: Rates, seconds: float) -> Rates:
    return replace(rates, network=replace(_need_network(rates, "latency_us"), latency_s=seconds))


def _need_network(rates: Rates, name: str) -> Network:
    if rates.network is None:
        raise ConfigError(
            f"--set {name}: no network between nodes is known. Give --system NAME, or "
            "--gpus-per-node and --network.",
        )
    return rates.network


def _launch(rates: Rates, seconds: float) -> Rates:
    return _of_compute(rates, lambda one: replace(one, dispatch_s=seconds))


def _hop(rates: Rates, seconds: float) -> Rates:
    send = rates.send_recv
    rates = replace(rates, send_recv=send and replace(send, alpha_s=seconds))
    return _of_curves(rates, lambda curves: replace(curves, hop_s=seconds, return_s=seconds))


FACTORS: dict[str, Change] = {
    "flops": _flops,
    "memory": _memory,
    "nvlink": _nvlink,
    "network": _network,
}
MICROSECONDS: dict[str, Change] = {
    "launch_us": _launch,
    "hop_us": _hop,
    "latency_us": _latency,
}
