"""Slices of a flat m × n matrix: what ``rows=``, ``cols=`` and ``entries=`` mean, and how many passes they need."""

from __future__ import annotations

import operator
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from crelle._errors import CrelleTypeError, CrelleValueError, describe

Index = np.ndarray[tuple[int], np.dtype[np.intp]]


@dataclass(frozen=True, slots=True)
class Selection:
    """What the user asked for, before the size of the matrix is known."""

    rows: Any = None
    cols: Any = None
    entries: Any = None

    @property
    def partial(self) -> bool:
        """Whether anything but the whole matrix is asked for."""
        return self.rows is not None or self.cols is not None or self.entries is not None

    @property
    def key(self) -> Hashable:
        """Equal for equal selections, by content."""
        return tuple(_content(wanted) for wanted in (self.rows, self.cols, self.entries))

    def resolve(self, m: int, n: int) -> Selected:
        """Turn the request into index arrays for an m × n matrix; out-of-range indices raise."""
        if self.entries is not None:
            pairs = np.asarray(self.entries)
            if pairs.size == 0:
                pairs = np.zeros((0, 2), dtype=np.intp)
            if pairs.dtype.kind not in "iu" or pairs.shape[-1:] != (2,) or pairs.ndim > 2:
                raise CrelleTypeError(
                    describe(
                        f"entries={self.entries!r} is not a list of (row, column) pairs",
                        expected="one pair such as (3, 5), or a sequence of pairs of integers",
                    )
                )
            single = pairs.ndim == 1
            pairs = pairs.reshape(-1, 2)
            entry_rows = _in_range("entries", pairs[:, 0], m, "row")
            entry_cols = _in_range("entries", pairs[:, 1], n, "column")
            return Selected(None, None, (entry_rows, entry_cols), single, single)
        rows, drop_row = _axis_index("rows", self.rows, m, "row")
        cols, drop_col = _axis_index("cols", self.cols, n, "column")
        return Selected(rows, cols, None, drop_row, drop_col)


@dataclass(frozen=True, slots=True)
class Selected:
    """Index arrays into a flat matrix; ``None`` means all. A dropped axis was asked for with a single integer."""

    rows: Index | None
    cols: Index | None
    entries: tuple[Index, Index] | None
    drop_row: bool
    drop_col: bool

    def side(self, kind: str, mode: str, m: int, n: int) -> str:
        """What one seed of ``mode`` yields: a row or a column; of a symmetric matrix, whichever needs fewer seeds."""
        if kind == "hessian":
            return "rows" if self.passes("rows", m) <= self.passes("cols", n) else "cols"
        return "rows" if mode == "reverse" else "cols"

    def seeds(self, side: str, count: int) -> Index | None:
        """Which rows (``side="rows"``) or columns must be computed, sorted and unique; ``None`` for all ``count``."""
        wanted = self.entries[0 if side == "rows" else 1] if self.entries else getattr(self, side)
        if wanted is None:
            return None
        unique = np.unique(wanted)
        return None if len(unique) == count else unique

    def passes(self, side: str, count: int) -> int:
        """Number of seeds on that side."""
        seeds = self.seeds(side, count)
        return count if seeds is None else len(seeds)

    def apply(self, matrix: Any, side: str, count: int) -> Any:
        """Cut the answer out of ``matrix``, which holds all rows, or all columns, of the seeds of ``side`` only.

        ``matrix`` is an array of any framework with NumPy indexing, rows first.
        """
        seeds = self.seeds(side, count)

        def local(index: Index) -> Index:
            return index if seeds is None else np.searchsorted(seeds, index)

        if self.entries is not None:
            i, j = self.entries
            out = matrix[(local(i), j) if side == "rows" else (i, local(j))]
            return out[0] if self.drop_row else out
        rows, cols = (
            (None if index is None else local(index) if side == axis else index)
            for axis, index in (("rows", self.rows), ("cols", self.cols))
        )
        if rows is not None:
            matrix = matrix[rows]
        if cols is not None:
            matrix = matrix[:, cols]
        if self.drop_col:
            matrix = matrix[:, 0]
        return matrix[0] if self.drop_row else matrix


def _content(wanted: Any) -> Hashable:
    if wanted is None or isinstance(wanted, int):
        return type(wanted).__name__, wanted
    if isinstance(wanted, slice):
        return "slice", wanted.start, wanted.stop, wanted.step
    array = np.asarray(wanted)
    return array.shape, array.dtype.str, array.tobytes()


def _in_range(keyword: str, index: np.ndarray[Any, Any], count: int, noun: str) -> Index:
    index = np.asarray(index, dtype=np.intp)
    bad = index[(index < -count) | (index >= count)]
    if bad.size:
        valid = f"indices into the raveled tree, from {-count} to {count - 1}" if count else "nothing: it is empty"
        raise CrelleValueError(
            describe(f"{keyword}= asks for {noun} {int(bad[0])} of a matrix with {count:,} {noun}s", expected=valid)
        )
    return np.where(index < 0, index + count, index)


def _axis_index(keyword: str, wanted: Any, count: int, noun: str) -> tuple[Index | None, bool]:
    if wanted is None:
        return None, False
    if isinstance(wanted, slice):
        return np.arange(count, dtype=np.intp)[wanted], False
    if not isinstance(wanted, bool):
        try:
            return _in_range(keyword, np.asarray([operator.index(wanted)]), count, noun), True
        except TypeError:
            pass
    index = np.asarray(wanted)
    if index.size == 0:
        return np.zeros(0, dtype=np.intp), False
    if index.ndim == 1 and index.dtype.kind == "b" and len(index) == count:
        return np.flatnonzero(index), False
    if index.ndim == 1 and index.dtype.kind in "iu":
        return _in_range(keyword, index, count, noun), False
    raise CrelleTypeError(
        describe(
            f"{keyword}={wanted!r} does not select {noun}s",
            expected=f"an integer, a slice, a 1-D sequence of integers, or a mask of length {count:,}",
        )
    )
