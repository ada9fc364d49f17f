"""Makes JSON of the text of a Kineto trace that is none, for reasons seen in real traces."""

import re

# Control characters do not belong in JSON, but names in real traces hold some (pytorch#130622).
# Blanking all of them is safe: line ends between values may be blanks too.
NO_CONTROL = bytes(32 if byte < 32 else byte for byte in range(256))
# Rates that were divided by zero, as C++ prints them.
NO_NUMBER = re.compile(rb"([:,\[]\s*)[-+]?(?:nan|inf(?:inity)?)(?:\(ind\))?(?=\s*[,}\]])", re.I)
# A backslash that begins no escape (the path of a file), or half of a character (a lone surrogate).
ESCAPE = re.compile(
    rb"""(\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}
    |u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))|\\""",
    re.VERBOSE,
)


def repaired(text: bytes) -> bytes:
    """The text with what often makes a trace no JSON replaced."""
    plain = text.decode("utf-8", errors="replace").lstrip("\ufeff").encode().translate(NO_CONTROL)
    return ESCAPE.sub(lambda found: found[1] or b"/", NO_NUMBER.sub(rb"\1null", plain))
