"""What the analyses of structure need to know of a pattern, and the figures that one look at it gives.

The pattern itself, its file format and its pictures live in `crelle.pattern`; here only its three arrays are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]


class Pattern(Protocol):
    """A boolean matrix in compressed rows: indices sorted and unique within each row."""

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def indptr(self) -> Ints: ...
    @property
    def indices(self) -> Ints: ...


@dataclass(frozen=True)
class Entries:
    """The arrays of a pattern with what several analyses ask of them, each computed once."""

    shape: tuple[int, int]
    indptr: Ints
    indices: Ints

    @property
    def nnz(self) -> int:
        """Number of entries."""
        return len(self.indices)

    @property
    def density(self) -> float:
        """Share of the matrix that the entries fill."""
        return self.nnz / max(self.shape[0] * self.shape[1], 1)

    @property
    def full(self) -> bool:
        """Whether every position is an entry."""
        return self.nnz == self.shape[0] * self.shape[1]

    @cached_property
    def row_counts(self) -> Ints:
        """Entries in each row."""
        return np.diff(self.indptr)

    @cached_property
    def col_counts(self) -> Ints:
        """Entries in each column."""
        return np.bincount(self.indices, minlength=self.shape[1])

    @cached_property
    def rows(self) -> Ints:
        """The row of each entry."""
        return np.repeat(np.arange(self.shape[0], dtype=self.indices.dtype), self.row_counts)

    @cached_property
    def offsets(self) -> tuple[int, int]:
        """Smallest and largest ``column - row`` of an entry; (0, 0) if there is none."""
        if not self.nnz:
            return (0, 0)
        filled = np.flatnonzero(self.row_counts)
        first = self.indices[self.indptr[filled]] - filled
        last = self.indices[self.indptr[filled + 1] - 1] - filled
        return int(first.min()), int(last.max())

    @property
    def bandwidths(self) -> tuple[int, int]:
        """Number of diagonals below and above the main one that reach the outermost entries."""
        low, high = self.offsets
        return max(0, -low), max(0, high)


def band_area(shape: tuple[int, int], lower: int, upper: int) -> int:
    """Positions (i, j) of a matrix with ``-lower <= j - i <= upper``.

    >>> band_area((4, 4), 1, 1), band_area((3, 4), 0, 1)
    (10, 6)
    """
    m, n = shape

    def left_of(offset: int) -> int:  # positions with j < i + offset
        first = min(m, max(0, -offset))  # rows before it have none
        last = min(m, max(0, n - offset))  # rows from it on have all n
        partial = max(0, last - first)
        return partial * (first + last - 1 + 2 * offset) // 2 + (m - max(last, first)) * n

    return left_of(upper + 1) - left_of(-lower)


def band_name(lower: int, upper: int) -> str:
    """What a band is called: ``tridiagonal``, ``2 below and 0 above the diagonal``."""
    known = {(1, 1): "tridiagonal", (1, 0): "lower bidiagonal", (0, 1): "upper bidiagonal"}
    return known.get((lower, upper), f"{lower:,} below and {upper:,} above the diagonal")


def dense_lines(counts: Ints, length: int) -> Ints:
    """Indices of the few rows (columns) that are at least half full, and three times as full as the usual one."""
    filled = counts[counts > 0]
    if not len(filled) or length < 2:
        return np.zeros(0, np.int64)
    usual = float(np.median(filled))
    return np.flatnonzero((2 * counts >= length) & (counts >= 3 * usual))
