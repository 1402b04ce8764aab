"""Colouring lines that may not meet (distance-2 colouring): several orders, lattices, restarts; the fewest win."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from crelle.colorings._anneal import anneal
from crelle.colorings._conflicts import MOST_CONFLICTS, Conflicts
from crelle.colorings._lattice import lattice
from crelle.colorings._orders import ORDERS, Order
from crelle.pattern._csr import Ints

#: By default, orders that need degrees are tried up to this many pairs of lines that meet, and ...
DEGREES_UP_TO = 2e8
#: ... those that need the conflict graph up to this many.
GRAPH_UP_TO = 3e6
#: Steps that are spent on fewer colours, on lists and compiled: 0.1 s. A move takes as many as there are colours and
#: neighbours, and there are at most so many for each line.
PLAIN_STEPS, STEPS = 1e6, 4e7
MOVES = 100
#: On lists, where a step costs a hundred times as much.
PLAIN_GRAPH_UP_TO = 3e5


@dataclass(frozen=True)
class Found:
    """Colours of the lines of a :class:`Conflicts`, how many, how they were found, and how few there can be."""

    colors: Ints
    used: int
    order: str
    lower_bound: int


@dataclass(frozen=True)
class Effort:
    """What to try: orders (None for those that are worth their price), a time budget for more, and annealing or not."""

    orders: Sequence[Order] | None = None
    seconds: float = 0.0
    seed: int = 0
    annealing: bool = True


def color_lines(conflicts: Conflicts, effort: Effort) -> Found:
    """The best colouring of those that are tried; nothing is tried after the lower bound is reached."""
    bound = conflicts.lower_bound
    if bound <= 1 or bound == conflicts.size:
        colors = np.zeros(conflicts.size, np.int32) if bound <= 1 else np.arange(conflicts.size, dtype=np.int32)
        return Found(colors, bound, "no choice", bound)
    best: Found | None = None
    for name in effort.orders or ORDERS:
        if effort.orders is None and not _worth(name, conflicts):
            continue
        colors, used = conflicts.first_fit(conflicts.order(name, effort.seed))
        if best is None or used < best.used:
            best = Found(colors, used, name, bound)
        if best.used == bound:
            return best
        if name == "natural" or effort.orders:
            found = lattice(conflicts, best.used) if effort.orders is None else None
            if found is not None:
                # It uses what no order sees. Another order could only be better by chance, and costs more.
                best = Found(*found, bound)
                break
    assert best is not None
    if best.used > bound:
        bound = max(bound, clique(conflicts))
        best = Found(best.colors, best.used, best.order, bound)
    if effort.orders is None and effort.annealing and best.used > bound:
        best = _fewer(best, conflicts, effort.seed)
    if effort.seconds > 0 and best.used > bound:
        end = time.perf_counter() + effort.seconds
        if conflicts.steps <= DEGREES_UP_TO:
            seed = effort.seed
            while best.used > bound and time.perf_counter() + effort.seconds / 2 < end:
                seed += 1
                best = _fewer(best, conflicts, seed, always=True)
        best = restarts(best, conflicts.size, conflicts.first_fit, effort.seed, end)
    return best


def _fewer(best: Found, conflicts: Conflicts, seed: int, always: bool = False) -> Found:
    """One colour less, and one less again, while the moves that a step limit allows are enough."""
    limit = PLAIN_GRAPH_UP_TO if conflicts.plain else GRAPH_UP_TO
    if not always and (conflicts.steps > GRAPH_UP_TO * 10 or conflicts.degrees.sum() > limit):
        return best
    ptr, adjacent = conflicts.graph
    while best.used > best.lower_bound:
        moves = int((PLAIN_STEPS if conflicts.plain else STEPS) / (best.used + adjacent.size / conflicts.size))
        moves = min(moves, MOVES * conflicts.size)
        colors = anneal(ptr, adjacent, best.colors, best.used - 1, moves, seed, conflicts.plain)
        if colors is None:
            break
        name = best.order.removesuffix(", annealed")
        best = Found(colors, best.used - 1, f"{name}, annealed", best.lower_bound)
    return best


def _worth(name: Order, conflicts: Conflicts) -> bool:
    if name == "natural":
        return True
    if name == "largest-first":
        return conflicts.steps <= (DEGREES_UP_TO if not conflicts.plain else MOST_CONFLICTS)
    limit = PLAIN_GRAPH_UP_TO if conflicts.plain else GRAPH_UP_TO
    return conflicts.steps <= GRAPH_UP_TO * 10 and (conflicts.steps <= limit or conflicts.degrees.sum() <= limit)


def clique(conflicts: Conflicts) -> int:
    """Size of a set of lines that all conflict: the largest group, and what conflicts with all of it, one by one."""
    if conflicts.steps > GRAPH_UP_TO or (conflicts.plain and conflicts.degrees.sum() > GRAPH_UP_TO):
        return 0
    ptr, adjacent = conflicts.graph
    start = int(conflicts.degrees.argmax())
    best = 0
    group = int(np.diff(conflicts.gptr).argmax())
    seeds = conflicts.line[conflicts.gptr[group] : conflicts.gptr[group + 1]]
    if conflicts.flags is not None:  # of the unflagged lines only one can belong
        flagged = conflicts.flags[1][conflicts.gptr[group] : conflicts.gptr[group + 1]] > 0
        seeds = seeds[flagged]
    for members in (seeds.tolist(), [start]):
        common: Ints | None = None
        for v in members:
            near = adjacent[ptr[v] : ptr[v + 1]]
            common = near if common is None else np.intersect1d(common, near, assume_unique=True)
        size = len(members)
        while common is not None and common.size:
            v = int(common[conflicts.degrees[common].argmax()])
            common = np.intersect1d(common, adjacent[ptr[v] : ptr[v + 1]], assume_unique=True)
            size += 1
        best = max(best, size)
    return best


def restarts(best: Found, size: int, first_fit: Callable[[Ints], tuple[Ints, int]], seed: int, end: float) -> Found:
    """Iterated recolouring and random orders, in turn, until `end` (of ``perf_counter``) or the lower bound is reached.

    Colouring again with the classes of a colouring side by side never takes more colours (Culberson 1992), whatever
    the order of the classes: they are reversed, sorted by size, or shuffled. Every 20 rounds without success a random
    order is the new beginning.
    """
    rng = np.random.default_rng(seed)
    colors, used, since, name = best.colors, best.used, 0, best.order
    while time.perf_counter() < end and best.used > best.lower_bound:
        if since >= 20:
            colors, used = first_fit(rng.permutation(size))
            since, name = 0, "random"
        else:
            rank = rng.permutation(used)
            turn = since % 4
            if turn == 0:
                rank = np.arange(used)[::-1]
            elif turn == 1:
                sizes = np.bincount(colors, minlength=used)
                rank = np.empty(used, np.int64)
                rank[np.argsort(-sizes, kind="stable")] = np.arange(used)
            colors, again = first_fit(np.argsort(rank[colors], kind="stable"))
            since = 0 if again < used else since + 1
            used = again
        if used < best.used:
            best = Found(
                colors, used, f"{name}, recoloured" if since or "random" not in name else name, best.lower_bound
            )
    return best
