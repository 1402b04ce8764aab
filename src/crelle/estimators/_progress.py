"""How far a long estimate is, on stderr: nothing in the first second, nor where stderr is not a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType

#: Seconds of silence at first, and between two lines.
DELAY = 1.0


class Progress:
    """``with Progress("trace", 100) as progress: ... progress.to(3)``: one line that is written over."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._start = self._last = time.monotonic()
        self._shown = False

    def to(self, done: int, detail: str = "") -> None:
        """Say that ``done`` of the total are done, if it is time to."""
        now = time.monotonic()
        if now - self._last < DELAY or not sys.stderr.isatty():
            return
        self._last = now
        left = (now - self._start) * (self._total - done) / max(done, 1)
        _write(f"{self._what}  {done:,} of {self._total:,}, about {left:.0f} s left{detail and '  ' + detail}")
        self._shown = True

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            _write("")


def _write(line: str) -> None:
    sys.stderr.write(f"\r\033[K{line}")
    sys.stderr.flush()
