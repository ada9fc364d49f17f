"""When does each stage of the pipeline work? Passes of the stages -> TTFT and the decode period.

M microbatches, p stages, T_s seconds of one pass of stage s on one microbatch
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PassTime:
    """One pass of one rank, in seconds."""

    device_s: float
    """arithmetic and memory traffic of its kernels"""
    host_s: float
    """dispatching them"""
    comm_s: float
    """all-reduces"""
    flops_bound_s: float
    """the part of device_s that arithmetic limits; memory limits the rest"""
    one_queue: bool
    """a CPU dispatches and computes in turn; a GPU's host runs ahead"""
    fixed_s: float = 0.0
    """once a pass, when nothing else runs: the chosen token to the host, the next launch"""
    wait_s: float = 0.0
    """the part of host_s in which the slowest of several hosts is awaited"""
    device_error_s: float = 0.0
    """standard deviation of device_s + comm_s: kernels' own, taken as independent"""
    host_spread: float = 0.0
    """standard deviation of log(predicted / measured) of host_s"""

    @property
    def total_s(self) -> float:
        """GPU: the slower of its two queues, host and device. CPU: all in turn."""
        queue = self.device_s + self.comm_s
        busy = queue + self.host_s if self.one_queue else max(queue, self.host_s)
        return busy + self.fixed_s

    @property
    def spread(self) -> float:
        """Standard deviation of log(predicted / measured) of total_s, without the model's own."""
        if not self.one_queue and self.host_s > self.device_s + self.comm_s:
            return self.host_spread
        return self.device_error_s / self.total_s

    @property
    def exposed_host_s(self) -> float:
        return self.total_s - self.device_s - self.comm_s

    @property
    def exposed_wait_s(self) -> float:
        """The part of exposed_host_s that this host waits for a slower one."""
        return min(self.exposed_host_s, self.wait_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A phase of the pipeline: passes of every rank, and what they add up to."""

    ranks: tuple[tuple[PassTime, ...], ...]
    """[stage][tp rank]"""
    microbatches: int
    hops_s: float
    """activations through all stages, waiting for nothing: the sum of p - 1 hops"""
    return_s: float = 0.0
    """the chosen token back to the first stage"""

    @property
    def stage_s(self) -> list[float]:
        """T_s: the slowest tensor-parallel rank of each stage; the others wait for it."""
        return [max(rank.total_s for rank in stage) for stage in self.ranks]

    @property
    def slowest(self) -> PassTime:
        return max((rank for stage in self.ranks for rank in stage), key=lambda rank: rank.total_s)

    @property
    def fill_s(self) -> float:
        """sum_s T_s + (M - 1) max_s T_s + (p - 1) hops: the last microbatch leaves the pipe."""
        return sum(self.stage_s) + (self.microbatches - 1) * max(self.stage_s) + self.hops_s

    @property
    def period_s(self) -> float:
        """max(sum_s T_s + (p - 1) hops + return, M max_s T_s): a token of every sequence.

        With M = 1 one stage works at a time; from M >= p the slowest stage sets the pace.
        """
        round_trip = sum(self.stage_s) + self.hops_s + self.return_s
        return max(round_trip, self.microbatches * max(self.stage_s))

    @property
    def bubble(self) -> float:
        """Share of the period in which a mean stage has nothing to do: 1 - M mean(T_s) / period."""
        mean_s = sum(self.stage_s) / len(self.stage_s)
        return 1 - self.microbatches * mean_s / self.period_s

    @property
    def hop_s(self) -> float:
        """A mean one."""
        return self.hops_s / max(1, len(self.ranks) - 1)


def bottleneck(step: PassTime) -> str:
    """What limits a pass: compute, memory, host or comm; on a GPU the slower queue counts."""
    device_waits = not step.one_queue and step.host_s > step.device_s + step.comm_s
    if device_waits:
        return "host"
    parts = {
        "compute": step.flops_bound_s,
        "memory": step.device_s - step.flops_bound_s,
        "host": step.host_s if step.one_queue else 0.0,
        "comm": step.comm_s,
    }
    return max(parts, key=lambda name: parts[name])
