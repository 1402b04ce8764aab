"""Progress on stderr: silent in the first second, and wherever stderr is not a terminal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

#: Seconds of silence.
DELAY = 1.0


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Say what is going on while the body runs, once it has taken longer than :data:`DELAY`."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    status = console.status(Text(text))
    timer = threading.Timer(DELAY, status.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        status.stop()
