"""The entries of a pattern by differences of f: those of a Jacobian colour by colour, those of a Hessian pair by pair.

What is here computes, and multiplies what it computed by vectors. Which entries these are, and what is made of them, is
decided in ``compressed``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from crelle.backends.numpy import run, second, steps
from crelle.backends.numpy.function import BlackBox
from crelle.backends.numpy.layouts import ColoredColumns
from crelle.backends.numpy.survey import Facts
from crelle.colorings import Coloring
from crelle.pattern import SparsityPattern

Array = np.ndarray[Any, np.dtype[Any]]

#: Seeds of the random directions of the check.
SEEDS = (21, 22)
#: A Hessian is compared along one more pair of directions for so many of its entries, up to a bound: about one in fifty
#: of the evaluations that it takes.
PAIRS_PER_TRIAL, MOST_TRIALS = 100, 12


@dataclass(slots=True)
class Found:
    """Entries in CSR order in the precision that they were computed in, with their errors, and f(x)."""

    entries: Array
    errors: Array
    value: Array


class ColumnEntries:
    """Entries of a Jacobian, by columns in the order of their colours.

    Attributes:
        index: the columns that have entries; ``colors`` theirs.
        start, rows: where the entries of each begin, and their rows.
        order: for each entry its place in CSR order.
        whole: whether all entries of the matrix are wanted.
    """

    def __init__(self, target: SparsityPattern, coloring: Coloring | None, whole: bool) -> None:
        self.target, self.whole = target, whole
        present = np.flatnonzero(target.col_counts)
        colors = np.zeros(0, int) if coloring is None else np.asarray(coloring.column_colors)[present]
        by_color = np.argsort(colors, kind="stable")
        self.index, self.colors = present[by_color], colors[by_color]
        rank = np.zeros(target.shape[1], int)
        rank[self.index] = np.arange(len(self.index))
        self.order = np.argsort(rank[target.indices], kind="stable")
        self.rows = target.rows[self.order]
        self.start = np.append(0, np.cumsum(target.col_counts[self.index]))

    def compute(self, box: BlackBox, mode: str, facts: Facts, error: bool, most: int, guard: bool) -> Found:
        """The entries.

        Args:
            most: entries in a block, if that is at least one colour.
            guard: test that f is still analytic, where that is used.

        Raises:
            ChangedError: f is not what ``facts`` say.
        """
        box.begin_run(facts.batched)
        value = box.value
        found = Found(np.zeros(self.target.nnz, np.result_type(value, box.x)), np.zeros(self.target.nnz), value)
        if not self.target.nnz:
            return found
        linear = facts.linear and mode == "central"
        origin = run.at_zero(box) if linear else None
        for first, last in self._blocks(most):
            low, high = self.start[[first, last]]
            some = ColoredColumns(
                box, self.index[first:last], self.colors[first:last], self.start[first : last + 1] - low,
                self.rows[low:high],
            )  # fmt: skip
            entries, off = run.slopes(box, mode, some, origin, error)
            place = self.order[low:high]
            found.entries[place], found.errors[place] = entries, off
        if linear or (mode == "complex-step" and guard):
            self._prove(box, linear, found)
        return found

    def _prove(self, box: BlackBox, linear: bool, found: Found) -> None:
        """A product with the entries must be what f says."""
        v, box.keep = self.direction(box)
        box.begin_run(False)
        product, uncertain = self.product(found, v, box.keep)
        if linear:
            run.prove_linear(box, v, product, uncertain)
        else:
            run.prove_analytic(box, v, product)
        box.keep = None

    def _blocks(self, most: int) -> Iterator[tuple[int, int]]:
        """(first column, last + 1) of as many colours as fit."""
        ends = np.flatnonzero(np.diff(self.colors, append=-1)) + 1
        first = 0
        while first < len(self.index):
            fitting = ends[(ends > first) & (self.start[ends] - self.start[first] <= most)]
            last = int(fitting[-1] if len(fitting) else ends[ends > first][0])
            yield first, last
            first = last

    def direction(self, box: BlackBox) -> tuple[Array, Array | None]:
        """A random direction, and the outputs whose slopes along it the entries give: all, or those of one colour."""
        v = random_multiples(box, SEEDS[0])
        if self.whole:
            return v, None
        columns = self.index[self.colors == self.colors[0]]
        only = np.zeros_like(v)
        only[columns] = v[columns]
        return only, np.sort(self.rows[: self.start[len(columns)]])

    def product(self, found: Found, v: Array, keep: Array | None) -> tuple[Array, Array]:
        """J v, or some of it, and what the errors of the entries allow it to be off."""
        import scipy.sparse as sp

        indices, indptr = self.target.indices, self.target.indptr
        with np.errstate(all="ignore"):
            product, off = (
                sp.csr_array((data, indices, indptr), shape=self.target.shape) @ by
                for data, by in ((found.entries, v), (found.errors, np.abs(v)))
            )
        return (product, off) if keep is None else (product[keep], off[keep])


class PairEntries:
    """Entries of a Hessian: of two mirrored ones the one with the larger row.

    Attributes:
        i, j: their rows and columns.
        which: for each wanted entry, in CSR order, which of these it is; ``first``, one wanted entry for each of them.
    """

    def __init__(self, target: SparsityPattern) -> None:
        n = max(1, target.shape[1])
        rows, cols = target.rows.astype(np.int64), target.indices.astype(np.int64)
        keys = np.maximum(rows, cols) * n + np.minimum(rows, cols)
        keys, self.first, self.which = np.unique(keys, return_index=True, return_inverse=True)
        self.i, self.j = keys // n, keys % n

    def compute(self, box: BlackBox, facts: Facts, most: int, guard: bool) -> Found:
        """The entries.

        Raises:
            ChangedError: f is not what ``facts`` say.
        """
        box.begin_run(facts.batched)
        count, value = len(self.i), box.value
        entries, errors = np.zeros(count, np.result_type(value, box.x)), np.zeros(count)
        if count and facts.linear:
            run.prove_affine(box, run.direction(box, 0, np.arange(box.n)))
        elif count:
            method: second.Analytic | second.Real = second.Analytic(box) if facts.analytic else second.Real(box)
            for start in range(0, count, most):
                some = slice(start, start + most)
                entries[some], errors[some] = method.entries(self.i[some], self.j[some])
            if guard:
                run.prove_gradient(box, method)
        return Found(entries[self.which], errors[self.which], value)

    def directions(self, box: BlackBox, pattern: SparsityPattern) -> list[tuple[Array, Array]]:
        """Pairs w, v with a wᵀHv that the entries give.

        Where all entries are known, these are a random pair, and pairs of which no entry of w meets one of v in the
        pattern: there f(x + a + b) − f(x + a) is f(x + b) − f(x) to rounding, however large H is, unless an entry is
        missing. Otherwise they are unit vectors of one entry that is known.
        """
        w, v = random_multiples(box, SEEDS[0]), random_multiples(box, SEEDS[1])
        rng = np.random.default_rng(SEEDS[0])
        if len(self.i) < np.count_nonzero(pattern.rows >= pattern.indices):
            one, entry = int(rng.integers(len(self.i))), np.arange(box.n)
            return [(np.where(entry == self.i[one], w, 0.0), np.where(entry == self.j[one], v, 0.0))]
        pairs = [(w, v)]
        matrix, share = pattern.to_scipy().astype(np.int32), box.n / (box.n + pattern.nnz)
        for _ in range(min(MOST_TRIALS, len(self.i) // PAIRS_PER_TRIAL)):
            some = rng.random(box.n) < share
            pairs.append((np.where(matrix @ some == 0, w, 0.0), np.where(some, v, 0.0)))
        return pairs

    def noise(self, box: BlackBox, found: Found) -> float:
        """The largest error of an entry, in units of wᵀHv: what cannot be seen of an entry that is missing."""
        scale = steps.exact_scales(box)
        with np.errstate(all="ignore"):
            return float(np.max(scale[self.i] * scale[self.j] * found.errors[self.first], initial=0.0))

    def product(self, found: Found, w: Array, v: Array) -> tuple[Array, Array]:
        """wᵀHv, and what the errors of the entries allow it to be off; each [1]."""
        i, j = self.i, self.j
        weight = w[i] * v[j] + np.where(i == j, 0.0, w[j] * v[i])
        with np.errstate(all="ignore"):
            product, off = weight @ found.entries[self.first], np.abs(weight) @ found.errors[self.first]
        return np.atleast_1d(product), np.atleast_1d(off)

    def evaluations(self, facts: Facts, n: int) -> int:
        """How many the entries take."""
        if facts.linear or not len(self.i):
            return 0
        diagonal = int(np.count_nonzero(self.i == self.j))
        indices = len(np.union1d(self.i, self.j))
        total = second.evaluations(len(self.i), indices, diagonal, facts.analytic)
        return total + (n if facts.analytic else 0)  # the gradient, which analytic second derivatives start from


def random_multiples(box: BlackBox, seed: int) -> Array:
    """Multiples of the scales of x, exact to add to x, that are not those of the steps.

    A difference that mixes two columns, because the pattern misses an entry, is right along directions that move both
    as the steps did.
    """
    rng = np.random.default_rng(seed)
    return np.asarray(steps.exact_scales(box) * rng.integers(32, 128, box.n) * rng.choice([-1, 1], box.n) / 128)
