"""What if: replays the measured order of a step with some durations changed.

Every activity starts when its host has launched it, its stream is free, what it waited for on
another stream has ended, and then a small delay has passed:

    start = max(launch, end before it on the stream, end of its dependency) + delay
    end   = start + duration, of a matched collective: last entry of its ranks + transfer

The delays are measured, so replaying with nothing changed gives the measured times back. Two kinds
are told apart, for they replace each other when a change makes another constraint bind: the latency
of a launch, when the device waited for the host, and the gap between two activities, when the host
was ahead. A host goes from launch to launch in its measured time, and leaves a synchronising call
when what it waited for has ended.

Assumed: the order never changes; a dependency between streams is what had ended last before the
start, where neither launch nor stream explains it; hosts wait for each other only where it is known
that they do (HANDOVERS: the token ids of a pipeline).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import polars as pl

NEVER = -(1 << 62)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Factors on measured durations; 1 leaves them, 0 takes them away."""

    comm: float = 1.0
    """transfer of matched collectives, the whole duration of other communication"""
    launch: float = 1.0
    """the host's time from one launch to the next, and the latency of a launch"""
    copy: float = 1.0
    kernels: Mapping[str, float] = field(default_factory=dict)
    """by family (gemm, attention ...) or by a regular expression on the name"""

    def of(self, cls: str, family: str, name: str) -> float:
        """The factor of one activity."""
        for pattern, factor in self.kernels.items():
            if pattern == family or re.search(pattern, name):
                return factor
        return {"comm": self.comm, "copy": self.copy}.get(cls, 1.0)


