"""Loops that Numba compiles for large problems, and that run as plain Python for small ones: one source for both.

A kernel is a function of arrays and integers that indexes one element at a time, writes its results into arrays that
the caller made, and returns an integer. Small problems run it on lists, which Python indexes faster than arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

#: The compiler takes about a second to load. Problems of at most this many rows and columns never wait for it ...
SMALL = 1000
#: ... and neither do larger ones with at most this many steps of the innermost loop.
FEW_STEPS = 100_000
#: Colours that fit in one machine word with its sign left alone. Python's integers have no such limit.
WORD = 62


def is_plain(rows: int, cols: int, steps: float) -> bool:
    """Whether a problem is small enough to run without the compiler."""
    return max(rows, cols) <= SMALL or steps <= FEW_STEPS


class Kernel:
    """A loop and its compiled form, which is made on the first large problem and kept on disk."""

    def __init__(self, function: Callable[..., int], writes: tuple[str, ...]) -> None:
        self.function = function
        self._fast: Any = None
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        self._outputs = tuple(names.index(name) for name in writes)
        self.__doc__ = function.__doc__

    def __call__(self, *args: Any, plain: bool) -> int:
        if not plain:
            return int(self.compiled(*args))
        lists = [arg.tolist() if isinstance(arg, np.ndarray) else arg for arg in args]
        result = self.function(*lists)
        for k in self._outputs:
            args[k][:] = lists[k]
        return result

    @property
    def compiled(self) -> Any:
        """The function as Numba compiles it."""
        if self._fast is None:
            import numba

            try:
                self._fast = numba.njit(cache=True)(self.function)
            except RuntimeError:  # no folder that the compiled code could be kept in
                self._fast = numba.njit(self.function)
        return self._fast


def kernel(writes: str) -> Callable[[Callable[..., int]], Kernel]:
    """Make a kernel of a function that writes to the arguments with these names."""
    return lambda function: Kernel(function, tuple(writes.split()))
