"""Which lines (columns, or rows) of a pattern must differ in colour, held as the groups in which they meet."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from crelle.colorings import _greedy, _orders
from crelle.colorings._compiled import WORD, is_plain
from crelle.pattern import SparsityPattern
from crelle.pattern._csr import Ints

#: A conflict graph with more entries than this is not made: 400 MB.
MOST_CONFLICTS = 100_000_000
#: Groups with more lines than this get a table of colours, where there are too many colours for a machine word.
LARGE_GROUP = 512
#: Conflicts of patterns with at most this many places are found by a dense product, where that is the cheaper one.
SMALL_DENSE = 1_500_000


@dataclass(frozen=True, eq=False)
class Conflicts:
    """Lines 0 … n−1 and groups of them. Two lines that share a group conflict if either entry is flagged.

    Args:
        ptr: where each line's groups begin in `group`, n + 1 integers.
        group: groups of each line.
        gptr: where each group's lines begin in `line`.
        line: lines of each group.
        flags: of the entries in the order of `group` and in that of `line`; None where all are flagged.
        lines: the column (or row) of the pattern that each line is.
        total: how many columns (or rows) the pattern has.
    """

    ptr: Ints
    group: Ints
    gptr: Ints
    line: Ints
    flags: tuple[Ints, Ints] | None
    lines: Ints
    total: int

    @classmethod
    def of_columns(cls, pattern: SparsityPattern, wanted: SparsityPattern | None = None) -> Conflicts:
        """Columns that share a row in which one of the two entries is wanted (all are where `wanted` is None)."""
        return cls._of(pattern, pattern.T, wanted, None if wanted is None else wanted.T)

    @classmethod
    def of_rows(cls, pattern: SparsityPattern, wanted: SparsityPattern | None = None) -> Conflicts:
        """Rows that share a column in which one of the two entries is wanted."""
        return cls._of(pattern.T, pattern, None if wanted is None else wanted.T, wanted)

    @classmethod
    def _of(
        cls,
        groups: SparsityPattern,
        lines: SparsityPattern,
        wanted_groups: SparsityPattern | None,
        wanted_lines: SparsityPattern | None,
    ) -> Conflicts:
        if wanted_groups is None or wanted_lines is None:
            active = np.flatnonzero(np.diff(lines.indptr))
            flags = None
            if active.size < lines.shape[0]:
                new = np.cumsum(np.diff(lines.indptr) > 0) - 1
                ptr, line = np.append(lines.indptr[:-1][active], lines.nnz), new[groups.indices]
            else:
                ptr, line = lines.indptr, groups.indices
            arrays = [ptr, lines.indices, groups.indptr, line]
        else:
            # Lines without a wanted entry stay out of the products, and groups without one do not matter.
            matrix = lines._as_scipy().astype(np.int8) + wanted_lines._as_scipy().astype(np.int8)
            active, used = np.flatnonzero(wanted_lines.row_counts), np.flatnonzero(wanted_groups.row_counts)
            matrix = matrix[active][:, used]
            turned = matrix.T.tocsr()
            flags = ((matrix.data == 2).astype(np.uint8), (turned.data == 2).astype(np.uint8))
            arrays = [matrix.indptr, matrix.indices, turned.indptr, turned.indices]
        # Written to by nobody, but Numba compiles once for arrays that may be and again for those that may not.
        dtype = lines.indptr.dtype
        ptr, group, gptr, line = (np.array(array, dtype) for array in arrays)
        return cls(ptr, group, gptr, line, flags, active, lines.shape[0])

    @property
    def size(self) -> int:
        """Number of lines that need a colour."""
        return int(self.lines.size)

    @cached_property
    def steps(self) -> float:
        """Σ (lines of a group)²: pairs of lines that meet, counted as often as they do."""
        return float((np.diff(self.gptr).astype(np.float64) ** 2).sum())

    @cached_property
    def plain(self) -> bool:
        """Small enough to do without the compiler."""
        return is_plain(self.gptr.size - 1, self.size, self.steps)

    @cached_property
    def lower_bound(self) -> int:
        """Largest set of lines that conflict because they meet in one group."""
        if self.flags is None:
            return int(np.diff(self.gptr).max(initial=0))
        flagged = np.concatenate([[0], np.cumsum(self.flags[1], dtype=np.int64)])[self.gptr]
        known, all_ = np.diff(flagged), np.diff(self.gptr)
        return int((known + ((known > 0) & (all_ > known))).max(initial=0))

    @cached_property
    def _both_flags(self) -> tuple[Ints, Ints]:
        ones = np.ones(self.group.size, np.uint8)
        return (ones, ones) if self.flags is None else self.flags

    def first_fit(self, order: Ints) -> tuple[Ints, int]:
        """Colours of the lines, coloured in this order, and how many there are."""
        colors = np.full(self.size, -1, np.int32)
        order = order.astype(np.int64, copy=False)
        limit = self.size + 1 if self.plain else WORD
        masks = np.zeros(self.gptr.size - 1, np.int64)
        if self.plain or self.lower_bound <= WORD:
            if self.flags is None:
                # On lists masks are Python's integers, which may be wider than an array could take back.
                used = _greedy.first_fit(
                    order,
                    self.ptr,
                    self.group,
                    masks.tolist() if self.plain else masks,
                    colors,
                    limit,
                    plain=self.plain,
                )
            else:
                flagged = np.zeros_like(masks)
                used = _greedy.first_fit_flagged(
                    order,
                    self.ptr,
                    self.group,
                    self.flags[0],
                    masks.tolist() if self.plain else masks,
                    flagged.tolist() if self.plain else flagged,
                    colors,
                    limit,
                    plain=self.plain,
                )
            if used >= 0:
                return colors, used
            colors.fill(-1)
        return colors, self._first_fit_wide(order, colors)

    def _first_fit_wide(self, order: Ints, colors: Ints) -> int:
        counts = np.diff(self.gptr).astype(np.int64)
        most = np.add.reduceat(counts[self.group] - 1, self.ptr[:-1]) if self.size else np.zeros(1, np.int64)
        width = int(min(self.size, most.max(initial=0) + 1)) + 1
        threshold = LARGE_GROUP
        while (counts > threshold).sum() * width > 1 << 30:
            threshold *= 2
        big = counts > threshold
        large = np.where(big, np.cumsum(big) - 1, -1)
        tables = int(big.sum())
        flag, gflag = self._both_flags
        return _greedy.first_fit_wide(
            order,
            self.ptr,
            self.group,
            flag,
            self.gptr,
            self.line,
            gflag,
            large,
            width,
            np.zeros(tables, np.int64),
            np.zeros(tables * width, np.uint8),
            np.full(width, -1, np.int64),
            colors,
            plain=False,
        )

    def clashes(self, colors: Ints, most: int = 64) -> tuple[int, Ints]:
        """In how many groups the colours clash, and the first of these groups. Lines of colour −1 are left out."""
        found = np.full(most, -1, np.int64)
        seen = np.full(2 * (int(colors.max(initial=0)) + 1), -1, np.int64)
        colors = colors.astype(np.int32, copy=False)
        count = _greedy.clashes(self.gptr, self.line, self._both_flags[1], colors, seen, found, plain=self.plain)
        return count, found[: min(count, most)]

    @cached_property
    def degrees(self) -> Ints:
        """How many lines each line conflicts with."""
        if "graph" in self.__dict__ or self.plain:
            return np.diff(self.graph[0])
        flag, gflag = self._both_flags
        stamp, degree = np.full(self.size, -1, np.int64), np.zeros(self.size, np.int64)
        _greedy.degrees(self.ptr, self.group, flag, self.gptr, self.line, gflag, stamp, degree, plain=False)
        return degree

    @cached_property
    def graph(self) -> tuple[Ints, Ints]:
        """The conflicts as sorted adjacency lists, (ptr, adjacent), without loops."""
        from scipy.sparse import csr_array

        def matrix(ptr: Ints, indices: Ints, data: Ints, shape: tuple[int, int]) -> Any:
            return csr_array((data, indices, ptr), shape=shape)

        n, groups = self.size, self.gptr.size - 1
        flag = self._both_flags[0].astype(np.float32)
        everything = matrix(self.ptr, self.group, np.ones(self.group.size, np.float32), (n, groups))
        flagged = everything if self.flags is None else matrix(self.ptr, self.group, flag, (n, groups))
        if n * groups <= SMALL_DENSE and self.steps > n * groups:
            dense = everything.toarray() @ flagged.toarray().T
            dense += dense.T.copy()
            np.fill_diagonal(dense, 0)
            product = csr_array(dense)
        else:
            product = everything @ flagged.T
            if self.flags is not None:
                product = product + product.T
            product = product.tocsr()
            product.setdiag(0)
            product.eliminate_zeros()
        product.sort_indices()
        return product.indptr, product.indices

    def order(self, name: _orders.Order, seed: int = 0) -> Ints:
        """The lines in this order."""
        if name in ("natural", "random"):
            return _orders.order_of(name, np.zeros(self.size + 1, np.int64), self.group[:0], self.plain, seed)
        if name == "largest-first":
            return _orders.largest_first(self.degrees)
        return _orders.order_of(name, *self.graph, self.plain)

    def spread(self, colors: Ints) -> Ints:
        """Colours of the lines as those of all columns (or rows), −1 where none is needed."""
        if self.size == self.total:
            return colors.astype(np.int32, copy=False)
        all_ = np.full(self.total, -1, np.int32)
        all_[self.lines] = colors
        return all_
