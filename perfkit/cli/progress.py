"""Progress of a run: one line that is rewritten on a terminal, plain lines in a log."""

import json
import sys
import time

from perfkit.cli.output import terminal_width


class Progress:
    """Shows what rank 0 says about the run, and what the last stage measured."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.start = time.monotonic()
        self.last = ""

    def show(self, line: str) -> None:
        """One line from a rank: {"rank": 0, "text": "loading 40%"}."""
        try:
            content = json.loads(line)
            rank, text = int(content["rank"]), str(content["text"])
        except (ValueError, KeyError, TypeError):
            return
        measured = text.startswith("TTFT")
        if text == self.last or (rank != 0 and not measured):
            return
        self.last = text
        stamped = f"[{time.monotonic() - self.start:6.1f} s] {text}"
        if not self.terminal or measured:
            self.end()
            sys.stderr.write(stamped + "\n")
        else:
            sys.stderr.write("\r\x1b[K" + stamped[: terminal_width() - 1])
        sys.stderr.flush()

    def end(self) -> None:
        """Clear the rewritten line."""
        if self.terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
