"""CSR patterns ``(indptr, indices)`` of linear maps along an axis: windows, triangles, inverses."""

from __future__ import annotations

from typing import Any

import numpy as np

from crelle.tangent.program import Ids

Pattern = tuple[Ids, Ids]
#: Triangular patterns of axes up to this length are written out.
LONGEST_TRIANGLE = 4096
#: Inverses with more entries than this are taken to be dense.
_MOST_ENTRIES = 20_000_000


def csr(matrix: Ids) -> Pattern:
    """The pattern of a boolean matrix."""
    at = np.nonzero(matrix)
    return np.append(0, np.cumsum(matrix.sum(1))), at[1].astype(np.int32)


def from_pairs(rows: Ids, columns: Ids, count: int) -> Pattern:
    """The pattern with these entries, which may be given twice."""
    if len(rows):
        width = int(columns.max()) + 1
        rows, columns = np.divmod(np.unique(rows.astype(np.int64) * width + columns), width)
    return np.append(0, np.cumsum(np.bincount(rows, minlength=count))), columns.astype(np.int64)


def transposed(pattern: Pattern, columns: int) -> Pattern:
    """The pattern of the transposed matrix."""
    indptr, indices = pattern
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    order = np.argsort(indices, kind="stable")
    return np.append(0, np.cumsum(np.bincount(indices, minlength=columns))), rows[order].astype(np.int64)


def triangle(size: int, upper: bool) -> Pattern | None:
    """A full triangle: row i reads up to i, or from i on. ``None``, which is dense, where it would be long."""
    if size > LONGEST_TRIANGLE:
        return None
    rows = np.arange(size)
    grid = np.broadcast_to(rows, (size, size))
    inside = grid >= rows[:, None] if upper else grid <= rows[:, None]
    return np.append(0, np.cumsum(size - rows if upper else rows + 1)), grid[inside].astype(np.int32)


def closure(pattern: Any) -> Pattern | None:
    """The pattern of the inverse of a boolean matrix: what is reached through it (Cayley-Hamilton).

    ``None`` where that would be long to find, or everything.
    """
    import scipy.sparse as sp

    reached = sp.csr_array(pattern, dtype=bool) + sp.eye_array(pattern.shape[0], dtype=bool, format="csr")
    while True:
        grown = reached @ reached
        if grown.nnz > _MOST_ENTRIES:
            return None
        if grown.nnz == reached.nnz:
            break
        reached = grown
    if reached.nnz == reached.shape[0] ** 2:
        return None
    reached.sort_indices()
    return reached.indptr, reached.indices
