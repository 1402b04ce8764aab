"""The block triangular form: the finest order in which a sparse system can be solved block after block."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from crelle.tangent.structure.pattern import Entries, Ints


@dataclass(frozen=True, eq=False)
class BlockTriangular:
    """Orders of the rows and columns in which A is block lower triangular: ``A[rows][:, cols]``.

    The diagonal blocks are square, with a full diagonal, and cannot be divided further (fine Dulmage-Mendelsohn
    decomposition of a structurally nonsingular matrix).

    Attributes:
        rows, cols: the orders, each int[n].
        bounds: int[count + 1]; block b holds the places ``bounds[b]`` to ``bounds[b + 1]`` of both orders.
    """

    rows: Ints
    cols: Ints
    bounds: Ints

    @property
    def count(self) -> int:
        """Number of diagonal blocks."""
        return len(self.bounds) - 1

    @property
    def sizes(self) -> Ints:
        """Size of each diagonal block."""
        return np.diff(self.bounds)

    @property
    def largest(self) -> int:
        """Size of the largest diagonal block."""
        return int(self.sizes.max(initial=0))

    def __repr__(self) -> str:
        return f"<BlockTriangular: {self.count:,} blocks, the largest {self.largest:,}×{self.largest:,}>"

    def to_dict(self) -> dict[str, Any]:
        """The number of blocks and the size of the largest."""
        return {"count": self.count, "largest": self.largest}


def block_triangular(pattern: Entries, matching: Ints | None) -> BlockTriangular | None:
    """The fine decomposition by strongly connected components, given a maximum matching; ``None`` if not nonsingular.

    Row i waits for row k if it holds the column that k is solved for; strongly connected components of that graph
    are the blocks, and their topological order is the order of solving (Duff and Reid 1978; Pothen and Fan 1990).
    """
    m, n = pattern.shape
    if m != n or matching is None or (matching < 0).any():
        return None
    if not n:
        return BlockTriangular(np.zeros(0, int), np.zeros(0, int), np.zeros(1, int))
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    solved_by = np.empty(n, pattern.indices.dtype)
    solved_by[matching] = np.arange(n)
    heads = solved_by[pattern.indices]
    graph = csr_array((np.ones(pattern.nnz), heads, pattern.indptr), shape=pattern.shape)
    count, labels = connected_components(graph, directed=True, connection="strong")
    later, earlier = labels[pattern.rows], labels[heads]
    if (later < earlier).any():  # SciPy numbers components in topological order, without promising it
        apart = later != earlier
        labels = topological_places(count, earlier[apart], later[apart])[labels]
    rows = np.argsort(labels, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=count))])
    return BlockTriangular(rows, matching[rows], bounds)


def topological_places(count: int, before: Ints, after: Ints) -> Ints:
    """The place of each node of an acyclic graph in an order that respects all edges (Kahn 1962).

    >>> topological_places(3, np.array([2, 0]), np.array([0, 1]))
    array([1, 2, 0])
    """
    order = np.argsort(before, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(before, minlength=count))]).tolist()
    heads = after[order].tolist()
    waiting = np.bincount(after, minlength=count).tolist()
    ready = deque(node for node in range(count) if not waiting[node])
    places = np.zeros(count, np.int64)
    place = 0
    while ready:
        node = ready.popleft()
        places[node] = place
        place += 1
        for head in heads[starts[node] : starts[node + 1]]:
            waiting[head] -= 1
            if not waiting[head]:
                ready.append(head)
    return places
