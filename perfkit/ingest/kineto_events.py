"""Decodes the events of a piece of a Kineto file, of each category what is read of it.

The category of an event says how it is decoded, so the many that are not wanted cost no more than
finding their end. Nothing is lost to one odd event: a piece in which something is not as torch
writes it is decoded event by event, an odd event field by field.
"""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, Union

import msgspec

# The second name is what torch before 1.12 wrote. ROCm builds call HIP's runtime cuda_runtime.
KINDS = {
    "cpu_op": "cpu_op",
    "Operator": "cpu_op",
    "user_annotation": "user_annotation",
    "kernel": "kernel",
    "Kernel": "kernel",
    "gpu_memcpy": "memcpy",
    "Memcpy": "memcpy",
    "gpu_memset": "memset",
    "Memset": "memset",
    "cuda_runtime": "launch",
    "cuda_driver": "launch",
    "hip_runtime": "launch",
    "xpu_runtime": "launch",
    "xpu_driver": "launch",
    "privateuse1_runtime": "launch",
    "privateuse1_driver": "launch",
    "Runtime": "launch",
}
# Arrows, marks on the GPU's streams that are no work (cuda_sync is `Stream Wait Event` and such),
# Python's stack, the profiler's own time: known, so that they need no second look.
UNREAD = (
    "ac2g",
    "fwdbwd",
    "async_cpu_to_gpu",
    "async_gpu",
    "forward_backward",
    "python_function",
    "gpu_user_annotation",
    "cpu_instant_event",
    "external_correlation",
    "overhead",
    "cuda_sync",
    "cuda_event",
    "xpu_sync",
    "cuda_profiler_range",
    "Trace",
)
COMPLETE = "X"
NOTHING = msgspec.Raw(b"0")
NO_ARGS = msgspec.Raw(b"{}")

Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Small = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**48)]


class GpuArgs(msgspec.Struct, gc=False, frozen=True):
    """The arguments of a GPU event that are read; those of a collective came with torch 2.3."""

    device: Small = 0
    stream: Whole = -1
    correlation: Whole = 0
    bytes: Whole | None = None
    collective: str | None = msgspec.field(name="Collective name", default=None)
    values_in: Count | None = msgspec.field(name="In msg nelems", default=None)
    values_out: Count | None = msgspec.field(name="Out msg nelems", default=None)
    dtype: str | None = None
    group: str | None = msgspec.field(name="Process Group Name", default=None)
    num_ranks: Small | None = msgspec.field(name="Group size", default=None)


class LaunchArgs(msgspec.Struct, gc=False, frozen=True):
    """What ties a runtime call to what it launched."""

    correlation: Whole = 0


class Event(msgspec.Struct, gc=False, kw_only=True):
    """What is read of every event; times stay text."""

    ph: str = ""
    name: str = ""
    ts: msgspec.Raw = NOTHING
    dur: msgspec.Raw = NOTHING


class GpuEvent(Event, gc=False):
    """A kernel, a copy or a memset."""

    args: GpuArgs = GpuArgs()


class LaunchEvent(Event, gc=False):
    """A call of the runtime or the driver."""

    args: LaunchArgs = LaunchArgs()


class HostEvent(Event, gc=False):
    """An operation: its arguments are many, and none is read."""

    tid: Whole | str | None = None


class RangeEvent(HostEvent, gc=False):
    """A range that the program or a library marked."""

    args: msgspec.Raw = NO_ARGS


class UnreadEvent(msgspec.Struct, gc=False):
    """One whose end is all that has to be found."""


SHAPES: dict[str, type[msgspec.Struct]] = {
    "cpu_op": HostEvent,
    "user_annotation": RangeEvent,
    "kernel": GpuEvent,
    "memcpy": GpuEvent,
    "memset": GpuEvent,
    "launch": LaunchEvent,
}


def _of_category(category: str, shape: type[msgspec.Struct]) -> type[msgspec.Struct]:
    return msgspec.defstruct(
        category, [], bases=(shape,), tag_field="cat", tag=category, gc=False, kw_only=True
    )


