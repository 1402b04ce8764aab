"""Independent blocks of a pattern: rows and columns that share no entry with the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from crelle.tangent.structure.pattern import Entries, Ints


@dataclass(frozen=True, eq=False)
class Blocks:
    """Rows and columns of each block of a matrix that is block-diagonal up to the order of rows and columns.

    ``blocks[b]`` and iteration give ``(rows, cols)``, the indices of block b in the matrix, so that
    ``A[np.ix_(*blocks[b])]`` is the block. Blocks of one shape can be taken out together: with ``rows``: int[B, m]
    and ``cols``: int[B, n], ``A[rows[:, :, None], cols[:, None, :]]`` is the array [B, m, n]. Rows and columns
    that no block holds have no entry.

    Attributes:
        row_order, row_bounds: block b has the rows ``row_order[row_bounds[b]:row_bounds[b + 1]]``.
        col_order, col_bounds: the same of its columns.
    """

    row_order: Ints
    row_bounds: Ints
    col_order: Ints
    col_bounds: Ints

    def __len__(self) -> int:
        return len(self.row_bounds) - 1

    def __getitem__(self, block: int) -> tuple[Ints, Ints]:
        if not -len(self) <= block < len(self):
            raise IndexError(f"block {block} of {len(self)}")
        block %= len(self)
        return (
            self.row_order[self.row_bounds[block] : self.row_bounds[block + 1]],
            self.col_order[self.col_bounds[block] : self.col_bounds[block + 1]],
        )

    def __iter__(self) -> Iterator[tuple[Ints, Ints]]:
        return (self[block] for block in range(len(self)))

    @property
    def heights(self) -> Ints:
        """Rows of each block."""
        return np.diff(self.row_bounds)

    @property
    def widths(self) -> Ints:
        """Columns of each block."""
        return np.diff(self.col_bounds)

    @property
    def area(self) -> int:
        """Positions inside the blocks."""
        return int(self.heights.astype(np.int64) @ self.widths.astype(np.int64))

    @property
    def shape(self) -> tuple[int, int] | None:
        """The shape of every block; ``None`` if they differ or there is none."""
        heights, widths = self.heights, self.widths
        if not len(self) or (heights != heights[0]).any() or (widths != widths[0]).any():
            return None
        return int(heights[0]), int(widths[0])

    @property
    def largest(self) -> tuple[int, int]:
        """Most rows and most columns of a block."""
        return int(self.heights.max(initial=0)), int(self.widths.max(initial=0))

    @property
    def rows(self) -> Ints:
        """int[B, m]: the rows of blocks of one shape."""
        return self.row_order.reshape(len(self), -1)

    @property
    def cols(self) -> Ints:
        """int[B, n]: the columns of blocks of one shape."""
        return self.col_order.reshape(len(self), -1)

    def __repr__(self) -> str:
        return f"<Blocks: {self.describe()}>"

    def describe(self) -> str:
        """``128 blocks of 16×32``; ``up to`` if shapes differ.

        >>> Blocks(np.arange(6), np.array([0, 3, 6]), np.arange(2), np.array([0, 1, 2])).describe()
        '2 blocks of 3×1'
        """
        high, wide = self.shape or self.largest
        some = "of" if self.shape else "of up to"
        return f"{len(self):,} block{'' if len(self) == 1 else 's'} {some} {high:,}×{wide:,}"

    def to_dict(self) -> dict[str, Any]:
        """Number and shape; the largest shape where they differ."""
        return {"count": len(self), "shape": self.shape, "largest": self.largest}


def from_labels(count: int, rows: Ints, cols: Ints) -> Blocks:
    """Blocks from the block of each row and column, −1 for none."""
    row_order, row_bounds = _sorted(count, rows)
    col_order, col_bounds = _sorted(count, cols)
    return Blocks(row_order, row_bounds, col_order, col_bounds)


def _sorted(count: int, labels: Ints) -> tuple[Ints, Ints]:
    together = bool((labels[1:] >= labels[:-1]).all())  # as most are: there is nothing to sort
    order = np.arange(len(labels)) if together else np.argsort(labels, kind="stable")
    outside = int((labels < 0).sum())
    inside = labels if not outside else labels[labels >= 0]
    return order[outside:], np.concatenate([[0], np.cumsum(np.bincount(inside, minlength=count))])


def connected_blocks(pattern: Entries) -> Blocks:
    """The finest blocks, whatever rows and columns are in them: connected components of the graph of rows and columns.

    They are numbered by their first row. Rows and columns without entries are in none.
    """
    m, n = pattern.shape
    if pattern.full:  # one component, found without a graph
        some = min(pattern.nnz, 1)
        return from_labels(some, np.zeros(m if some else 0, int), np.zeros(n if some else 0, int))
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    indptr = np.concatenate([pattern.indptr, np.full(n, pattern.nnz, pattern.indptr.dtype)])
    graph = csr_array((np.ones(pattern.nnz), pattern.indices + m, indptr), shape=(m + n, m + n))
    count, labels = connected_components(graph, directed=True, connection="weak")
    rows = np.where(pattern.row_counts > 0, labels[:m], -1)
    cols = np.where(pattern.col_counts > 0, labels[m:], -1)
    filled = rows[rows >= 0]
    first = np.full(count, m)
    np.minimum.at(first, filled, np.flatnonzero(rows >= 0))
    order = np.argsort(first, kind="stable")
    kept = int((first < m).sum())
    place = np.empty(count + 1, np.int64)
    place[order], place[-1] = np.arange(count), -1
    return from_labels(kept, place[rows], place[cols])


@dataclass(frozen=True, eq=False)
class Separable:
    """A function as a sum of functions of separate groups of variables, read from its Hessian's pattern.

    Attributes:
        labels: the group of each variable, int[n]; −1 for variables that have no second derivative.
        quadratic: of each group, whether all its entries are constant, bool[count]; ``None`` if that is not known.
    """

    labels: Ints
    quadratic: np.ndarray[Any, np.dtype[np.bool_]] | None
    count: int

    @property
    def affine(self) -> int:
        """Variables that the function depends on at most linearly."""
        return int((self.labels < 0).sum())

    def describe(self) -> str:
        """``3 separate groups of up to 4 variables, 1 quadratic; 2 variables at most linear``."""
        if not self.count:
            return "at most linear in every variable"
        largest = int(np.bincount(self.labels[self.labels >= 0]).max())
        some = "of" if largest * self.count == len(self.labels) - self.affine else "of up to"
        groups = "not separable" if self.count == 1 else f"{self.count:,} separate groups {some} {_variables(largest)}"
        quadratic = 0 if self.quadratic is None else int(self.quadratic.sum())
        if quadratic:
            groups += ", quadratic" if quadratic == self.count else f", {quadratic:,} quadratic"
        return groups + (f"; {_variables(self.affine)} at most linear" if self.affine else "")

    def __repr__(self) -> str:
        return f"<Separable: {self.describe()}>"

    def to_dict(self) -> dict[str, Any]:
        """Number of groups, of quadratic groups, and of variables without second derivative."""
        quadratic = None if self.quadratic is None else int(self.quadratic.sum())
        return {"count": self.count, "quadratic": quadratic, "affine": self.affine}


def _variables(count: int) -> str:
    return f"{count:,} variable{'' if count == 1 else 's'}"


def separable_parts(pattern: Entries, varies: np.ndarray[Any, np.dtype[np.bool_]] | None) -> Separable:
    """Connected components of the variables of a symmetric pattern; ``varies`` says which entries are not constant."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    n = pattern.shape[0]
    used = (pattern.row_counts > 0) | (pattern.col_counts > 0)
    if n:
        graph = csr_array((np.ones(pattern.nnz), pattern.indices, pattern.indptr), shape=pattern.shape)
        _, labels = connected_components(graph, directed=True, connection="weak")
    else:
        labels = np.zeros(0, int)
    _, first, inverse = np.unique(labels[used], return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    numbered = np.full(n, -1)
    numbered[used] = place[inverse]
    quadratic = None
    if varies is not None:
        quadratic = np.ones(len(first), bool)
        quadratic[numbered[pattern.rows[varies]]] = False
    return Separable(numbered, quadratic, len(first))
