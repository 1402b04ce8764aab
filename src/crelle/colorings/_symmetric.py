"""Colourings of symmetric matrices: star colourings (read directly) and acyclic ones (read by substitution)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from crelle.colorings._cleanup import neutralise_symmetric
from crelle.colorings._compiled import is_plain, kernel
from crelle.colorings._conflicts import Conflicts
from crelle.colorings._lines import Effort, Found, color_lines, restarts
from crelle.colorings._orders import ORDERS, order_of
from crelle.colorings._recovery import eliminate, transposed_places
from crelle.pattern import SparsityPattern
from crelle.pattern._csr import Ints

#: Two-step paths up to which all orders are tried by default, on lists and compiled.
_PLAIN_STEPS, _STEPS = 3e5, 2e7
#: Two-step paths that take ten seconds compiled, ...
_ACYCLIC_STEPS = 2e9
#: ... and a few seconds on lists.
_PLAIN_AT_MOST = 5e6


@dataclass(frozen=True, eq=False)
class Graph:
    """The graph of a symmetric pattern: an edge for each pair of entries off the diagonal.

    Args:
        pattern: the pattern.
        longest: rows or columns, whichever are more, of the matrix that is coloured.
    """

    pattern: SparsityPattern
    longest: int

    @cached_property
    def _arrays(self) -> tuple[Ints, Ints, Ints]:
        rows, cols = self.pattern.rows, self.pattern.cols
        off = rows != cols
        places = np.arange(self.pattern.nnz, dtype=np.int64)
        number = np.minimum(places, transposed_places(self.pattern))
        counts = np.bincount(rows[off], minlength=self.pattern.shape[0])
        ptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return ptr, np.array(cols[off]), number[off]

    @property
    def ptr(self) -> Ints:
        """Where the neighbours of each vertex begin."""
        return self._arrays[0]

    @property
    def adjacent(self) -> Ints:
        """Neighbours, rising."""
        return self._arrays[1]

    @property
    def edge(self) -> Ints:
        """Number of each edge, the same in both directions."""
        return self._arrays[2]

    @property
    def size(self) -> int:
        """Number of vertices."""
        return self.pattern.shape[0]

    @cached_property
    def steps(self) -> float:
        """Number of two-step paths."""
        return float((np.diff(self.ptr).astype(np.float64) ** 2).sum()) + self.size

    @cached_property
    def plain(self) -> bool:
        """Small enough to do without the compiler, and not so dense that waiting for it is the lesser evil."""
        return self.steps <= _PLAIN_AT_MOST and is_plain(self.longest, self.longest, self.steps)

    def star(self, order: Ints) -> tuple[Ints, int]:
        """Neighbours differ, and every path of four vertices has three colours."""
        n, edges = self.size, self.pattern.nnz
        colors, trees, hubs = np.full(n, -1, np.int32), np.full(edges, -1, np.int64), np.full(edges + 1, -1, np.int64)
        work = [np.full(n + 1, -1, np.int64) for _ in range(5)]
        spokes = np.zeros(n, np.int64)
        used = _star(
            order.astype(np.int64),
            self.ptr,
            self.adjacent,
            self.edge,
            *work,
            spokes,
            trees,
            hubs,
            colors,
            plain=self.plain,
        )
        return colors, used

    def acyclic(self, order: Ints) -> tuple[Ints, int]:
        """Neighbours differ, and every cycle has three colours."""
        n, edges = self.size, self.pattern.nnz
        colors, parent = np.full(n, -1, np.int32), np.arange(edges)
        visits = [np.full(edges, -1, np.int64) for _ in range(2)]
        work = [np.full(n + 1, -1, np.int64) for _ in range(3)]
        used = _acyclic(
            order.astype(np.int64),
            self.ptr,
            self.adjacent,
            self.edge,
            parent,
            *visits,
            *work,
            colors,
            plain=self.plain,
        )
        return colors, used


def symmetric_bound(pattern: SparsityPattern, wanted: SparsityPattern) -> int:
    """How few products there can be: n·k numbers are read for all the entries on one side of the diagonal."""
    both = wanted | wanted.T
    n, diagonal = pattern.shape[0], int((both.rows == both.cols).sum())
    entries = (both.nnz - diagonal) // 2 + diagonal
    return -(-entries // n) if n else 0


def color_graph(pattern: SparsityPattern, wanted: SparsityPattern | None, effort: Effort, substitution: bool) -> Found:
    """The best symmetric colouring of those that are tried: each order, and columns that do not meet."""
    graph, target = Graph(pattern, pattern.shape[0]), pattern if wanted is None else wanted
    bound = symmetric_bound(pattern, target)
    rows, cols = pattern.rows, pattern.cols
    mirrored = transposed_places(pattern)
    marked = np.ones(pattern.nnz, bool) if wanted is None else marks(pattern, wanted)
    everywhere = bool((marked & (rows == cols)).sum() == pattern.shape[0])

    def finish(colors: Ints, by_substitution: bool) -> tuple[Ints, int]:
        # With all of the diagonal wanted every vertex is needed.
        if not everywhere:
            if by_substitution:
                colors = _without_idle(pattern, marked | marked[mirrored], colors)
            else:
                colors = neutralise_symmetric(rows, cols, mirrored, marked, colors)
        return colors, int(colors.max(initial=-1)) + 1

    if not target.nnz:
        return Found(np.full(pattern.shape[0], -1, np.int32), 0, "no choice", 0)
    # An acyclic colouring takes a look at every two-step path. What a star colouring gives can be substituted, too.
    attempt = graph.acyclic if substitution and graph.steps <= _ACYCLIC_STEPS else graph.star
    best: Found | None = None
    limit = _PLAIN_STEPS if graph.plain else _STEPS
    for name in effort.orders or ORDERS:
        if effort.orders is None and best is not None and graph.steps > limit and name != "largest-first":
            continue
        order = order_of(name, graph.ptr, graph.adjacent, graph.plain, effort.seed)
        colors, used = finish(attempt(order)[0], substitution)
        if best is None or used < best.used:
            best = Found(colors, used, name, bound)
        if best.used <= bound:
            return best
    assert best is not None
    if effort.orders is None:
        # Columns that do not meet are read directly whatever the symmetry, and have lattices and partial wishes.
        conflicts = Conflicts.of_columns(pattern, wanted)
        if conflicts.lower_bound < best.used:
            found = color_lines(conflicts, Effort())
            colors, used = finish(conflicts.spread(found.colors), False)
            if used < best.used:
                best = Found(colors, used, f"columns, {found.order}", bound)
    if effort.seconds > 0 and best.used > bound:
        better = restarts(
            Found(*attempt(np.argsort(best.colors, kind="stable")), best.order, bound),
            graph.size,
            attempt,
            effort.seed,
            time.perf_counter() + effort.seconds,
        )
        colors, used = finish(better.colors, substitution)
        if used < best.used:
            best = Found(colors, used, better.order, bound)
    return best


def marks(pattern: SparsityPattern, wanted: SparsityPattern) -> Ints:
    """Which entries of the pattern are wanted."""
    matrix = pattern._as_scipy().astype(np.int8) + wanted._as_scipy().astype(np.int8)
    marked: Ints = matrix.data == 2
    return marked


def _without_idle(pattern: SparsityPattern, wanted: Ints, colors: Ints) -> Ints:
    """Take colours away as long as substitution still reaches every wanted entry."""
    from crelle.colorings._cleanup import compact

    size = int(colors.max(initial=-1)) + 1
    if size * pattern.nnz > 2e7:
        return compact(colors)
    for color in np.argsort(np.bincount(colors[colors >= 0], minlength=size), kind="stable").tolist():
        fewer = np.where(colors == color, -1, colors)
        if (eliminate(pattern, fewer)[0][wanted] >= 0).all():
            colors = fewer
    return compact(colors)


@kernel(writes="colors")
def _star(
    order: Any,
    ptr: Any,
    adjacent: Any,
    edge: Any,
    forbidden: Any,
    by_color: Any,
    neighbor: Any,
    treated: Any,
    via: Any,
    spokes: Any,
    star: Any,
    hub: Any,
    colors: Any,
) -> int:
    """Algorithm 4.1 of Gebremedhin, Tarafdar, Manne and Pothen (2007): two-coloured stars are kept as they grow.

    For the vertex v in hand, ``neighbor[c]`` is the first neighbour of colour c (valid where ``by_color[c] == v``) and
    ``via[c]`` the edge to it. ``star[e]`` is the star of edge e, ``hub[s]`` its centre, −1 while it is a single edge.
    ``spokes[w]`` counts the stars that w is in without being their centre: where there are none, which is so for the
    vertices that have most neighbours, these need not be looked at.
    """
    used, stars = 0, 0
    for v in order:
        for e in range(ptr[v], ptr[v + 1]):
            w = adjacent[e]
            c = colors[w]
            if c >= 0:
                forbidden[c] = v
                if by_color[c] == v:
                    q = neighbor[c]
                    if treated[q] != v:
                        for f in range(ptr[q], ptr[q + 1]):
                            if colors[adjacent[f]] >= 0:
                                forbidden[colors[adjacent[f]]] = v
                        treated[q] = v
                    for f in range(ptr[w], ptr[w + 1]):
                        if colors[adjacent[f]] >= 0:
                            forbidden[colors[adjacent[f]]] = v
                    treated[w] = v
                else:
                    by_color[c] = v
                    neighbor[c] = w
                    via[c] = edge[e]
                    if spokes[w] > 0:
                        for f in range(ptr[w], ptr[w + 1]):
                            x = adjacent[f]
                            if colors[x] >= 0 and hub[star[edge[f]]] == x:
                                forbidden[colors[x]] = v
        color = 0
        while forbidden[color] == v:
            color += 1
        colors[v] = color
        used = max(used, color + 1)
        for e in range(ptr[v], ptr[v + 1]):
            w = adjacent[e]
            if colors[w] >= 0:
                joined = False
                for f in range(ptr[w], ptr[w + 1]):
                    x = adjacent[f]
                    if x != v and colors[x] == color:
                        if hub[star[edge[f]]] < 0:
                            hub[star[edge[f]]] = w
                            spokes[x] += 1
                        star[edge[e]] = star[edge[f]]
                        spokes[v] += 1
                        joined = True
                        break
                if not joined:
                    q = neighbor[colors[w]]
                    if q != w:
                        if hub[star[via[colors[w]]]] < 0:
                            hub[star[via[colors[w]]]] = v
                            spokes[q] += 1
                        star[edge[e]] = star[via[colors[w]]]
                        spokes[w] += 1
                    else:
                        star[edge[e]] = stars
                        stars += 1
    return used


@kernel(writes="colors")
def _acyclic(
    order: Any,
    ptr: Any,
    adjacent: Any,
    edge: Any,
    parent: Any,
    visitor: Any,
    visited: Any,
    forbidden: Any,
    by_color: Any,
    via: Any,
    colors: Any,
) -> int:
    """Algorithm 3.1 of the same paper: two-coloured trees are kept as sets of edges, by union and find.

    ``visitor[t], visited[t]``: the vertex that reached tree t last, and through which neighbour.
    """
    used = 0
    for v in order:
        for e in range(ptr[v], ptr[v + 1]):
            if colors[adjacent[e]] >= 0:
                forbidden[colors[adjacent[e]]] = v
        for e in range(ptr[v], ptr[v + 1]):
            w = adjacent[e]
            if colors[w] >= 0:
                for f in range(ptr[w], ptr[w + 1]):
                    x = adjacent[f]
                    if colors[x] >= 0 and forbidden[colors[x]] != v:
                        t = edge[f]
                        while parent[t] != t:
                            parent[t] = parent[parent[t]]
                            t = parent[t]
                        if visitor[t] != v:
                            visitor[t] = v
                            visited[t] = w
                        elif visited[t] != w:
                            forbidden[colors[x]] = v
        color = 0
        while forbidden[color] == v:
            color += 1
        colors[v] = color
        used = max(used, color + 1)
        for e in range(ptr[v], ptr[v + 1]):
            w = adjacent[e]
            c = colors[w]
            if c >= 0:
                if by_color[c] != v:
                    by_color[c] = v
                    via[c] = edge[e]
                else:
                    t, s = edge[e], via[c]
                    while parent[t] != t:
                        t = parent[t]
                    while parent[s] != s:
                        s = parent[s]
                    parent[t] = s
        for e in range(ptr[v], ptr[v + 1]):
            w = adjacent[e]
            if colors[w] >= 0:
                for f in range(ptr[w], ptr[w + 1]):
                    x = adjacent[f]
                    if x != v and colors[x] == color:
                        t, s = edge[e], edge[f]
                        while parent[t] != t:
                            parent[t] = parent[parent[t]]
                            t = parent[t]
                        while parent[s] != s:
                            parent[s] = parent[parent[s]]
                            s = parent[s]
                        if t != s:
                            parent[t] = s
    return used