@dataclass(slots=True)
class Node:
    """One activity of one rank's device, or one synchronising call of its host."""

    rank: int
    host: bool
    name: str
    cls: str
    launch_ns: int
    start_ns: int
    end_ns: int
    duration_ns: float
    stream_before: int = -1
    """index of the node before it on its stream; of a host call, of the host call before it"""
    dependency: int = -1
    delay_ns: int = 0
    waited_for_host: bool = False
    collective: tuple[Any, ...] | None = None
    transfer_ns: float = 0.0
    host_before: int = -1
    """index of the node whose launch, or the call whose end, came before on the host"""
    handover: int = -1
    """of a host that waits for another one: index of that one's sending"""

    @property
    def launched(self) -> bool:
        """False where nothing is known of a launch: on a CPU, say."""
        return self.launch_ns != NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a replay gives."""

    measured_ns: int
    replayed_ns: float
    path_ns: Mapping[str, float]
    """the critical path: ns by what was binding (compute, comm, copy, host, latency, gap, sync)"""
    path: Sequence[tuple[str, str, float]]
    """(what, name, ns) of the critical path, summed by name, the longest first"""

    @property
    def ratio(self) -> float:
        return self.replayed_ns / self.measured_ns if self.measured_ns else 1.0


def replay(
    activities: pl.DataFrame,
    waits: pl.DataFrame,
    syncs: pl.DataFrame,
    handovers: pl.DataFrame,
    change: Change,
) -> Replay:
    """Replay the activities of all ranks (ACTIVITIES, WAITS, SYNCS and HANDOVERS on one clock)."""
    nodes = nodes_of(activities, waits, syncs, handovers, change)
    if not nodes:
        return Replay(measured_ns=0, replayed_ns=0.0, path_ns={}, path=())
    starts, ends, why = _run(nodes, change)
    first = min(node.launch_ns if node.launched else node.start_ns for node in nodes)
    last = max(range(len(nodes)), key=ends.__getitem__)
    measured = max(node.end_ns for node in nodes) - first
    path = _critical_path(nodes, starts, ends, why, last, first)
    return Replay(
        measured_ns=measured,
        replayed_ns=ends[last] - first,
        path_ns=_by(path, 0),
        path=_longest(path),
    )


def nodes_of(
    activities: pl.DataFrame,
    waits: pl.DataFrame,
    syncs: pl.DataFrame,
    handovers: pl.DataFrame,
    change: Change,
) -> list[Node]:
    """Every node in the order of measured starts, with what it depends on."""
    keys = ["rank", "device", "start_ns", "end_ns", "group"]
    one = pl.struct("op", "group", "sequence").alias("collective")
    known = waits.select(*keys, one, "transfer_ns")
    rows = activities.join(known, on=keys, how="left", nulls_equal=True, maintain_order="left")
    launch = pl.min_horizontal("launch_ns", "start_ns")
    rows = rows.with_columns(
        launch=pl.when(pl.col("launch_ns").is_null()).then(NEVER).otherwise(launch)
    )
    columns = ("rank", "stream", "class", "family", "name", "launch", "start_ns", "end_ns")
    found: list[tuple[int, int, Node]] = []
    for row in rows.select(*columns, "collective", "transfer_ns").iter_rows():
        rank, stream, cls, family, name, launch, start, end, collective, transfer = row
        factor = change.of(cls, family or "", name)
        node = Node(rank, False, name, cls, launch, start, end, (end - start) * factor)
        if collective is not None:
            node.collective, node.transfer_ns = tuple(collective.values()), transfer * factor
        found.append((start, stream, node))
    for rank, name, start, end in syncs.select("rank", "name", "start_ns", "end_ns").iter_rows():
        node = Node(rank, True, name, "sync", start, start, end, 0.0)
        found.append((start, NEVER, node))
    sendings: dict[tuple[int, int], Node] = {}
    waiting: list[tuple[Node, Node]] = []
    for rank, start, end, sender, sent in handovers.iter_rows():
        sending = Node(sender, True, "send tokens", "handover", sent, sent, sent, 0.0)
        sending = sendings.setdefault((sender, sent), sending)
        waiting.append(
            (Node(rank, True, "wait for tokens", "handover", start, start, end, 0.0), sending)
        )
    hosts = [*sendings.values(), *(node for node, _sending in waiting)]
    found += [(node.start_ns, NEVER, node) for node in hosts]
    found.sort(key=lambda item: item[0])
    nodes = [node for _start, _stream, node in found]
    index = {id(node): i for i, node in enumerate(nodes)}
    for node, sending in waiting:
        node.handover = index[id(sending)]
    _link(nodes, [stream for _start, stream, _node in found])
    return nodes


def _link(nodes: list[Node], streams: Sequence[int]) -> None:
    """What each node waited for, from the measured times."""
    before: dict[tuple[int, int], int] = {}
    for index, (node, stream) in enumerate(zip(nodes, streams, strict=True)):
        node.stream_before = before.get((node.rank, stream), -1)
        before[node.rank, stream] = index
    for rank in {node.rank for node in nodes}:
        mine = [index for index, node in enumerate(nodes) if node.rank == rank]
        _link_dependencies(nodes, mine)
        _link_host(nodes, mine)


def _link_dependencies(nodes: list[Node], mine: Sequence[int]) -> None:
    """The activity that had ended last before a start, where nothing nearer explains the start."""
    by_end = sorted((i for i in mine if not nodes[i].host), key=lambda i: nodes[i].end_ns)
    done, latest = 0, -1
    # A synchronising call is left at its end: what it waited for has ended by then.
    for index in sorted(mine, key=lambda i: _arrival(nodes[i])):
        node = nodes[index]
        while done < len(by_end) and nodes[by_end[done]].end_ns <= _arrival(node):
            latest = by_end[done]
            done += 1
        own = nodes[node.stream_before].end_ns if node.stream_before >= 0 else NEVER
        if node.cls == "handover":
            sent = nodes[node.handover].start_ns if node.handover >= 0 else NEVER
            node.delay_ns = node.end_ns - max(node.start_ns, sent)
            continue
        if node.host:
            node.dependency = latest if latest >= 0 and nodes[latest].end_ns > node.start_ns else -1
            bound = max(node.start_ns, nodes[latest].end_ns if node.dependency >= 0 else NEVER)
            node.delay_ns = node.end_ns - bound
            continue
        if latest >= 0 and latest != index and nodes[latest].end_ns > max(own, node.launch_ns):
            node.dependency = latest
        other = nodes[node.dependency].end_ns if node.dependency >= 0 else NEVER
        bound = max(own, other, node.launch_ns)
        node.waited_for_host = node.launched and node.launch_ns >= max(own, other)
        node.delay_ns = node.start_ns - bound if bound != NEVER else 0


def _arrival(node: Node) -> int:
    return node.end_ns if node.host else node.start_ns


def _link_host(nodes: list[Node], mine: Sequence[int]) -> None:
    """The host's own order: launches at their moments, synchronising calls from start to end."""
    # A copy stands before the call that launches it and then waits for it.
    launched = (i for i in mine if nodes[i].launched)
    ordered = sorted(launched, key=lambda i: (nodes[i].launch_ns, nodes[i].host))
    for earlier, later in pairwise(ordered):
        nodes[later].host_before = earlier


