"""Ways to damage a Kineto trace: its bytes, its text, its values, its packing."""

import gzip
import json
import random
import re
from collections.abc import Callable
from typing import Any

Chance = random.Random
# Values of every type, and numbers that fit nowhere.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 3.5, -0.0, 1e308, -1e308, 1e18, 2**31, 2**53, 2**62, 2**63,
    2**64, -(2**63), 10**40, "", "x", "12", "-3", "1e5", "nan", "0x10", "\u0000",
    "\u00e9\U0001f600", "\ud800", "a},\n{b", '"traceEvents": [', "9" * 5000, [], [1], [[]], {},
    {"a": [{}, {"b": {}}, {}]},
)  # fmt: skip
# What a writer may put where a number belongs.
TOKENS = (
    b"NaN", b"nan", b"-nan", b"inf", b"-inf", b"Infinity", b"-Infinity", b"-nan(ind)", b"1e999",
    b"-1e999", b"1e-999", b"1E400", b"007", b"0x1F", b"1_000", b"1,5", b"+5", b".5", b"5.",
    b"--1", b"null", b"", b"99999999999999999999999", b"-99999999999999999999999",
    b"123456789012345678901234567890123456789", b"0." + b"3" * 400, b"9" * 400, b"1e18",
    b"4.5e15", b"-4.5e15", b"9223372036854775807", b'"12"',
)  # fmt: skip
GARBAGE = (
    b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00", b"\x01", b"\n", b"\t", b'"', b"\\", b"\\u",
    b"\\x", b"{", b"}", b"[", b"]", b",", b":", b"},{", b"},\n  {", b"/* */", b"\xef\xbb\xbf",
    b"\x1f\x8b",
)  # fmt: skip
CATEGORIES = (
    "kernel", "Kernel", "cpu_op", "gpu_memcpy", "cuda_runtime", "cuda_driver", "ac2g", "zzz",
    "user_annotation", "cuda_sync", "hip_runtime", "Trace", "", "python_function",
)  # fmt: skip
NAMES = (
    "request", "decode", "ncclDevKernel_Generic", "cudaMemcpyAsync", "gloo:all_reduce",
    "x" * 9000, "ProfilerStep#3", "record_param_comms", "c10d::allreduce_", "aten::mm",
)  # fmt: skip
NO_TRACES = (
    b"", b" \n", b"null", b"0", b'"x"', b"[]", b"{}", b"[[]]", b"[{}]", b"{" * 9,
    b'{"traceEvents": {}}', b'{"traceEvents": [',
)  # fmt: skip
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
TIME = re.compile(rb'("(?:ts|dur)": )(-?\d+(?:\.\d+)?)')


def damaged(chance: Chance, text: bytes) -> bytes:
    """The content of a file: some changes of values, of text, of bytes, then how it is packed."""
    for _ in range(chance.choice((0, 1, 1, 2, 5, 30))):
        text = changed_values(chance, text)
    for _ in range(chance.choice((0, 0, 1, 1, 3))):
        text = chance.choice(TEXTS)(chance, text)
    return chance.choice(PACKINGS)(chance, text)


def changed_values(chance: Chance, text: bytes) -> bytes:
    """One more change of a value; the text as it is once it is no JSON."""
    try:
        document = json.loads(text)
    except ValueError:
        return text
    events = document.get("traceEvents") if isinstance(document, dict) else document
    if not isinstance(events, list) or not events:
        return text
    place = chance.randrange(len(events))
    if isinstance(events[place], dict):
        chance.choice(VALUE_CHANGES)(chance, events, place)
    if isinstance(document, dict) and chance.random() < 0.1:
        wrong_value(chance, chance.choice([document, *inside(document)]))
    layout: dict[str, Any] = chance.choice(
        ({}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False})
    )
    return json.dumps(document, **layout).encode("utf-8", errors="surrogatepass")


