"""Colours as people with and without colour blindness see them, and their contrast."""

import math
from collections.abc import Iterable
from itertools import combinations

Rgb = tuple[float, float, float]

# Machado, Oliveira and Fernandes 2009, severity 1.0, for linear RGB: one row a channel made.
SIGHTS: dict[str, tuple[Rgb, Rgb, Rgb]] = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
LUMINANCE = (0.2126, 0.7152, 0.0722)
TO_XYZ = ((0.4124, 0.3576, 0.1805), LUMINANCE, (0.0193, 0.1192, 0.9505))
WHITE = (0.9505, 1.0, 1.089)


def linear(colour: str) -> Rgb:
    """#rrggbb as light."""
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return _light(red), _light(green), _light(blue)


def _light(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4


def _times(rows: Iterable[Rgb], rgb: Rgb) -> Rgb:
    first, second, third = (sum(a * b for a, b in zip(row, rgb, strict=True)) for row in rows)
    return first, second, third


def contrast(one: str, other: str) -> float:
    """WCAG 2: 1 to 21."""
    a, b = (sum(w * c for w, c in zip(LUMINANCE, linear(x), strict=True)) for x in (one, other))
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)


def lab(colour: str, sight: str) -> Rgb:
    """CIE L*a*b* (D65) of what is seen."""
    red, green, blue = (min(max(c, 0.0), 1.0) for c in _times(SIGHTS[sight], linear(colour)))
    xyz = _times(TO_XYZ, (red, green, blue))
    x, y, z = (_cube_root(c / white) for c, white in zip(xyz, WHITE, strict=True))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def _cube_root(value: float) -> float:
    return value ** (1 / 3) if value > 216 / 24389 else (24389 / 27 * value + 16) / 116


def difference(one: str, other: str) -> float:
    """CIE 1976 difference for whoever sees it least; 2.3 can just be told apart side by side."""
    return min(math.dist(lab(one, sight), lab(other, sight)) for sight in SIGHTS)


def closest(colours: Iterable[str]) -> float:
    """The difference of the two colours that are most alike."""
    return min(difference(a, b) for a, b in combinations(colours, 2))