WANTED = {category: _of_category(category, SHAPES[kind]) for category, kind in KINDS.items()}
KIND_OF: dict[type[Any], str] = {struct: KINDS[category] for category, struct in WANTED.items()}


def _any_event(*, operations: bool) -> Any:
    """An event of any known category, with the CPU's operations unread if they are not wanted."""
    shapes: dict[str, type[msgspec.Struct]] = dict.fromkeys(UNREAD, UnreadEvent)
    if not operations:
        shapes |= {category: UnreadEvent for category in KINDS if KINDS[category] == "cpu_op"}
    unread = {category: _of_category(category, shape) for category, shape in shapes.items()}
    return Union[tuple((WANTED | unread).values())]  # noqa: UP007 - made from a list


def _decoder(*, operations: bool) -> msgspec.json.Decoder[list[Any]]:
    events: Any = list[_any_event(operations=operations)]  # type: ignore[misc]
    return msgspec.json.Decoder(events, strict=False)


EVENTS = {operations: _decoder(operations=operations) for operations in (True, False)}
EVENT = msgspec.json.Decoder(_any_event(operations=True), strict=False)
ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
# What json_decode raises for text that is no JSON, or nested deeper than the stack.
BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

ByKind = dict[str, list[Any]]


class Decoded(NamedTuple):
    """What was in an array of events."""

    events: ByKind
    """the complete ones of each kind; kinds of which there is none are left out"""
    entries: int
    """of the array, whatever they are"""
    odd: int = 0
    """how many of these had something of a wrong type"""
    others: int = 0
    """entries that are no events"""


def decode_events(text: bytes | msgspec.Raw, operations: bool = True) -> Decoded:
    """The events in a JSON array; one of BROKEN when it is none.

    The CPU's `operations` are many: they may be left unread.
    """
    try:
        events = EVENTS[operations].decode(text)
        return Decoded(_complete(events), len(events))
    except msgspec.ValidationError:
        return _one_by_one(ITEMS.decode(text))


def _complete(events: Sequence[Any]) -> ByKind:
    found: ByKind = {}
    present = set(map(type, events))
    for struct, kind in KIND_OF.items():
        if struct in present:
            whole = [event for event in events if type(event) is struct and event.ph == COMPLETE]
            found[kind] = found.get(kind, []) + whole
    return {kind: whole for kind, whole in found.items() if whole}


def _one_by_one(items: Sequence[msgspec.Raw]) -> Decoded:
    events, odd, others = [], 0, 0
    for item in items:
        try:
            events.append(EVENT.decode(item))
        except msgspec.ValidationError:
            try:
                event = _field_by_field(item)
            except msgspec.ValidationError:
                others += 1
            else:
                events.append(event)
                odd += event is not None and event.ph == COMPLETE
    return Decoded(_complete(events), len(items), odd, others)


class Category(msgspec.Struct):
    """All that has to be known of an odd event at first."""

    cat: msgspec.Raw = NOTHING


def _field_by_field(item: msgspec.Raw) -> Any:
    """An event with what is usable in it; None when it is of no category that is read."""
    found = msgspec.json.decode(item, type=Category)
    shape = WANTED.get(decoded(found.cat, str, ""))
    return decoded(item, shape, None) if shape else None


def decoded(text: msgspec.Raw, type_: Any, default: Any) -> Any:
    """A value of that type; of a struct as many fields as are of theirs; else the default."""
    try:
        return msgspec.json.decode(text, type=type_, strict=False)
    except BROKEN:
        pass
    if not isinstance(type_, type) or not issubclass(type_, msgspec.Struct):
        return default
    try:
        given = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except BROKEN:
        return default
    values = {}
    for field in msgspec.structs.fields(type_):
        if field.encode_name in given:
            values[field.name] = decoded(given[field.encode_name], field.type, field.default)
    return type_(**values)
