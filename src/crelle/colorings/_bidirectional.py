"""Columns and rows together: every wanted entry is read off a product with columns or off one with rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from crelle.colorings._cleanup import compact, neutralise_both
from crelle.colorings._conflicts import Conflicts
from crelle.colorings._lines import Effort, color_lines
from crelle.colorings._orders import ORDERS, order_of
from crelle.colorings._symmetric import Graph, marks
from crelle.pattern import SparsityPattern
from crelle.pattern._csr import Ints

#: Star colourings are tried up to this many two-step paths, on lists and compiled.
_PLAIN_STEPS, _STEPS = 2e5, 5e6
#: Cuts that are coloured, of those with the lowest estimates.
_TRIED = 4
#: Rows and columns together up to which every line may be set apart.
_EVERY_TURN = 4000


@dataclass(frozen=True)
class FoundBoth:
    """Colours of columns and of rows, how they were found, and how few products there can be."""

    column_colors: Ints
    row_colors: Ints
    order: str
    lower_bound: int

    @property
    def used(self) -> int:
        """Number of products."""
        return int(self.column_colors.max(initial=-1)) + int(self.row_colors.max(initial=-1)) + 2


def subset(pattern: SparsityPattern, keep: Ints) -> SparsityPattern:
    """The entries that are marked."""
    ends = np.concatenate([[0], np.cumsum(keep)])
    return SparsityPattern._trusted(pattern.shape, ends[pattern.indptr], pattern.indices[keep])


def _bipartite(pattern: SparsityPattern) -> SparsityPattern:
    """[0 P; Pᵀ 0]: rows and columns as vertices, rows first."""
    (m, n), turned = pattern.shape, pattern.T
    return SparsityPattern._trusted(
        (m + n, m + n),
        np.concatenate([pattern.indptr.astype(np.int64), turned.indptr[1:].astype(np.int64) + pattern.nnz]),
        np.concatenate([pattern.indices.astype(np.int64) + m, turned.indices.astype(np.int64)]),
    )


def color_columns_and_rows(pattern: SparsityPattern, wanted: SparsityPattern | None, effort: Effort) -> FoundBoth:
    """The best of: columns alone, rows alone, dense lines first and the rest from one side, star colourings."""
    (m, n), rows, cols = pattern.shape, pattern.rows, pattern.cols
    target = pattern if wanted is None else wanted
    marked = np.ones(pattern.nnz, bool) if wanted is None else marks(pattern, wanted)
    # One product with columns reads m numbers, one with rows n.
    bound = max(-(-target.nnz // max(m, n, 1)), min(1, target.nnz))
    nothing = np.full(n, -1, np.int32), np.full(m, -1, np.int32)
    if not target.nnz:
        return FoundBoth(*nothing, "no choice", 0)

    best: FoundBoth | None = None
    chosen = marked, ""
    quick = replace(effort, seconds=0.0, annealing=False)

    def consider(column_colors: Ints, row_colors: Ints, name: str) -> None:
        nonlocal best
        found = FoundBoth(*neutralise_both(rows, cols, marked, column_colors, row_colors), name, bound)
        if best is None or found.used < best.used:
            best = found

    def cut(left: Ints, where: str, effort: Effort) -> None:
        """Entries on the left from products with rows, the others from products with columns."""
        nonlocal chosen
        before = best
        side, names = list(nothing), []
        for k, keep, conflicts_of in ((0, marked & ~left, Conflicts.of_columns), (1, left, Conflicts.of_rows)):
            if keep.any():
                part = subset(pattern, keep)
                conflicts = conflicts_of(pattern, None if part.nnz == pattern.nnz else part)
                found = color_lines(conflicts, effort)
                side[k] = conflicts.spread(found.colors)
                names.append(found.order)
        consider(side[0], side[1], f"{where}; {', '.join(dict.fromkeys(names))}")
        if best is not before:
            chosen = left, where

    def price(left: Ints) -> int:
        """At least so many products."""
        by_column = int(np.bincount(rows[marked & ~left], minlength=1).max())
        return by_column + int(np.bincount(cols[left], minlength=1).max())

    for left in sorted((np.zeros_like(marked), marked), key=price):
        if best is None or price(left) < best.used:
            cut(left, "one side", quick)
    assert best is not None
    if best.used <= bound:
        return best
    graph = Graph(_bipartite(pattern), max(m, n))
    by_degree = order_of("dynamic-largest-first", graph.ptr, graph.adjacent, graph.plain)
    taken = np.empty(m + n, np.int64)
    taken[by_degree] = np.arange(m + n)
    row_turn, column_turn = taken[:m][rows], taken[m:][cols]
    counts = np.diff(graph.ptr)
    # In a large matrix only lines that are much denser than the others are worth a product of their own.
    dense = m + n if m + n <= _EVERY_TURN else int((counts > 3 * pattern.nnz / max(min(m, n), 1) + 3).sum())
    cuts = []
    for turn in _turns(dense):
        by_row, by_column, row_first = row_turn < turn, column_turn < turn, row_turn < column_turn
        # Where a dense row and a dense column meet, either may be the one that is read.
        for left, rest in (
            (by_row, "columns"),
            (~by_column, "rows"),
            (by_row & row_first, "columns"),
            (~by_column | row_first, "rows"),
        ):
            cuts.append((price(marked & left), turn, rest, marked & left))
    cuts.sort(key=lambda item: item[:3])
    tried: list[Ints] = []
    for least, turn, rest, left in cuts:
        if len(tried) == _TRIED or least >= best.used:
            break
        if not any(np.array_equal(left, other) for other in tried):
            tried.append(left)
            cut(left, f"{_lines_text(turn)} apart, rest by {rest}", quick)
    if best.used > bound:  # what takes time is done once
        cut(*chosen, effort)
    if best.used > bound and graph.steps <= (_PLAIN_STEPS if graph.plain else _STEPS):
        for name in effort.orders or ORDERS:
            colors, _ = graph.star(order_of(name, graph.ptr, graph.adjacent, graph.plain, effort.seed))
            consider(compact(colors[m:]), compact(colors[:m]), f"star, {name}")
    return best


def _lines_text(count: int) -> str:
    return f"{count:,} dense line{'' if count == 1 else 's'}"


def _turns(lines: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, … up to the number of lines."""
    powers = [2**k for k in range(lines.bit_length())]
    return sorted({t for p in powers for t in (p, 3 * p // 2) if t <= lines})
