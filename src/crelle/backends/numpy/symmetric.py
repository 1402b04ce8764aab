"""Which entries of a symmetric matrix must be computed so that all the wanted ones are known, each pair once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from crelle.backends.numpy.answer import Wanted

Array = np.ndarray[Any, np.dtype[Any]]


class Triangle:
    """Of two mirrored entries that are both wanted, the one with the larger row.

    Attributes:
        pairs: how many entries are computed; ``diagonal``, how many of them lie on the diagonal.
        indices: how many rows and columns they lie in.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        rows, cols = wanted.rows, wanted.cols
        self._row_is_col, self._col_is_row = np.isin(rows, cols), np.isin(cols, rows)
        self.indices = len(np.union1d(rows, cols))
        if wanted.pairs is None:
            common = int(self._row_is_col.sum())
            self.diagonal = common
            self.pairs = len(rows) * len(cols) - common * (common - 1) // 2
            return
        keys, first = np.unique(self._key(*wanted.pairs), return_index=True)
        self._keys, self._first = keys, first
        self.diagonal = int(np.sum(rows[wanted.pairs[0][first]] == cols[wanted.pairs[1][first]]))
        self.pairs = len(keys)

    def _key(self, r: Array, c: Array) -> Array:
        """A number for each pair of indices, whatever their order."""
        i, j = self._wanted.rows[r], self._wanted.cols[c]
        size = 1 + max(self._wanted.rows.max(initial=0), self._wanted.cols.max(initial=0))
        return np.asarray(np.maximum(i, j) * size + np.minimum(i, j))

    def blocks(self, rows: int) -> Iterator[tuple[Array, Array]]:
        """Positions (in the wanted rows, in the wanted columns), so many rows at a time."""
        wanted = self._wanted
        width = len(wanted.cols)
        if wanted.pairs is not None:
            for start in range(0, self.pairs, max(1, rows * width)):
                some = self._first[start : start + rows * width]
                yield wanted.pairs[0][some], wanted.pairs[1][some]
            return
        for start in range(0, len(wanted.rows), rows):
            part = np.arange(start, min(start + rows, len(wanted.rows)))
            r, c = np.repeat(part, width), np.tile(np.arange(width), len(part))
            twice = self._row_is_col[r] & self._col_is_row[c] & (wanted.cols[c] > wanted.rows[r])
            if not twice.all():
                yield r[~twice], c[~twice]

    def write(self, store: Array, r: Array, c: Array, values: Array) -> None:
        """Write a block of entries, and their mirror images."""
        with np.errstate(over="ignore"):
            if self._wanted.pairs is not None:
                mine, asked = self._key(r, c), self._key(*self._wanted.pairs)
                order = np.argsort(mine)
                place = np.minimum(np.searchsorted(mine[order], asked), len(mine) - 1)
                hit = mine[order][place] == asked
                store[hit] = values[order[place[hit]]]
                return
            store[r, c] = values
            a, b, which = self.mirror(r, c)
            store[a, b] = values[which]

    def mirror(self, r: Array, c: Array) -> tuple[Array, Array, Array]:
        """(row, column, which): where entries of a block stand a second time."""
        wanted = self._wanted
        if wanted.pairs is not None:
            none = np.zeros(0, np.intp)
            return none, none, none
        i, j = wanted.rows[r], wanted.cols[c]
        both = np.flatnonzero(self._row_is_col[r] & self._col_is_row[c] & (i != j))
        return np.searchsorted(wanted.rows, j[both]), np.searchsorted(wanted.cols, i[both]), both
