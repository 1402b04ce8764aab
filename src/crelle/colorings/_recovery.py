"""From products with seeds back to entries: which place of a product holds each entry, and what to subtract first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from crelle.colorings._compiled import FEW_STEPS, is_plain, kernel
from crelle.pattern import SparsityPattern
from crelle.pattern._csr import Ints

#: Chains are long where there are more levels than this, and are then followed step by step.
_MANY_LEVELS = 50


def occurrences(keys: Ints, size: int) -> Ints:
    """How often the key of each entry occurs; keys below `size`."""
    if size <= 4 * keys.size + 1_000_000:
        each: Ints = np.bincount(keys, minlength=size)[keys]
        return each
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    repeated: Ints = counts[inverse]
    return repeated


def alone_in_row(rows: Ints, cols: Ints, colors: Ints) -> Ints:
    """Whether each entry's column is the only one of its colour in the entry's row: a product then gives it."""
    of_entry = colors[cols].astype(np.int64)
    colored = of_entry >= 0
    width = int(colors.max(initial=-1)) + 1
    keys = rows.astype(np.int64) * width + of_entry
    if colored.all():
        once: Ints = occurrences(keys, (int(rows.max(initial=-1)) + 1) * width) == 1
        return once
    alone = np.zeros(rows.size, bool)
    alone[colored] = occurrences(keys[colored], (int(rows.max(initial=-1)) + 1) * width) == 1
    return alone


def transposed_places(pattern: SparsityPattern) -> Ints:
    """Where entry (j, i) is, for each entry (i, j) of a symmetric pattern."""
    from scipy.sparse import csr_array

    places = np.arange(pattern.nnz, dtype=np.int64)
    mirrored: Ints = csr_array((places, pattern.indices, pattern.indptr), shape=pattern.shape).tocsc().data
    return mirrored


@dataclass(frozen=True)
class Elimination:
    """Steps that free entries from the others in their place: ``B[target[e]] -= B[source[e]]``, level by level.

    Args:
        source: place that holds a single entry by now.
        target: place that this entry is taken away from.
        levels: where each level begins, and the number of steps at the end. Steps of one level do not depend on each
            other, but several may have one target.
    """

    source: Ints
    target: Ints
    levels: Ints

    def run(self, values: Any) -> None:
        """Carry it out on the raveled products, in place."""
        if self.levels.size > _MANY_LEVELS and values.dtype.kind in "fc":
            _subtract(self.source, self.target, values, plain=self.source.size <= FEW_STEPS)
            return
        for start, stop in zip(self.levels[:-1].tolist(), self.levels[1:].tolist(), strict=True):
            np.subtract.at(values, self.target[start:stop], values[self.source[start:stop]])


def eliminate(pattern: SparsityPattern, colors: Ints) -> tuple[Ints, Elimination]:
    """Place of every entry of a symmetric matrix in H S [n, k], and the steps after which it stands there alone.

    A place (i, c) holds the sum of the entries in row i whose columns have colour c. An entry that is alone in its
    place is known, and taken away from the other place that it is in, (j, colour of i); and so on. Places of −1 are
    those of entries that this does not free.
    """
    n, width = pattern.shape[0], int(colors.max(initial=-1)) + 1
    rows, cols = pattern.rows.astype(np.int64), pattern.cols.astype(np.int64)
    upper = cols >= rows
    edge = np.full(pattern.nnz, -1, np.int64)
    edge[upper] = np.arange(upper.sum())
    edge = np.maximum(edge, edge[transposed_places(pattern)])
    i, j = rows[upper], cols[upper]
    first = np.where(colors[j] >= 0, i * width + colors[j], -1)
    second = np.where((colors[i] >= 0) & (i != j), j * width + colors[i], -1)
    count = np.zeros(n * width, np.int64)
    total = np.zeros(n * width, np.int64)
    for places in (first, second):
        held = places >= 0
        np.add.at(count, places[held], 1)
        np.add.at(total, places[held], np.flatnonzero(held))
    source = np.full(i.size, -1, np.int64)
    level, queue = np.zeros(n * width, np.int64), np.empty(n * width, np.int64)
    order = np.empty(i.size, np.int64)
    plain = is_plain(n, n, pattern.nnz + n * width)
    freed = _peel(first, second, count, total, source, level, queue, order, plain=plain)
    order = order[:freed]
    other = np.where(source[order] == first[order], second[order], first[order])
    # A place that no entry is read from need not be cleared.
    read = np.zeros(n * width + 1, bool)
    read[source[order]] = True
    needed = (other >= 0) & read[other]
    steps, targets = order[needed], other[needed]
    depth = level[source[steps]]
    by_level = np.argsort(depth, kind="stable")
    steps, targets, depth = steps[by_level], targets[by_level], depth[by_level]
    levels = np.searchsorted(depth, np.arange(int(depth.max(initial=-1)) + 2))
    return source[edge], Elimination(source[steps], targets, levels)


@kernel(writes="values")
def _subtract(source: Any, target: Any, values: Any) -> int:
    """One step after the other."""
    for k in range(len(source)):
        values[target[k]] -= values[source[k]]
    return 0


@kernel(writes="source level order")
def _peel(first: Any, second: Any, count: Any, total: Any, source: Any, level: Any, queue: Any, order: Any) -> int:
    """Free entries that are alone in a place until there are none; `total` is the sum of the entries still in it."""
    head, tail, freed = 0, 0, 0
    for place in range(len(count)):
        if count[place] == 1:
            queue[tail] = place
            tail += 1
    while head < tail:
        place = queue[head]
        head += 1
        if count[place] == 1:
            e = total[place]
            source[e] = place
            order[freed] = e
            freed += 1
            count[place] = 0
            other = second[e] if first[e] == place else first[e]
            if other >= 0:
                count[other] -= 1
                total[other] -= e
                level[other] = max(level[other], level[place] + 1)
                if count[other] == 1:
                    queue[tail] = other
                    tail += 1
    return freed
