"""Where the blocks of all factors are among their entries, and which blocks belong to which sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crelle.determinants._blocks import Form
from crelle.pattern import SparsityPattern

Ints = np.ndarray[Any, Any]

#: Blocks larger than this, and sparser than that, go through a sparse factorisation on the host.
SPARSE_SIZE = 256
SPARSE_DENSITY = 0.1


@dataclass(frozen=True, eq=False)
class SparseBlock:
    """A large block: where its entries are, and their rows and columns in it."""

    entries: Ints
    rows: Ints
    cols: Ints
    size: int


@dataclass(eq=False)
class Recipe:
    """How determinants of blocks become one for each sample.

    The *terms* are the blocks: those of size 1, then those of each further size, then the sparse ones.

    Attributes:
        ones: for each block of size 1 its place among the entries of all factors, one after the other.
        stacks: for blocks of each size s, places [count, s, s]; -1 is zero.
        sparse: the large ones.
        table: [samples, k], the terms of each sample; -1 fills up.
        signs: [samples], 1 or -1: the parity of all matchings.
        batched: whether the answer has an axis of samples.
    """

    ones: Ints
    stacks: list[Ints] = field(default_factory=list)
    sparse: list[SparseBlock] = field(default_factory=list)
    table: Ints = field(default_factory=lambda: np.zeros((1, 0), np.int64))
    signs: Ints = field(default_factory=lambda: np.ones(1, np.int64))
    batched: bool = False

    @property
    def arrays(self) -> dict[str, Ints]:
        """Its index arrays by name, for those who pass them to a compiled computation."""
        stacks = {f"stack {k}": place for k, place in enumerate(self.stacks)}
        return {"ones": self.ones, **stacks, "table": self.table, "signs": self.signs}


def recipe_of(
    forms: Sequence[tuple[Form, SparsityPattern | None]],
    samples: Sequence[tuple[Ints, Ints]],
    count: int,
    batched: bool,
) -> Recipe:
    """The recipe for factors, each a form with the pattern of its computed entries; ``None`` if all are 1.

    Args:
        samples: for each factor the sample of each row and of each column.
        count: the number of samples.
    """
    start = 0
    signs = np.ones(count, np.int64)
    ones: list[Ints] = []
    stacks: dict[int, list[Ints]] = {}
    sparse: list[SparseBlock] = []
    owners: dict[int, list[Ints]] = {}
    for (form, pattern), (of_row, of_column) in zip(forms, samples, strict=True):
        signs *= _parities(form.matching, of_row, of_column, count)
        if pattern is None:
            continue
        entry_block = form.block[pattern.rows]
        sizes = form.sizes
        order = np.argsort(form.block, kind="stable")
        local = np.empty_like(order)
        local[order] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        local_column = np.empty_like(local)
        local_column[form.matching] = local
        owner = of_row[order[np.cumsum(sizes) - sizes]]
        filled = np.bincount(entry_block, minlength=len(sizes))
        for size in np.unique(sizes).tolist():
            mine = np.flatnonzero(sizes == size)
            at = np.flatnonzero(sizes[entry_block] == size)
            large = size > SPARSE_SIZE
            thin = mine[filled[mine] < SPARSE_DENSITY * size * size] if large else mine[:0]
            for b in thin.tolist():
                some = at[entry_block[at] == b]
                sparse.append(
                    SparseBlock(start + some, local[pattern.rows[some]], local_column[pattern.indices[some]], size)
                )
            owners.setdefault(-1, []).append(owner[thin])
            mine = np.setdiff1d(mine, thin)
            number = np.full(len(sizes), -1)
            number[mine] = np.arange(len(mine))
            at = at[number[entry_block[at]] >= 0]
            place = np.full((len(mine), size, size), -1, np.int64)
            rows, cols = pattern.rows[at], pattern.indices[at]
            place[number[entry_block[at]], local[rows], local_column[cols]] = start + at
            owners.setdefault(size, []).append(owner[mine])
            if size == 1:
                ones.append(place.reshape(-1))
            elif len(mine):
                stacks.setdefault(size, []).append(place)
        start += pattern.nnz
    whose = [o for size in (1, *sorted(stacks), -1) for o in owners.get(size, [])]
    return Recipe(
        np.concatenate([np.zeros(0, np.int64), *ones]), [np.concatenate(stacks[s]) for s in sorted(stacks)], sparse,
        _table(np.concatenate([np.zeros(0, np.int64), *whose]), count), signs, batched,
    )  # fmt: skip


def singular(count: int, batched: bool) -> Recipe:
    """Every determinant is 0, whatever the entries."""
    return Recipe(np.full(count, -1), table=np.arange(count)[:, None], signs=np.ones(count, np.int64), batched=batched)


def _table(owner: Ints, count: int) -> Ints:
    """The terms of each owner, one row each."""
    order = np.argsort(owner, kind="stable")
    lengths = np.bincount(owner, minlength=count)
    table = np.full((count, int(lengths.max(initial=0))), -1, np.int64)
    table[owner[order], np.arange(len(order)) - np.repeat(np.cumsum(lengths) - lengths, lengths)] = order
    return table


def _parities(matching: Ints, of_row: Ints, of_column: Ints, count: int) -> Ints:
    """The sign of the permutation that matches rows and columns, for each sample: (-1)^(size - cycles)."""
    rows, cols = np.argsort(of_row, kind="stable"), np.argsort(of_column, kind="stable")
    if np.array_equal(matching, np.arange(len(matching))) and np.array_equal(rows, cols):
        return np.ones(count, np.int64)
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    n = len(matching)
    place = np.empty(n, np.int64)
    place[cols] = np.arange(n)
    targets = place[matching[rows]]
    graph = csr_array((np.ones(n, np.int8), (np.arange(n), targets)), shape=(n, n))
    cycles, cycle = connected_components(graph, directed=False)
    first = np.full(cycles, n)
    np.minimum.at(first, cycle, np.arange(n))
    sizes = np.bincount(of_row, minlength=count)
    return 1 - 2 * ((sizes - np.bincount(of_row[rows][first], minlength=count)) % 2)