def _run(
    nodes: Sequence[Node], change: Change
) -> tuple[list[float], list[float], list[tuple[str, int]]]:
    """(start, end, (why, on which node)) of every node after the change."""
    latency, gap = _usual_delays(nodes)
    starts, ends = [0.0] * len(nodes), [0.0] * len(nodes)
    why: list[tuple[str, int]] = [("", -1)] * len(nodes)
    host_free = _HostClock(nodes, change.launch)
    entries: dict[tuple[Any, ...], list[int]] = {}
    for index, node in enumerate(nodes):
        if node.collective is not None:
            entries.setdefault(node.collective, []).append(index)
    for index, is_end in _in_order(nodes):
        node = nodes[index]
        if not is_end:
            launched = host_free.arrive(index, ends) if node.launched else NEVER
            if node.host:
                starts[index] = launched
                continue
            starts[index], why[index] = _start(
                nodes, index, launched, ends, (latency, gap), change.launch
            )
            # Known at once: the next kernel of the stream may begin before this one has ended
            # (programmatic dependent launch). A collective's end hangs on other ranks.
            if node.collective is None:
                ends[index] = starts[index] + node.duration_ns
        else:
            ends[index], why[index] = _end(nodes, index, starts, ends, why[index], entries)
    return starts, ends, why


def _in_order(nodes: Sequence[Node]) -> list[tuple[int, bool]]:
    """(node, whether it is its end), as measured; at one moment, ends come before starts."""
    starts = [(node.start_ns, 1, index, False) for index, node in enumerate(nodes)]
    ends = [
        (node.end_ns, 0 if node.end_ns > node.start_ns else 2, index, True)
        for index, node in enumerate(nodes)
    ]
    return [(index, is_end) for _time, _order, index, is_end in sorted(starts + ends)]


class _HostClock:
    """When each host comes to its next launch or synchronising call."""

    def __init__(self, nodes: Sequence[Node], factor: float) -> None:
        self.nodes, self.factor = nodes, factor
        self.at: dict[int, float] = {}

    def arrive(self, index: int, ends: Sequence[float]) -> float:
        """The node's launch, or the start of its call, on the changed clock."""
        chain = []
        while index >= 0 and index not in self.at:
            chain.append(index)
            index = self.nodes[index].host_before
        for i in reversed(chain):
            node = self.nodes[i]
            if node.host_before < 0:
                self.at[i] = float(node.launch_ns)
                continue
            before = self.nodes[node.host_before]
            left = before.end_ns if before.host else before.launch_ns
            free = ends[node.host_before] if before.host else self.at[node.host_before]
            self.at[i] = free + max(0, node.launch_ns - left) * self.factor
        return self.at[chain[0]] if chain else self.at[index]


