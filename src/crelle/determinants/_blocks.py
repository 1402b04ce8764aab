"""The block triangular form of a linear program, found without writing down its dense parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from crelle.pattern import SparsityPattern
from crelle.tangent.program import TangentProgram
from crelle.tangent.rows import FULL, Rows, Universe
from crelle.tangent.sparsity import assemble, inputs, propagate
from crelle.tangent.structure.matching import maximum_matching
from crelle.tangent.structure.pattern import Entries
from crelle.tangent.structure.triangular import topological_places

Ints = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Form:
    """Square blocks on the diagonal, in an order in which the rest is on one side of it.

    Attributes:
        matching: for each row the column of its block that it is matched with.
        block: for each row the number of its block; blocks only read blocks of smaller numbers, and themselves.
        missing: rows without an entry of their own to be matched with: the matrix is singular whatever its values.
    """

    matching: Ints
    block: Ints
    missing: Ints

    @property
    def sizes(self) -> Ints:
        """The size of each block."""
        return np.bincount(self.block)

    @property
    def block_of_column(self) -> Ints:
        """For each column the number of its block."""
        found = np.empty_like(self.block)
        found[self.matching] = self.block
        return found


def form_of(program: TangentProgram, notes: list[str]) -> Form:
    """The block triangular form of the matrix of a program.

    Rows that share a set of columns share a node of the graph, so that its size is that of the index sets, not that of
    the pattern: the dense half of a coupling layer is one node.
    """
    universe = Universe(program.columns)
    outputs = propagate(program, inputs(universe, program), notes)
    n = universe.columns
    rows, cols, owners, hubs, members = _graph(outputs, n)
    matching = _matching(universe, outputs, rows, cols)
    if matching is None:  # the search was given up: one block
        return Form(np.arange(n), np.zeros(n, np.int64), np.zeros(0, np.int64))
    return _components(n, matching, rows, cols, owners, hubs, members)


def form_of_pattern(pattern: SparsityPattern) -> Form:
    """The block triangular form of a pattern."""
    n = pattern.shape[0]
    matching = maximum_matching(Entries(pattern.shape, pattern.indptr, pattern.indices))
    if matching is None:
        return Form(np.arange(n), np.zeros(n, np.int64), np.zeros(0, np.int64))
    nothing = np.zeros(0, np.int64)
    return _components(n, matching, pattern.rows, pattern.indices, nothing, nothing, [])


def _graph(outputs: list[Rows], n: int) -> tuple[Ints, Ints, Ints, Ints, list[Ints]]:
    """(rows and columns of single entries, rows and hubs of shared sets, the columns of each hub)."""
    rows, cols, owners, hubs = ([np.zeros(0, np.int64)] for _ in range(4))
    members: list[Ints] = []
    full, start = -1, 0
    for output in outputs:
        for term in output.terms:
            ids = np.broadcast_to(term.ids, output.shape).reshape(-1).astype(np.int64)
            if (at := np.flatnonzero(ids == FULL)).size:
                if full < 0:
                    full = len(members)
                    members.append(np.arange(n))
                owners.append(start + at)
                hubs.append(np.full(at.size, full))
            at = np.flatnonzero(ids > 0)
            if term.table.indptr is None:
                rows.append(start + at)
                cols.append(ids[at] - 1)
            elif at.size:
                distinct, which = np.unique(ids[at], return_inverse=True)
                lengths, indices = term.table.rows(distinct)
                owners.append(start + at)
                hubs.append(len(members) + which)
                members += np.split(indices, np.cumsum(lengths)[:-1])
        start += output.size
    return np.concatenate(rows), np.concatenate(cols), np.concatenate(owners), np.concatenate(hubs), members


def _matching(universe: Universe, outputs: list[Rows], rows: Ints, cols: Ints) -> Ints | None:
    """A largest matching: among single entries if these are enough, as in flows, or among all."""
    n = universe.columns
    single = SparsityPattern.from_triplets(rows, cols, (n, n))
    matching = maximum_matching(Entries(single.shape, single.indptr, single.indices))
    if matching is not None and (matching >= 0).all():
        return matching
    every = assemble(universe, outputs)
    return maximum_matching(Entries(every.shape, every.indptr, every.indices))


def _components(n: int, matching: Ints, rows: Ints, cols: Ints, owners: Ints, hubs: Ints, members: list[Ints]) -> Form:
    """Strongly connected components, in topological order (Duff and Reid 1978; Pothen and Fan 1990)."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    missing = np.flatnonzero(matching < 0)
    if missing.size:
        matching = matching.copy()
        matching[missing] = np.setdiff1d(np.arange(n), matching)
    solved_by = np.empty(n, np.int64)
    solved_by[matching] = np.arange(n)
    lengths = np.array([len(m) for m in members], np.int64)
    tails = np.concatenate([rows, owners, n + np.repeat(np.arange(len(members)), lengths)])
    inner = np.concatenate([np.zeros(0, np.int64), *members])
    heads = np.concatenate([solved_by[cols], n + hubs, solved_by[inner]])
    nodes = n + len(members)
    graph = csr_array((np.ones(len(tails), np.int8), (tails, heads)), shape=(nodes, nodes))
    count, labels = connected_components(graph, directed=True, connection="strong")
    later, earlier = labels[tails], labels[heads]
    if (later < earlier).any():  # SciPy numbers components in topological order, without promising it
        apart = later != earlier
        labels = topological_places(count, earlier[apart], later[apart])[labels]
    return Form(matching, np.unique(labels[:n], return_inverse=True)[1], missing)