def inside(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects in the head of a document."""
    found = [value for value in document.values() if isinstance(value, dict)]
    lists = [value for value in document.values() if isinstance(value, list)]
    return found + [each for items in lists for each in items[:2] if isinstance(each, dict)]


def wrong_value(chance: Chance, item: dict[str, Any]) -> None:
    if item:
        item[chance.choice(list(item))] = chance.choice(VALUES)


def wrong_field(chance: Chance, events: list[Any], place: int) -> None:
    args = events[place].get("args")
    inner = isinstance(args, dict) and chance.random() < 0.5
    wrong_value(chance, args if inner else events[place])


def without_field(chance: Chance, events: list[Any], place: int) -> None:
    args = events[place].get("args")
    item = args if isinstance(args, dict) and chance.random() < 0.5 else events[place]
    if item:
        del item[chance.choice(list(item))]


def other_time(chance: Chance, events: list[Any], place: int) -> None:
    start = events[chance.randrange(len(events))]
    known = start.get("ts", 0) if isinstance(start, dict) else 0
    near = known if isinstance(known, int | float) else 0
    events[place]["ts"] = chance.choice((near, near + 1, near - 1e6, -near, 0, near * 1000, 1.5e15))
    events[place]["dur"] = chance.choice((0, 0.001, 1, -5, 1e6, 1e12, 9e12))


def other_kind(chance: Chance, events: list[Any], place: int) -> None:
    events[place]["cat"] = chance.choice(CATEGORIES)
    events[place]["name"] = chance.choice(NAMES)
    events[place]["ph"] = chance.choice(("X", "X", "X", "B", "i", "M"))


def same_correlation(chance: Chance, events: list[Any], place: int) -> None:
    number = chance.choice((0, 1, 2, -1, 2**40))
    for each in events:
        if isinstance(each, dict) and isinstance(each.get("args"), dict) and chance.random() < 0.5:
            each["args"]["correlation"] = number


def repeated(chance: Chance, events: list[Any], place: int) -> None:
    events[place:place] = [dict(events[place])] * chance.choice((1, 2, 50))


def left_out(chance: Chance, events: list[Any], place: int) -> None:
    del events[place : place + chance.choice((1, 3, 1000))]


def shuffled(chance: Chance, events: list[Any], place: int) -> None:
    chance.shuffle(events)


def no_event(chance: Chance, events: list[Any], place: int) -> None:
    events[place] = chance.choice((*VALUES, [events[place]], {"event": events[place]}))


VALUE_CHANGES = (
    wrong_field, wrong_field, without_field, other_time, other_time, other_kind, same_correlation,
    repeated, left_out, shuffled, no_event,
)  # fmt: skip


def flipped(chance: Chance, text: bytes) -> bytes:
    content = bytearray(text)
    for _ in range(chance.choice((1, 2, 20))):
        if content:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(content)


def cut_off(chance: Chance, text: bytes) -> bytes:
    return text[: chance.randrange(len(text) + 1)]


def inserted(chance: Chance, text: bytes) -> bytes:
    place = chance.randrange(len(text) + 1)
    return text[:place] + chance.choice(GARBAGE) * chance.choice((1, 1, 7)) + text[place:]


def span_removed(chance: Chance, text: bytes) -> bytes:
    place = chance.randrange(len(text) + 1)
    return text[:place] + text[place + chance.choice((1, 5, 100, 3000)) :]


def span_doubled(chance: Chance, text: bytes) -> bytes:
    place = chance.randrange(len(text) + 1)
    return text[: place + chance.choice((1, 30, 500))] + text[place:]


def other_number(chance: Chance, text: bytes) -> bytes:
    found = list(chance.choice((NUMBER, TIME)).finditer(text))
    if not found:
        return text
    start, end = chance.choice(found).span(found[0].re.groups)
    return text[:start] + chance.choice(TOKENS) + text[end:]


def doubled_key(chance: Chance, text: bytes) -> bytes:
    found = list(re.finditer(rb'"(?:ts|dur|cat|name|ph|args|traceEvents|device)":', text))
    if not found:
        return text
    key = chance.choice(found)
    value = json.dumps(chance.choice(VALUES)).encode()
    return text[: key.start()] + key[0] + value + b", " + text[key.start() :]


def deep(chance: Chance, text: bytes) -> bytes:
    depth = chance.choice((50, 2000, 200_000))
    opening, closing = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
    place = text.find(b'"args": ') + len(b'"args": ')
    closed = closing * (depth if chance.random() < 0.7 else 0)
    return text[:place] + opening * depth + b"1" + closed + b', "b": ' + text[place:]


def other_encoding(chance: Chance, text: bytes) -> bytes:
    plain = text.decode("utf-8", errors="replace")
    return plain.encode(chance.choice(("utf-8-sig", "utf-16", "utf-32", "cp037")), errors="replace")


def only_events(chance: Chance, text: bytes) -> bytes:
    start = text.find(b"[", text.find(b'"traceEvents"'))
    return text[start : text.rfind(b"]") + 1]


def no_trace(chance: Chance, text: bytes) -> bytes:
    return chance.choice((*NO_TRACES, text + text, b"[" + text))


TEXTS: tuple[Callable[[Chance, bytes], bytes], ...] = (
    flipped, cut_off, inserted, span_removed, span_doubled, other_number, other_number,
    doubled_key, deep, other_encoding, only_events, no_trace,
)  # fmt: skip


def plain(chance: Chance, text: bytes) -> bytes:
    return text


def packed(chance: Chance, text: bytes) -> bytes:
    return gzip.compress(text, compresslevel=1)


def packed_in_parts(chance: Chance, text: bytes) -> bytes:
    place = chance.randrange(len(text) + 1)
    return packed(chance, text[:place]) + packed(chance, text[place:])


def damaged_packing(chance: Chance, text: bytes) -> bytes:
    return chance.choice((flipped, cut_off, inserted, span_removed, span_doubled))(
        chance, packed(chance, text)
    )


def packed_with_more(chance: Chance, text: bytes) -> bytes:
    return packed(chance, text) + chance.choice((b"\x00" * 700, b"garbage", b"\x1f\x8b", b"\n"))


def packed_twice(chance: Chance, text: bytes) -> bytes:
    return packed(chance, packed(chance, text))


PACKINGS = (
    plain, plain, plain, plain, plain, packed, packed_in_parts, damaged_packing, packed_with_more,
    packed_twice,
)  # fmt: skip
