"""How fast is the machine? Rates with the provenance of each, from a data sheet or measured.

A model of one value per kind of work: GEMM operations, bytes read from memory, one host dispatch,
and alpha + bytes / bandwidth for a collective.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from perfkit.errors import ConfigError
from perfkit.predict.curve_files import CurvesFile, curves_from_tables, find_curves, read_curves
from perfkit.predict.curves import (
    KERNELS,
    Curves,
    DecodeAttention,
    Gemm,
    PrefillAttention,
    Stream,
    Value,
    scaled_curves,
)
from perfkit.predict.gpus import Gpu, load_gpu
from perfkit.predict.network import Network
from perfkit.schema import read_json

SPEC, MICROBENCHMARK, ASSUMED = "spec", "microbenchmark", "assumed"

ASSUMED_DISPATCH_S = 14e-6
"""host time of one eager dispatch: Llama-3.1-8B shape, bf16, one H200, torch 2.11, transformers
5.17: 18 ms a decode step / (32 layers * 40 + 27) dispatches; another host differs"""
ASSUMED_ALL_REDUCE_S = 26e-6
"""an eager all-reduce call up to 4 MiB: 26-64 us on 2 x H200, NCCL 2.28.9; launch cost"""
ASSUMED_HOP_S = 165e-6
"""a step's way to the next stage, host included: 0.29 to 0.38 ms there and back on 2 x H200"""
ASSUMED_SPREAD = 0.2
"""of log(predicted / measured), where nothing was measured on the GPU"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """Rates of one rank while `active_ranks` ranks of the machine work at the same time."""

    active_ranks: int | None
    """None: holds for any number"""
    gemm_flops_per_s: float
    read_bytes_per_s: float
    dispatch_s: float
    attention_flops_per_s: float | None = None
    """prefill attention; the GEMM rate when None"""
    linear: tuple[tuple[int, float], ...] = ()
    """(m, seconds per weight value), as measured, by m; the roofline when empty"""
    curves: Curves | None = None
    """of a GPU's kernels; without them every kernel takes its roofline"""

    def gemm_s(self, rows: Value, weight_values: int, flops: Value, num_bytes: Value) -> Value:
        """Seconds of one GEMM: the measured curve over m where there is one, else the roofline.

        Between two measured m the time is interpolated in log m and log time; above the largest
        it grows with m, below the smallest it is that of the smallest (the weights are read).
        """
        if not self.linear:
            by_bytes = num_bytes / self.read_bytes_per_s
            return np.maximum(flops / self.gemm_flops_per_s, by_bytes)
        return weight_values * _on_curve(self.linear, rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A collective of one group: seconds = alpha_s + bytes / bytes_per_s."""

    alpha_s: float
    bytes_per_s: float

    def seconds(self, num_bytes: Value) -> Value:
        return self.alpha_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Everything that is known about one machine's speed in one dtype."""

    device: str
    """cpu (host and arithmetic are one) or cuda (two queues)"""
    name: str
    dtype: str
    compute: tuple[Compute, ...]
    all_reduce: Mapping[int, Link] = field(default_factory=dict)
    send_recv: Link | None = None
    link_bytes_per_s: float | None = None
    """data sheet: gives an all-reduce of any group by the ring formula"""
    provenance: Mapping[str, str] = field(default_factory=dict)
    network: Network | None = None
    """between nodes; None: every pair of ranks has the GPU's own link"""
    date: str = "unknown"
    """when it was measured"""
    held_in: tuple[str, ...] = ()
    """recorded runs that some of the numbers come from: no test of a prediction"""

    @property
    def summary(self) -> str:
        """The provenance of the arithmetic: spec or microbenchmark."""
        return self.provenance.get("gemm_flops_per_s", "unknown")

    def at(self, active_ranks: int) -> Compute:
        """Rates with that many ranks at work: the same count measured, or the next larger."""
        enough = [c for c in self.compute if (c.active_ranks or active_ranks) >= active_ranks]
        if not enough:
            measured = ", ".join(str(c.active_ranks) for c in self.compute)
            raise ConfigError(
                f"the calibration has no rates for {active_ranks} active ranks; it measured "
                f"{measured}. Calibrate with {active_ranks} ranks or more.",
            )
        return min(enough, key=lambda c: c.active_ranks or active_ranks)

    @property
    def curves(self) -> Curves | None:
        return self.compute[0].curves

    def all_reduce_s(self, group: int, num_bytes: Value) -> Value:
        """Seconds of one all-reduce of `num_bytes` in a group of ranks."""
        if group == 1:
            return 0.0
        if self.network and group > self.network.gpus_per_node:
            inside = replace(self, network=None).all_reduce_s
            return self.network.all_reduce_s(group, num_bytes, inside)
        measured = self.curves and self.curves.collectives.get(("all_reduce", group))
        if measured:
            return measured.seconds(num_bytes)
        return self._all_reduce_link(group).seconds(num_bytes)

    def send_recv_s(self, num_bytes: Value) -> Value:
        """Seconds from a stage's send to the next stage's receive."""
        if self.send_recv is None:
            raise ConfigError("the calibration has no send_recv. Calibrate with pp=2 or more.")
        return self.send_recv.seconds(num_bytes)

    def hops_s(self, tp: int, pp: int, num_bytes: Value) -> Value:
        """Seconds of all p - 1 hops of a message through the stages, one after the other."""
        inside_s = self.send_recv_s(num_bytes)
        if self.network is None:
            return (pp - 1) * inside_s
        between = self.network.hops_between_nodes(tp, pp)
        host_s = self.curves.hop_s or 0.0 if self.curves else 0.0
        over_s = host_s + self.network.message_s(num_bytes)
        return (pp - 1 - between) * inside_s + between * over_s

    def _all_reduce_link(self, group: int) -> Link:
        if self.link_bytes_per_s is not None:
            return ring_all_reduce(group, self.link_bytes_per_s)
        if group not in self.all_reduce:
            measured = ", ".join(map(str, sorted(self.all_reduce))) or "none"
            raise ConfigError(
                f"the calibration has no all_reduce for a group of {group}; measured groups: "
                f"{measured}. Calibrate with tp={group}.",
            )
        return self.all_reduce[group]


def ring_all_reduce(group: int, link_bytes_per_s: float) -> Link:
    """Ring: each rank moves 2 (t-1)/t of the data over its link, per direction.

    8 ranks at 450 GB/s: 257 GB/s of data. Leaves out NVLS and trees. Source: Thakur et al. 2005.
    """
    moved_per_byte = 2 * (group - 1) / group
    return Link(alpha_s=ASSUMED_ALL_REDUCE_S, bytes_per_s=link_bytes_per_s / moved_per_byte)


def rates_from_gpu(gpu: Gpu, dtype: str, models_dir: Path | None = None) -> Rates:
    """The GPU's measured curves where somebody measured them, else its data sheet's peaks times
    what Hopper GPUs reach of theirs; latencies are assumed then, and all of it is marked so."""
    return rates_from_curves(gpu, dtype, find_curves(gpu.id, dtype, models_dir))


def rates_from_file(path: Path, dtype: str | None, models_dir: Path | None = None) -> Rates:
    """Rates of what `perfkit calibrate -o` wrote, calibration.json or GPU-DTYPE.toml; ConfigError
    for another dtype."""
    if path.suffix != ".toml":
        return rates_from_calibration(read_json(path), dtype)
    measured = read_curves(path)
    _same_dtype(measured.dtype, dtype)
    return rates_from_curves(load_gpu(measured.gpu, models_dir), measured.dtype, measured)


def rates_from_curves(gpu: Gpu, dtype: str, measured: CurvesFile | None) -> Rates:
    """The data sheet's rates under measured curves, or under assumed ones."""
    curves = measured.curves if measured else assumed_curves(gpu, dtype)
    compute = Compute(
        active_ranks=None,
        gemm_flops_per_s=gpu.flops_per_s(dtype),
        read_bytes_per_s=gpu.memory_bytes_per_s,
        dispatch_s=measured.dispatch_s if measured else ASSUMED_DISPATCH_S,
        curves=curves,
    )
    return Rates(
        device="cuda",
        name=gpu.id,
        dtype=dtype,
        compute=(compute,),
        send_recv=Link(alpha_s=curves.hop_s or 0.0, bytes_per_s=gpu.link_bytes_per_s),
        link_bytes_per_s=gpu.link_bytes_per_s,
        provenance={
            "gemm_flops_per_s": MICROBENCHMARK if measured else SPEC,
            "link_bytes_per_s": SPEC,
            **curves.provenance,
        },
        date=measured.date if measured else "unknown",
        held_in=measured.held_in if measured else (),
    )


def assumed_curves(gpu: Gpu, dtype: str) -> Curves:
    """Peaks times what H100 and H200 reach of theirs in bf16: 0.77 of the operations of a GEMM,
    0.62 of an attention, 0.91 to 0.95 of the memory; their latencies as they are.

    H200, Llama-3.1-8B, one token at batch 1: 4.2 ms, measured 4.3.
    """
    flops, bandwidth = gpu.flops_per_s(dtype), gpu.memory_bytes_per_s
    unmeasured = dict.fromkeys((*KERNELS, "host"), ASSUMED_SPREAD)
    return Curves(
        gemm=Gemm(
            flops_per_s=0.77 * flops, bytes_per_s=0.91 * bandwidth, start_s=3e-6, ramp_s=2e-6
        ),
        vector=Stream(bytes_per_s=0.93 * bandwidth, start_s=2.5e-6),
        decode_attention=DecodeAttention(
            bytes_per_s=0.95 * bandwidth, start_s=4.5e-6, head_s=1e-9, sharpness=0.65
        ),
        prefill_attention=PrefillAttention(
            flops_per_s=0.62 * flops, start_s=7e-6, ramp_tokens=440.0
        ),
        elementwise=Stream(bytes_per_s=0.95 * bandwidth, start_s=1.5e-6, sharpness=0.9),
        strided=Stream(bytes_per_s=0.4 * bandwidth, start_s=1.5e-6),
        hop_s=ASSUMED_HOP_S,
        return_s=ASSUMED_HOP_S,
        spread=unmeasured,
        provenance=dict.fromkeys((*KERNELS, "host", "steps", "all_reduce.alpha_s"), ASSUMED),
    )


def rates_from_calibration(document: Mapping[str, Any], dtype: str | None = None) -> Rates:
    """Measured rates of calibration.json; ConfigError for another dtype or a missing part."""
    measured = str(_need(document, "dtype"))
    _same_dtype(measured, dtype)
    source = str(document.get("source", MICROBENCHMARK))
    tables = document.get("curves")
    curves = curves_from_tables(tables) if tables else None
    dispatch_s = tables["host"]["dispatch_s"] if tables else None
    names = ("gemm_flops_per_s", "read_bytes_per_s", "dispatch_s", "all_reduce", "send_recv")
    send_recv = document.get("send_recv") or {}
    return Rates(
        device=str(_need(document, "device")),
        name=str(document.get("device_name", "calibration")),
        dtype=measured,
        compute=tuple(_compute(entry, curves, dispatch_s) for entry in _need(document, "compute")),
        all_reduce={int(k): _link(v) for k, v in (document.get("all_reduce") or {}).items()},
        # The smallest group that sends: two ranks, neighbours in the pipeline.
        send_recv=_link(send_recv[min(send_recv, key=int)]) if send_recv else None,
        provenance=dict.fromkeys(names, source),
        date=str(document.get("date", "unknown")),
    )


def _same_dtype(measured: str, asked: str | None) -> None:
    if asked is not None and asked != measured:
        raise ConfigError(
            f"the calibration is for {measured}, but {asked} was asked for. "
            f"Calibrate in {asked} or ask for {measured}.",
        )


def scaled(rates: Rates, factor: float) -> Rates:
    """Every rate times `factor`, every latency divided by it: all times divide by it."""
    return replace(
        rates,
        compute=tuple(_scaled_compute(entry, factor) for entry in rates.compute),
        all_reduce={k: _scaled_link(v, factor) for k, v in rates.all_reduce.items()},
        link_bytes_per_s=rates.link_bytes_per_s and rates.link_bytes_per_s * factor,
        network=rates.network and rates.network.scaled(factor),
        send_recv=_scaled_link(rates.send_recv, factor) if rates.send_recv else None,
    )


def _scaled_compute(entry: Compute, factor: float) -> Compute:
    attention = entry.attention_flops_per_s
    return replace(
        entry,
        gemm_flops_per_s=entry.gemm_flops_per_s * factor,
        read_bytes_per_s=entry.read_bytes_per_s * factor,
        dispatch_s=entry.dispatch_s / factor,
        attention_flops_per_s=None if attention is None else attention * factor,
        linear=tuple((m, seconds / factor) for m, seconds in entry.linear),
        curves=None if entry.curves is None else scaled_curves(entry.curves, factor),
    )


def _scaled_link(link: Link, factor: float) -> Link:
    return Link(alpha_s=link.alpha_s / factor, bytes_per_s=link.bytes_per_s * factor)


def _compute(entry: Mapping[str, Any], curves: Curves | None, dispatch_s: float | None) -> Compute:
    attention = entry.get("attention_flops_per_s")
    return Compute(
        active_ranks=int(_need(entry, "active_ranks")),
        gemm_flops_per_s=float(_need(entry, "gemm_flops_per_s")),
        read_bytes_per_s=float(_need(entry, "read_bytes_per_s")),
        dispatch_s=dispatch_s or float(_need(entry, "dispatch_s")),
        attention_flops_per_s=None if attention is None else float(attention),
        linear=tuple((int(m), float(s)) for m, s in entry.get("linear") or ()),
        curves=curves,
    )


def _link(entry: Mapping[str, Any]) -> Link:
    return Link(
        alpha_s=float(_need(entry, "alpha_s")), bytes_per_s=float(_need(entry, "bytes_per_s"))
    )


def _on_curve(curve: tuple[tuple[int, float], ...], rows: Value) -> Value:
    """Log-log interpolation of (m, seconds) at `rows`."""
    measured, seconds = np.log(np.array(curve)).T
    last = curve[-1][0]
    inside = np.exp(np.interp(np.log(rows), measured, seconds))
    return inside * np.maximum(1.0, rows / last)


def _need(mapping: Mapping[str, Any], key: str) -> Any:
    if mapping.get(key) is None:
        raise ConfigError(f"the calibration has no {key}. Calibrate again.")
    return mapping[key]
