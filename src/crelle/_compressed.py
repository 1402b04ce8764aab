"""How a sparse matrix is computed: its pattern, its colours, and where each entry is found among the products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from crelle._parts import wanted
from crelle.backends._protocol import Call
from crelle.colorings import Coloring, color_columns, color_symmetric, coloring
from crelle.colorings._orders import Order
from crelle.pattern import SparsityPattern
from crelle.tangent.program import Dependence, TangentProgram
from crelle.tangent.report import pattern_of
from crelle.tangent.sparsity import TooDense, detect

Ints = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Ways:
    """What is run for a sparse matrix.

    Attributes:
        pattern: of the entries that are computed: all, or the part that was asked for.
        whole: whether it is all of the matrix.
        coloring: of what is run at each point; ``None`` if nothing varies.
        place: for each entry of the pattern, in CSR order, where it is in the raveled products.
        constant: the colouring that gives the part that is the same for every x, once; ``None`` if all is run anew.
        varies: for each entry whether it is run anew.
        notes: what was conservative.
    """

    pattern: SparsityPattern
    coloring: Coloring | None
    place: Ints
    constant: Coloring | None
    varies: np.ndarray[Any, Any]
    whole: bool = True
    notes: tuple[str, ...] = ()

    @cached_property
    def flat(self) -> Ints:
        """The place of each entry in the raveled matrix."""
        m, n = self.pattern.shape
        index = self.pattern.rows.astype(np.int64) * n + self.pattern.indices
        return index if m * n >= 2**31 else index.astype(np.int32)

    @property
    def passes(self) -> int:
        """Products at each point."""
        return 0 if self.coloring is None else self.coloring.passes


def choose(call: Call, program: TangentProgram, splits: bool, given: SparsityPattern | None = None) -> Ways:
    """The colouring with the fewest passes; of the varying part alone where that takes fewer.

    Args:
        splits: whether the backend can run the varying part alone.
        given: the user's pattern, taken in place of the one of the program.
    """
    hessian, part = call.request.kind == "hessian", call.request.part
    found = detect(program)
    pattern, notes = (pattern_of(found), found.notes) if given is None else (given, ())
    varies = np.ones(pattern.nnz, bool) if given is not None else found.kinds != Dependence.CONSTANT
    if hessian and pattern.nnz:
        pattern, varies = _symmetric(pattern, varies)
    keep = np.ones(pattern.nnz, bool) if part is None else wanted(part, pattern, call.text)
    whole = bool(keep.all())
    target = pattern if whole else _part(pattern, keep)
    if not target.nnz:
        return Ways(target, None, np.zeros(0, np.int32), None, varies[keep], whole, notes)
    color: Callable[..., Coloring] = coloring
    if hessian:
        color = color_symmetric if whole else _symmetric_part
    aim = None if whole else target
    every = color(pattern, wanted=aim, orders=QUICK)
    if splits and given is None and not varies.all():
        # computed once: a few products more do not matter
        once = every if every.row_colors is None else color_columns(pattern, wanted=aim, orders=QUICK)
        if not (varies & keep).any():
            return Ways(target, None, np.zeros(0, np.int32), once, varies[keep], whole, notes)
        rest, some = _part(pattern, varies), color if hessian else color_columns
        varying = some(rest, wanted=None if whole else _part(pattern, varies & keep), orders=_orders(rest))
        if varying.passes < every.passes:
            place = np.zeros(target.nnz, np.int32)
            place[varies[keep]] = places(varying, pattern.shape[0])
            return Ways(target, varying, place, once, varies[keep], whole, notes)
    if _orders(pattern) is None:
        every = color(pattern, wanted=aim)
    return Ways(target, every, places(every, pattern.shape[0]), None, np.ones(target.nnz, bool), whole, notes)


def _symmetric_part(pattern: SparsityPattern, **options: Any) -> Coloring:
    """For a part of a symmetric matrix symmetry may be of no use, and then is in the way."""
    both = color_symmetric(pattern, **options), color_columns(pattern, **options)
    return min(both, key=lambda found: found.passes)


#: Orders that take no time to speak of.
QUICK: tuple[Order, ...] = ("natural", "largest-first")
#: With at most this many rows and columns a product less saves less than it takes to look for it.
SMALL = 1000


def _orders(pattern: SparsityPattern) -> tuple[Order, ...] | None:
    return QUICK if max(pattern.shape) <= SMALL else None


#: A matrix with a larger share of entries is computed column by column: coloured, it would need as many products.
DENSE = 0.4


def of_dense(program: TangentProgram, hessian: bool) -> Ways | None:
    """Coloured products that give a dense matrix; ``None`` if they are as many as without colours."""
    m, n = program.rows, program.columns
    try:
        found = detect(program, DENSE * m * n)
    except TooDense:
        return None
    pattern, every = pattern_of(found), np.ones(len(found.indices), bool)
    if pattern.nnz > DENSE * m * n:
        return None
    if hessian:
        pattern, every = _symmetric(pattern, every)
    if not pattern.nnz:
        return Ways(pattern, None, np.zeros(0, np.int32), None, every, True, found.notes)
    colors = (color_symmetric if hessian else coloring)(pattern, orders=QUICK)  # the zeros will take longer
    if colors.passes >= (n if hessian else min(m, n)):
        return None
    return Ways(pattern, colors, places(colors, m), None, every, True, found.notes)


def places(coloring: Coloring, rows: int) -> Ints:
    """Where entries are in products that come colour by colour: those of columns, [k, m], then of rows, [k, n]."""
    side, color, position = coloring.places()
    columns = coloring.pattern.shape[1]
    first = rows * coloring.column_passes
    place = np.where(
        side == 0, color.astype(np.int64) * rows + position, first + color.astype(np.int64) * columns + position
    )
    return place.astype(np.int32) if place.max(initial=0) < 2**31 else place


def _part(pattern: SparsityPattern, keep: Any) -> SparsityPattern:
    """The entries of a pattern that are kept."""
    sums = np.append(0, np.cumsum(keep))
    return SparsityPattern._trusted(pattern.shape, sums[pattern.indptr], pattern.indices[keep])


def _symmetric(pattern: SparsityPattern, varies: Any) -> tuple[SparsityPattern, Any]:
    """A pattern that is conservative on one side only is made symmetric; an entry varies if its mirror image does."""
    import scipy.sparse as sp

    marks = sp.csr_array(
        (varies.astype(np.int8) + 1, pattern.indices.copy(), pattern.indptr.copy()), shape=pattern.shape
    )
    both = marks.maximum(marks.T).tocsr()
    both.sort_indices()
    return SparsityPattern._trusted(pattern.shape, both.indptr, both.indices), both.data > 1
