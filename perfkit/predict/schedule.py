"""When does each stage of the pipeline work? Passes of the stages -> TTFT and the decode period.

M microbatches, p stages, T_s seconds of one pass of stage s on one microbatch
"""

from dataclasses import dataclass, fields
from functools import cached_property, reduce

import numpy as np

from perfkit.predict.curves import Value

BOTTLENECKS = ("compute", "memory", "host", "comm")


@dataclass(frozen=True, kw_only=True, eq=False)
class PassTime:
    """One pass of one rank, in seconds: numbers, or arrays of them for many plans."""

    device_s: Value
    """arithmetic and memory traffic of its kernels"""
    host_s: Value
    """dispatching them"""
    comm_s: Value
    """all-reduces"""
    flops_bound_s: Value
    """the part of device_s that arithmetic limits; memory limits the rest"""
    one_queue: bool
    """a CPU dispatches and computes in turn; a GPU's host runs ahead"""
    fixed_s: Value = 0.0
    """once a pass, when nothing else runs: the chosen token to the host, the next launch"""
    wait_s: Value = 0.0
    """the part of host_s in which the slowest of several hosts is awaited"""
    device_error_s: Value = 0.0
    """standard deviation of device_s + comm_s: kernels' own, taken as independent"""
    host_spread: Value = 0.0
    """standard deviation of log(predicted / measured) of host_s"""

    @cached_property
    def host_bound(self) -> Value:
        """On a GPU, whether the device waits for its host."""
        return (not self.one_queue) & (self.host_s > self.device_s + self.comm_s)

    @cached_property
    def total_s(self) -> Value:
        """GPU: the slower of its two queues, host and device. CPU: all in turn."""
        queue = self.device_s + self.comm_s
        busy = queue + self.host_s if self.one_queue else np.maximum(queue, self.host_s)
        return busy + self.fixed_s

    @property
    def spread(self) -> Value:
        """Standard deviation of log(predicted / measured) of total_s, without the model's own."""
        own = self.device_error_s / self.total_s
        return np.where(self.host_bound, self.host_spread, own)

    @property
    def exposed_host_s(self) -> Value:
        return self.total_s - self.device_s - self.comm_s

    @property
    def exposed_wait_s(self) -> Value:
        """The part of exposed_host_s that this host waits for a slower one."""
        return np.minimum(self.exposed_host_s, self.wait_s)


def slower(one: PassTime, other: PassTime) -> PassTime:
    """The slower of two, plan by plan."""
    if one is other:
        return one
    later = other.total_s > one.total_s
    values = {
        field.name: np.where(later, getattr(other, field.name), getattr(one, field.name))
        for field in fields(PassTime)
        if field.name != "one_queue"
    }
    return PassTime(**values, one_queue=one.one_queue)


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """A phase of the pipeline: passes of every rank, and what they add up to."""

    ranks: tuple[tuple[PassTime, ...], ...]
    """[stage][tp rank]"""
    microbatches: int
    hops_s: Value
    """activations through all stages, waiting for nothing: the sum of p - 1 hops"""
    return_s: Value = 0.0
    """the chosen token back to the first stage"""

    @cached_property
    def stage_s(self) -> list[Value]:
        """T_s: the slowest tensor-parallel rank of each stage; the others wait for it."""
        return [reduce(slower, stage).total_s for stage in self.ranks]

    @cached_property
    def slowest(self) -> PassTime:
        return reduce(slower, (rank for stage in self.ranks for rank in stage))

    @property
    def fill_s(self) -> Value:
        """sum_s T_s + (M - 1) max_s T_s + (p - 1) hops: the last microbatch leaves the pipe."""
        longest = reduce(np.maximum, self.stage_s)
        return sum(self.stage_s) + (self.microbatches - 1) * longest + self.hops_s

    @property
    def period_s(self) -> Value:
        """max(sum_s T_s + (p - 1) hops + return, M max_s T_s): a token of every sequence.

        With M = 1 one stage works at a time; from M >= p the slowest stage sets the pace.
        """
        round_trip = sum(self.stage_s) + self.hops_s + self.return_s
        return np.maximum(round_trip, self.microbatches * reduce(np.maximum, self.stage_s))

    @property
    def bubble(self) -> Value:
        """Share of the period in which a mean stage has nothing to do: 1 - M mean(T_s) / period."""
        mean_s = sum(self.stage_s) / len(self.stage_s)
        return 1 - self.microbatches * mean_s / self.period_s

    @property
    def hop_s(self) -> Value:
        """A mean one."""
        return self.hops_s / max(1, len(self.ranks) - 1)


def bottleneck(step: PassTime) -> Value:
    """What limits a pass: an index of BOTTLENECKS; on a GPU the slower queue counts."""
    parts = np.broadcast_arrays(
        step.flops_bound_s,
        step.device_s - step.flops_bound_s,
        step.host_s if step.one_queue else 0.0,
        step.comm_s,
    )
    return np.where(step.host_bound, BOTTLENECKS.index("host"), np.argmax(parts, axis=0))
