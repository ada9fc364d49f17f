"""Bytes of tensors from what a profiler writes about them."""

from typing import Any

# torch's ScalarType names (NCCL arguments) and C++ names (recorded shapes), in lower case.
BYTES_PER_VALUE = {
    "double": 8,
    "long": 8,
    "long int": 8,
    "float": 4,
    "int": 4,
    "half": 2,
    "c10::half": 2,
    "bfloat16": 2,
    "c10::bfloat16": 2,
    "short": 2,
    "short int": 2,
    "byte": 1,
    "unsigned char": 1,
    "char": 1,
    "signed char": 1,
    "bool": 1,
}


def bytes_per_value(dtype: Any) -> int | None:
    """Size of one value; None for a type that is not known."""
    name = str(dtype).lower()
    if name.removeprefix("c10::").startswith("float8"):
        return 1
    return BYTES_PER_VALUE.get(name)


def values_bytes(num_values: int | None, dtype: Any) -> int | None:
    """Bytes of so many values; None when either is not known."""
    size = bytes_per_value(dtype)
    return None if size is None or num_values is None else num_values * size


def tensors_bytes(dims: Any, types: Any) -> int | None:
    """Bytes of all tensors in one operation's inputs; dims is a list of shapes, one an input."""
    if not isinstance(dims, list) or not isinstance(types, list):
        return None
    sizes = [
        values_bytes(num_values(shape), dtype)
        for shape, dtype in zip(dims, types, strict=False)
        if bytes_per_value(dtype) is not None
    ]
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None


def num_values(shape: Any) -> int | None:
    """Product of one shape, or the sum of products of a list of shapes."""
    if not isinstance(shape, list):
        return None
    if any(isinstance(part, list) for part in shape):
        return sum(num_values(part) or 0 for part in shape)
    total = 1
    for extent in shape:
        total *= int(extent)
    return total
