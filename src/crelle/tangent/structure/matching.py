"""Maximum matchings of rows with columns: the structural rank, and the first half of the block triangular form.

``scipy.sparse.csgraph.maximum_bipartite_matching`` serves small patterns. For large ones its time depends on how the
rows happen to be ordered (a five-point stencil with 10⁶ rows takes 0.01 s in grid order and more than ten minutes in
random order), so those go through a search from all free rows at once, in array operations and with a bound on the work
(Azad, Buluç and Pothen, *Computing maximum cardinality matchings in parallel on bipartite graphs via tree grafting*,
2017).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crelle.tangent.structure.pattern import Entries, Ints

#: Up to this many rows and columns SciPy's search is always quick.
SMALL = 5_000
#: Entries looked at, per entry of the pattern, before the search is given up.
EFFORT = 60
#: Steps of a search, which cost some microseconds whatever they look at, before it is given up.
STEPS = 20_000


def maximum_matching(pattern: Entries) -> Ints | None:
    """A largest set of entries, no two in one row or column, as the column of each row; −1 for rows without.

    ``None`` if the bound on the work was met first. Cost: O(nnz) where a (scaled) diagonal is full, which is what
    most derivatives have; otherwise a few to `EFFORT` times that.
    """
    m, n = pattern.shape
    if not pattern.nnz:
        return np.full(m, -1)
    if m > n:
        transposed = _transposed(pattern)
        other = maximum_matching(transposed)
        if other is None:
            return None
        columns = np.full(m, -1)
        matched = np.flatnonzero(other >= 0)
        columns[other[matched]] = matched
        return columns
    row_match, col_match = _scaled_diagonal(pattern)
    if (row_match >= 0).all():
        return row_match
    if n <= SMALL:
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import maximum_bipartite_matching

        graph = csr_array((np.ones(pattern.nnz, bool), pattern.indices, pattern.indptr), shape=pattern.shape)
        found: Ints = maximum_bipartite_matching(graph, perm_type="column")
        return found
    _greedy(pattern, row_match, col_match)
    return row_match if _augment(pattern, row_match, col_match) else None


def _transposed(pattern: Entries) -> Entries:
    m, n = pattern.shape
    order = np.argsort(pattern.indices, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(pattern.col_counts)])
    return Entries((n, m), indptr, pattern.rows[order])


def _scaled_diagonal(pattern: Entries) -> tuple[Ints, Ints]:
    """Match the entries (i, ⌊i n / m⌋), m ≤ n: all of them for diagonals, stencils and uniform dense blocks."""
    m, n = pattern.shape
    target = np.arange(m) * n // m
    on = np.flatnonzero(pattern.indices == np.repeat(target, pattern.row_counts))
    row_match, col_match = np.full(m, -1), np.full(n, -1)
    rows, cols = pattern.rows[on], pattern.indices[on]
    row_match[rows], col_match[cols] = cols, rows
    return row_match, col_match


def _greedy(pattern: Entries, row_match: Ints, col_match: Ints) -> None:
    """Enlarge a matching in place: free rows take the free column that fewest others want (Karp and Sipser's idea)."""
    rows, cols = pattern.rows, pattern.indices
    for _ in range(64):  # each round settles most of what is left; the exact search does the rest
        free = (row_match[rows] < 0) & (col_match[cols] < 0)
        rows, cols = rows[free], cols[free]
        if not len(rows):
            return
        demand = np.bincount(cols, minlength=len(col_match))
        starts = np.flatnonzero(np.concatenate([[True], rows[1:] != rows[:-1]]))
        # The lowest demand of each row and, among equals, a column that differs from row to row.
        spread = (cols * 7919 + rows * 104_729) % 1024
        key = (demand[cols].astype(np.int64) << 10) | spread
        best = np.minimum.reduceat(key, starts)
        chosen = np.flatnonzero(key == np.repeat(best, np.diff(np.append(starts, len(rows)))))
        # Rows with fewest choices write last, so they win the column.
        choices = np.bincount(rows, minlength=len(row_match))[rows[chosen]]
        chosen = chosen[np.argsort(-choices, kind="stable")]
        winner = np.full(len(col_match), -1)
        winner[cols[chosen]] = rows[chosen]
        taken = np.flatnonzero(winner >= 0)
        # A row may have won two columns of equal key: it keeps the last.
        row_match[winner[taken]] = taken
        kept = np.flatnonzero(row_match >= 0)
        col_match[row_match[kept]] = kept


def _augment(pattern: Entries, row_match: Ints, col_match: Ints) -> bool:
    """Make a matching maximum in place; False if the bound on the work was met."""
    work, steps = EFFORT * (pattern.nnz + 1_000), STEPS
    while True:
        free = np.flatnonzero((row_match < 0) & (pattern.row_counts > 0))
        root = np.full(len(row_match), -1)
        root[free] = free
        parent = np.full(len(col_match), -1)
        end = np.full(len(row_match), -1)  # of each root: the free column that its tree has reached
        frontier = free
        while len(frontier):
            rows, cols = _edges(pattern, frontier)
            work, steps = work - len(rows), steps - 1
            if work < 0 or steps < 0:
                return False
            fresh = parent[cols] < 0
            rows, cols = rows[fresh], cols[fresh]
            parent[cols] = rows
            won = parent[cols] == rows
            rows, cols = rows[won], cols[won]
            reached = col_match[cols] < 0
            end[root[rows[reached]]] = cols[reached]
            onward, following = rows[~reached], col_match[cols[~reached]]
            root[following] = root[onward]
            frontier = following[end[root[following]] < 0]
        ends = end[end >= 0]
        if not len(ends):
            return True
        while len(ends):  # trees are disjoint, so all paths are flipped together
            rows = parent[ends]
            before = row_match[rows]
            row_match[rows], col_match[ends] = ends, rows
            ends = before[before >= 0]
            steps -= 1


def _edges(pattern: Entries, rows: Ints) -> tuple[Ints, NDArray[np.integer]]:
    """Entries of the given rows, as (row, column)."""
    counts = pattern.row_counts[rows]
    starts = pattern.indptr[rows]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(rows, counts), pattern.indices[np.repeat(starts, counts) + within]