def _usual_delays(nodes: Sequence[Node]) -> tuple[float, float]:
    """Median delay after a launch that the device waited for, and after another activity."""

    def median(values: list[int]) -> float:
        return float(sorted(values)[len(values) // 2]) if values else 0.0

    device = [node for node in nodes if not node.host]
    return (
        median([node.delay_ns for node in device if node.waited_for_host]),
        median([node.delay_ns for node in device if not node.waited_for_host]),
    )


def _start(
    nodes: Sequence[Node],
    index: int,
    launched: float,
    ends: Sequence[float],
    usual: tuple[float, float],
    launch_factor: float,
) -> tuple[float, tuple[str, int]]:
    """When an activity starts, and what it waited for last."""
    node = nodes[index]
    own = ends[node.stream_before] if node.stream_before >= 0 else NEVER
    other = ends[node.dependency] if node.dependency >= 0 else NEVER
    if max(own, other, launched) == NEVER:
        return float(node.start_ns), ("first", index)
    for_host = launched >= max(own, other)
    measured = node.delay_ns if for_host == node.waited_for_host else usual[0 if for_host else 1]
    if for_host:
        return launched + measured * launch_factor, ("host", index)
    before = node.stream_before if own >= other else node.dependency
    # Without launches the time between two operations is the host's own.
    factor = 1.0 if node.launched else launch_factor
    return max(own, other) + measured * factor, ("activity", before)


def _end(
    nodes: Sequence[Node],
    index: int,
    starts: Sequence[float],
    ends: Sequence[float],
    why: tuple[str, int],
    entries: Mapping[tuple[Any, ...], Sequence[int]],
) -> tuple[float, tuple[str, int]]:
    """When an activity or a synchronising call ends, and what it waited for last."""
    node = nodes[index]
    if node.handover >= 0 and starts[node.handover] > starts[index]:
        return starts[node.handover] + node.delay_ns, ("handover", node.handover)
    if node.host:
        waited = ends[node.dependency] if node.dependency >= 0 else NEVER
        if waited > starts[index]:
            return waited + node.delay_ns, ("activity", node.dependency)
        return starts[index] + node.delay_ns, ("host", index)
    if node.collective is None:
        return ends[index], why
    # Who entered before this rank had ended, as it was measured.
    came = [i for i in entries[node.collective] if i == index or nodes[i].start_ns < node.end_ns]
    last = max(came, key=starts.__getitem__)
    if last == index or starts[last] <= starts[index]:
        return starts[index] + node.transfer_ns, why
    return starts[last] + node.transfer_ns, ("entry", last)


def _critical_path(
    nodes: Sequence[Node],
    starts: Sequence[float],
    ends: Sequence[float],
    why: Sequence[tuple[str, int]],
    index: int,
    first: int,
) -> list[tuple[str, str, float]]:
    """(what, name, ns), walked back from the last end to the first launch."""
    path: list[tuple[str, str, float]] = []
    at = ends[index]
    for _step in range(len(nodes) * 2):
        node, (reason, before) = nodes[index], why[index]
        if reason == "entry":
            path.append((node.cls, node.name, at - starts[before]))
            index, at = before, starts[before]
            node, (reason, before) = nodes[index], why[index]
        if node.host and reason == "handover":
            path.append((node.cls, node.name, at - starts[before]))
            index, at = before, starts[before]
            node = nodes[index]
        if node.host and reason == "activity":
            path.append((node.cls, node.name, at - ends[before]))
            index, at = before, ends[before]
            continue
        begin = min(starts[index], at)
        path.append((node.cls, node.name, at - begin))
        if reason == "activity" and before >= 0:
            path.append(("gap", "between activities", begin - ends[before]))
            index, at = before, ends[before]
            continue
        if reason == "first":
            break
        # The host was late: all of its time since it last waited for the device is on the path.
        call = _last_sync(nodes, index)
        if call < 0:
            path.append(("host", "from launch to launch", begin - first))
            break
        path.append(("host", "from launch to launch", begin - ends[call]))
        index, at = call, ends[call]
    return [part for part in path if part[2] > 0]


def _last_sync(nodes: Sequence[Node], index: int) -> int:
    """The last call before in which the host had waited, for its device or another host; or -1."""
    index = nodes[index].host_before
    while index >= 0 and max(nodes[index].dependency, nodes[index].handover) < 0:
        index = nodes[index].host_before
    return index


def _by(path: Sequence[tuple[str, str, float]], key: int) -> dict[str, float]:
    sums: dict[str, float] = {}
    for part in path:
        sums[str(part[key])] = sums.get(str(part[key]), 0.0) + part[2]
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def _longest(path: Sequence[tuple[str, str, float]]) -> list[tuple[str, str, float]]:
    sums: dict[tuple[str, str], float] = {}
    for what, name, ns in path:
        sums[what, name] = sums.get((what, name), 0.0) + ns
    return [(what, name, ns) for (what, name), ns in sorted(sums.items(), key=lambda i: -i[1])]
