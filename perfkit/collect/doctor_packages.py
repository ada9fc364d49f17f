"""Doctor's checks of Python packages: installed, and inside the bounds that perfkit declares."""

import re

from perfkit.collect.doctor_probe import Finding, Probe, fixable, ok

EXTRAS = {"run": "perfkit[run]", "report": "perfkit[report]"}


def torch(probe: Probe) -> Finding:
    return package(probe, "torch", "every run: the engine is built on it")


def deepspeed(probe: Probe) -> Finding:
    return package(probe, "deepspeed", "runs with perfkit's engine (tensor parallelism)")


def transformers(probe: Probe) -> Finding:
    return package(probe, "transformers", "runs with perfkit's engine (models, tokenizers)")


def safetensors(probe: Probe) -> Finding:
    return package(probe, "safetensors", "real weights; --load dummy needs none")


def polars(probe: Probe) -> Finding:
    return package(probe, "polars", "analyze, compare and predict; runs are recorded without it")


def altair(probe: Probe) -> Finding:
    return package(probe, "altair", "charts in reports; tables stay")


def package(probe: Probe, name: str, lost: str) -> Finding:
    """One package: its version, and whether perfkit's own requirement allows it."""
    bounds, extra = bounds_of(name, probe.requirements())
    version = probe.installed(name)
    if version is None:
        wanted = EXTRAS.get(extra or "", f"{name}{bounds}")
        return fixable("not installed", lost, f"pip install '{wanted}'")
    if not bounds:
        return ok(f"{version} (perfkit's bounds are unknown here)")
    if not inside(version, bounds):
        found = f"{version} is outside {bounds}"
        return fixable(found, f"perhaps {lost}", f"pip install '{name}{bounds}'")
    return ok(f"{version} ({bounds})")


def bounds_of(name: str, requirements: list[str]) -> tuple[str, str | None]:
    """(version bounds, extra) of a package: `deepspeed<0.20,>=0.19; extra == 'run'`."""
    for requirement in requirements:
        left, _, marker = requirement.partition(";")
        matched = re.fullmatch(r"\s*([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*\(?([^()]*)\)?\s*", left)
        if matched and matched[1].lower() == name:
            extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
            bounds = ",".join(sorted(matched[2].replace(" ", "").split(","), reverse=True))
            return bounds, extra[1] if extra else None
    return "", None


def inside(version: str, bounds: str) -> bool:
    """Whether a version meets `>=0.19,<0.20`; a container's `2.9.0a0+nv` counts as 2.9.0's."""
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return inside_simply(version, bounds)
    return SpecifierSet(bounds).contains(version, prereleases=True)


def inside_simply(version: str, bounds: str) -> bool:
    """The same by comparing the leading numbers, where `packaging` is not installed."""
    have = _numbers(version)
    for bound in bounds.split(","):
        matched = re.fullmatch(r"(>=|<=|==|!=|>|<|~=)([\w.*+]+)", bound)
        if matched is None:
            continue
        wanted = _numbers(matched[2])
        holds = {
            ">=": have >= wanted,
            "~=": have >= wanted and have[:1] == wanted[:1],
            "<=": have <= wanted,
            "==": have == wanted,
            "!=": have != wanted,
            ">": have > wanted,
            "<": have < wanted,
        }[matched[1]]
        if not holds:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` -> (2, 13): leading numbers, trailing zeros dropped so that 2.0 equals 2."""
    leading = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in leading[0].split(".")] if leading else [0]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)
