"""Index tables that are only a transposition in disguise: moved by reshapes, they need no table and no gather."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Ints = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Reorder:
    """``flat[start:stop].reshape(shape).transpose(axes).reshape(-1)``."""

    start: int
    stop: int
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @classmethod
    def of(cls, index: Ints) -> Reorder | None:
        """The reshapes that an index table amounts to, if it does.

        >>> Reorder.of(np.arange(6).reshape(2, 3).T.ravel())
        Reorder(start=0, stop=6, shape=(2, 3), axes=(1, 0))
        >>> Reorder.of(np.array([0, 2, 1])) is None
        True
        """
        rest, lengths, strides = index.reshape(-1).astype(np.int64), [], []
        if not rest.size:
            return None
        start = int(rest[0])
        while rest.size > 1:
            step = int(rest[1] - rest[0])
            breaks = np.flatnonzero(np.diff(rest) != step)
            length = int(breaks[0]) + 1 if breaks.size else rest.size
            if step <= 0 or rest.size % length:
                return None
            rows = rest.reshape(-1, length)
            if (np.diff(rows, axis=1) != step).any():
                return None
            lengths.append(length)
            strides.append(step)
            rest = rows[:, 0]
        lengths, strides = lengths[::-1], strides[::-1]
        order = sorted(range(len(lengths)), key=lambda k: -strides[k])
        shape = tuple(lengths[k] for k in order)
        contiguous = np.append(np.cumprod(shape[:0:-1])[::-1], 1) if shape else np.ones(0)
        if any(strides[k] != c for k, c in zip(order, contiguous, strict=True)):
            return None
        return cls(start, start + int(np.prod(shape, dtype=np.int64)), shape, tuple(np.argsort(order).tolist()))

    def __call__(self, flat: Any) -> Any:
        """Apply to a flat array of NumPy or JAX."""
        return flat[self.start : self.stop].reshape(self.shape).transpose(self.axes).reshape(-1)
