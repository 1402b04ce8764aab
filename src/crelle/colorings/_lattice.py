"""Colourings of grids by a formula: every step along an axis adds a fixed element of a small group.

Where a pattern is a stencil on a grid, a vertex (field f, position i, j, k) gets the colour

    c_f + s(i) + t(j) + u(k)   in a group of K elements (Z_K, or a product of such),

where s, t and u add the same element at every step. Around a periodic axis the steps must add up to nothing, which one
element alone does only if the length suits; two elements, spread evenly around the axis, do for most lengths.

The grid is guessed from the pattern, and the displacements that conflict are collected from some of its rows. So the
result is tried on the pattern itself, and where two lines clash, their rows are taken in and the search goes on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from crelle.colorings._abelian import Group, groups_of
from crelle.colorings._anneal import anneal
from crelle.colorings._compiled import SMALL
from crelle.colorings._conflicts import Conflicts
from crelle.pattern._csr import Ints

Displacement = tuple[int, ...]

#: Axes at most this long may hold fields, whose places are told apart.
_FIELDS = 12
#: A stencil reaches at most this far.
_REACH = 8
#: Displacements beyond this number are no stencil, or one for which there is nothing to win.
_MOST_DISPLACEMENTS = 700
#: Rows that are looked at first, rows that are added after each clash, and how often.
_SAMPLE, _ROUNDS = 1500, 6
#: Partial solutions that are kept at each stage, and colours beyond which nothing is tried.
_WIDTH, _MOST_COLORS = 200_000, 64
#: Vertices of a folded grid, and moves that are spent on it.
_FOLDED, _MOVES = 20_000, 200_000
#: Sums that are formed at most, and more for each line; they take about 20 ns.
_WORK, _WORK_PER_LINE = 3_000_000, 20


@dataclass(frozen=True)
class _Axis:
    """An axis of the grid, and how far conflicts reach along it."""

    length: int
    periodic: bool
    reach: int


@dataclass(frozen=True)
class _Steps:
    """Ways to walk along an axis: `base` at every step, `other` at `count` steps spread evenly."""

    base: Ints
    other: Ints
    count: Ints

    def take(self, which: Ints) -> _Steps:
        return _Steps(self.base[which], self.other[which], self.count[which])


def _ways(axis: _Axis, group: Group) -> _Steps:
    """All that close. Of counts that no window within reach can tell apart, the lowest."""
    size, n = group.size, axis.length
    elements = np.arange(size)
    if not axis.periodic:
        return _Steps(elements, elements, np.zeros(size, np.int64))
    turns = {n * p // q for q in range(1, axis.reach + 1) for p in range(q + 1)}
    counts = np.array(sorted({c for t in turns for c in range(t - 1, t + size + 2) if 0 < c < n}), np.int64)
    spans = np.arange(1, axis.reach + 1)
    windows = np.stack([counts[:, None] * spans // n, -(-counts[:, None] * spans // n)], 2).reshape(counts.size, -1)
    kinds = np.unique(windows, axis=0, return_inverse=True)[1].reshape(-1) if counts.size else counts
    kept = np.unique(np.stack([kinds, counts % size], 1), axis=0, return_index=True)[1] if counts.size else kinds
    counts, kinds = counts[kept], kinds[kept]
    whole, minus = group.multiple(n, elements), group.multiple(-1, elements)
    base, other = np.triu_indices(size, 1)
    change = group.add[other, minus[base]]
    closes = group.add[whole[base], group.multiple(counts[:, None], change)] == 0
    which, pair = np.nonzero(closes)
    # One count for each kind of windows.
    first = np.unique(np.stack([kinds[which], pair], 1), axis=0, return_index=True)[1] if which.size else which
    which, pair = which[first], pair[first]
    same = np.flatnonzero(whole == 0)
    return _Steps(
        np.concatenate([same, base[pair]]),
        np.concatenate([same, other[pair]]),
        np.concatenate([np.zeros(same.size, np.int64), counts[which]]),
    )


def _reached(steps: _Steps, axis: _Axis, group: Group, d: int) -> Ints:
    """What d steps along the axis may add up to: two values for each way, [2, ways]."""
    change = group.add[steps.other, group.multiple(-1, steps.base)]
    sign, far = (1, d) if d >= 0 else (-1, -d)
    straight = group.multiple(sign * far, steps.base)
    low, high = steps.count * far // axis.length, -(-steps.count * far // axis.length)
    return np.stack([group.add[straight, group.multiple(sign * q, change)] for q in (low, high)])


@dataclass(frozen=True)
class _Grid:
    """Lengths of the axes in raveled order, and which of them holds the fields (−1: none)."""

    lengths: tuple[int, ...]
    field: int

    @property
    def fields(self) -> int:
        return self.lengths[self.field] if self.field >= 0 else 1

    @property
    def spatial(self) -> tuple[int, ...]:
        """Lengths of the other axes."""
        return tuple(n for k, n in enumerate(self.lengths) if k != self.field)

    def displacements(self, a: Ints, b: Ints) -> Ints:
        """Between vertices: field of the first, field of the second, and the raw difference along each other axis."""
        first, second = np.unravel_index(a, self.lengths), np.unravel_index(b, self.lengths)
        zero = np.zeros(a.size, np.int64)
        fields = [first[self.field], second[self.field]] if self.field >= 0 else [zero, zero]
        moves = [second[k] - first[k] for k in range(len(self.lengths)) if k != self.field]
        # As one number each, which is sorted much faster than rows are.
        sizes = (self.fields, self.fields, *(2 * n - 1 for n in self.spatial))
        shifts = (0, 0, *(n - 1 for n in self.spatial))
        digits = tuple(part + shift for part, shift in zip([*fields, *moves], shifts, strict=True))
        unique = np.unravel_index(np.unique(np.ravel_multi_index(digits, sizes)), sizes)
        return np.stack([part - shift for part, shift in zip(unique, shifts, strict=True)], 1)


def _grids(total: int, strides: list[int]) -> Iterator[_Grid]:
    """Grids whose strides are among these: three axes at most, and one for fields."""
    strides = [s for s in strides if s > 1 and total % s == 0 and s < total]
    for count in range(4):
        for chain in itertools.combinations(sorted(strides), count):
            if all(b % a == 0 for a, b in itertools.pairwise(chain)):
                edges = (1, *chain, total)
                lengths = tuple(b // a for a, b in itertools.pairwise(edges))[::-1]
                # An axis of two places is one of fields: telling these apart includes walking from one to the other.
                for k, n in enumerate(lengths):
                    if n <= _FIELDS and count > 0:
                        yield _Grid(lengths, k)
                if count < 3 and min(lengths) > 2:
                    yield _Grid(lengths, -1)


def _reduced(raw: Ints, spatial: tuple[int, ...]) -> tuple[set[Displacement], list[_Axis]] | None:
    """Displacements with the shorter way around each axis, once for both directions; None if they reach too far."""
    moves = raw[:, 2:].copy()
    axes = []
    for k, n in enumerate(spatial):
        around = 2 * np.abs(moves[:, k]) > n
        moves[around, k] -= np.sign(moves[around, k]) * n
        reach = int(np.abs(moves[:, k]).max(initial=0))
        if reach > _REACH or (n > 2 and 2 * reach > n):
            return None
        axes.append(_Axis(n, bool(around.any()), reach))
    found = set()
    for row, move in zip(raw[:, :2].tolist(), moves.tolist(), strict=True):
        forth, back = (*row, *move), (row[1], row[0], *(-d for d in move))
        if any(move) or row[0] != row[1]:
            found.add(max(forth, back) if row[0] == row[1] else forth if row[0] < row[1] else back)
    return found, axes


def _pairs(conflicts: Conflicts, groups: Ints) -> tuple[Ints, Ints]:
    """Lines that conflict in these groups, as columns (or rows) of the pattern."""
    first, second = [], []
    counts = np.diff(conflicts.gptr)[groups]
    for count in np.unique(counts).tolist():
        if count < 2:
            continue
        places = conflicts.gptr[groups[counts == count]][:, None].astype(np.int64) + np.arange(count)
        a, b = np.triu_indices(count, 1)
        members = conflicts.lines[conflicts.line[places]]
        left, right = members[:, a].ravel(), members[:, b].ravel()
        if conflicts.flags is not None:
            flagged = conflicts.flags[1][places] > 0
            either = (flagged[:, a] | flagged[:, b]).ravel()
            left, right = left[either], right[either]
        first.append(left)
        second.append(right)
    empty = np.zeros(0, np.int64)
    return (np.concatenate(first), np.concatenate(second)) if first else (empty, empty)


def lattice(conflicts: Conflicts, best: int) -> tuple[Ints, int, str] | None:
    """Colours of the lines, fewer than `best`, how many, and the formula; None if none is found."""
    bound, groups = conflicts.lower_bound, conflicts.gptr.size - 1
    if bound >= best or bound > _MOST_COLORS or conflicts.size < 8:
        return None
    if np.diff(conflicts.gptr).max() > 4 * _MOST_COLORS:  # which the bound does not see where few entries are wanted
        return None
    # Rows at both ends, where boundaries are, and some from everywhere.
    wide = max(1, bound**2 // 50)
    ends = min(groups, 1 + 200 // wide)
    inside = np.random.default_rng(0).integers(0, groups, 1 + _SAMPLE // wide)
    sample = np.unique(np.concatenate([np.arange(ends), np.arange(groups - ends, groups), inside]))
    pairs = _pairs(conflicts, sample)
    if not pairs[0].size:
        return None
    gaps, often = np.unique(np.abs(pairs[1] - pairs[0]), return_counts=True)
    strides = [int(s) for s in gaps[often * 50 >= sample.size] if conflicts.total % s == 0][:16]
    found = []
    few = tuple(side[:: 1 + side.size // 1000] for side in pairs)
    for grid in _grids(conflicts.total, strides):
        raw = grid.displacements(*few)
        # A stencil repeats its displacements.
        if 2 * raw.shape[0] > few[0].size + 200 or _reduced(raw, grid.spatial) is None:
            continue
        reduced = _reduced(grid.displacements(*pairs), grid.spatial)
        if reduced is not None and len(reduced[0]) <= _MOST_DISPLACEMENTS:
            found.append((len(reduced[0]), len(grid.lengths), grid))
    found.sort(key=lambda item: item[:2])
    result, work = None, _Work(_WORK + _WORK_PER_LINE * conflicts.size)
    for _, _, grid in found[:4]:
        try:
            again = _on_grid(conflicts, grid, pairs, best, work)
        except _EnoughError:
            break
        if again is not None:
            result, best = again, again[1]
            if best == bound:
                break
    return result


class _EnoughError(Exception):
    """The search has cost more than it can be worth."""


@dataclass
class _Work:
    """Sums that may still be formed: a limit that, unlike one in seconds, always gives the same result."""

    left: int

    def spend(self, sums: int) -> None:
        self.left -= sums
        if self.left < 0:
            raise _EnoughError


def _on_grid(
    conflicts: Conflicts, grid: _Grid, pairs: tuple[Ints, Ints], best: int, work: _Work
) -> tuple[Ints, int, str] | None:
    """The same on this grid, from the lower bound upwards."""
    raw, rounds = grid.displacements(*pairs), 0
    reduced = _reduced(raw, grid.spatial)
    size = conflicts.lower_bound
    while size < min(best, _MOST_COLORS + 1):
        for group in groups_of(size):
            while reduced is not None:
                solution = _solve(reduced[0], reduced[1], grid.fields, group, work)
                if solution is None:
                    break
                colors = _paint(solution, grid, group)[conflicts.lines]
                count, rows = conflicts.clashes(colors)
                if not count:
                    names, compact = np.unique(colors, return_inverse=True)
                    return compact.reshape(-1).astype(np.int32), int(names.size), _formula(solution, grid, group)
                rounds += 1
                if rounds > _ROUNDS:
                    return None
                raw = np.unique(np.concatenate([raw, grid.displacements(*_pairs(conflicts, rows))]), axis=0)
                again = _reduced(raw, grid.spatial)
                if again is None or again[0] == reduced[0]:
                    return None
                reduced = again
        if reduced is not None and any(axis.periodic for axis in reduced[1]):
            folded = _folded(reduced[0], reduced[1], grid, size, work, conflicts.total <= SMALL)
            if folded is not None:
                colors = folded[conflicts.lines]
                if not conflicts.clashes(colors)[0]:
                    return colors.astype(np.int32), size, f"tiles of {size} × {size}, annealed"
        size += 1
    return None


def _folded(
    moves: set[Displacement], axes: list[_Axis], grid: _Grid, size: int, work: _Work, plain: bool
) -> Ints | None:
    """Colours of a grid that repeats a tile of `size` places along each axis, and fills up what is left of a period.

    No formula closes around an axis whose length has no factor in common with the number of colours. So a tile, and
    the seam where the last tile does not fit, are coloured as one small graph: the grid of a few tiles with places that
    are to look the same folded into one.
    """
    if any(axis.reach > size for axis in axes):
        return None
    lengths, folds = [], []
    for axis in axes:
        rest = axis.length % size if axis.periodic else 0
        tiles = 2 if not rest else 3  # the tile next to itself, and on both sides of the seam
        if axis.length < tiles * size + rest:
            return None
        length = tiles * size + rest
        place = np.arange(length)
        lengths.append(length)
        folds.append(place % size if not rest else np.where(place < 2 * size, place % size, place - size))
    small = [int(fold.max()) + 1 for fold in folds]
    total = grid.fields * math.prod(small)
    work.spend(len(moves) * math.prod(lengths))
    if total > _FOLDED:
        return None
    places = np.stack([axis.ravel() for axis in np.meshgrid(*map(np.arange, lengths), indexing="ij")])

    def number(field: int, at: Ints) -> Any:
        return np.ravel_multi_index(
            (np.int64(field), *(f[p] for f, p in zip(folds, at, strict=True))), (grid.fields, *small)
        )

    ends = []
    for move in moves:
        other = places + np.array(move[2:])[:, None]
        inside = np.ones(places.shape[1], bool)
        for k, axis in enumerate(axes):
            if axis.periodic or axis.length > lengths[k]:
                other[k] %= lengths[k]
            else:
                inside &= (other[k] >= 0) & (other[k] < lengths[k])
        ends.append(np.stack([number(move[0], places[:, inside]), number(move[1], other[:, inside])]))
    first, second = np.concatenate(ends, axis=1)
    if (first == second).any():
        return None
    from scipy.sparse import coo_array

    matrix = coo_array(
        (np.ones(2 * first.size, bool), (np.concatenate([first, second]), np.concatenate([second, first]))),
        shape=(total, total),
    ).tocsr()
    matrix.sum_duplicates()
    start = np.random.default_rng(0).integers(0, size, total)
    colors = anneal(matrix.indptr, matrix.indices, start, size, _MOVES // 10 if plain else _MOVES, 0, plain)
    if colors is None:
        return None
    at = []
    for axis, fold, length in zip(axes, folds, lengths, strict=True):
        place = np.arange(axis.length)
        more = axis.length - length
        at.append(
            fold[place % size]
            if more % size or not axis.periodic
            else fold[np.where(place < more, place % size, place - more)]
        )
    painted = colors.reshape(grid.fields, *small)[np.ix_(np.arange(grid.fields), *at)]
    colored: Ints = np.moveaxis(painted, 0, max(grid.field, 0)).ravel()
    return colored


@dataclass(frozen=True)
class _Solution:
    """One way for each axis, and the colour of each field at the origin."""

    steps: tuple[tuple[int, int, int], ...]
    offsets: tuple[int, ...]


def _solve(moves: set[Displacement], axes: list[_Axis], fields: int, group: Group, work: _Work) -> _Solution | None:
    """Steps and offsets for which no displacement comes to nothing."""
    ordered = sorted(moves)
    work.spend(group.size**2 * sum(axis.periodic * axis.reach * group.size for axis in axes))
    inside = sorted({move[2:] for move in ordered if move[0] == move[1]})
    ways = [_ways(axis, group) for axis in axes]
    # Axis by axis: ways that cannot do alone cannot do together.
    chosen: list[Ints] = []
    for k in range(len(axes)):
        which = np.arange(ways[k].base.size)
        own = [move for move in inside if not any(move[:k]) and move[k] and not any(move[k + 1 :])]
        which = which[_apart(own, [which], ways, axes, group, k)]
        if not which.size:
            return None
        if not chosen:
            chosen = [which]
            continue
        room = max(1, _WIDTH // which.size)
        count = chosen[0].size
        if count > room:
            chosen = [c[np.linspace(0, count - 1, room).astype(np.int64)] for c in chosen]
        count = chosen[0].size
        chosen = [np.repeat(c, which.size) for c in chosen] + [np.tile(which, count)]
        work.spend(count * which.size)
        mixed = [move for move in inside if move[k] and any(move[:k]) and not any(move[k + 1 :])]
        keep = _apart(mixed, chosen, ways, axes, group, 0)
        chosen = [c[keep] for c in chosen]
        if not chosen[0].size:
            return None
    for start in range(0, chosen[0].size, 2000):
        part = [c[start : start + 2000] for c in chosen]
        found = _offsets(ordered, part, ways, axes, fields, group)
        if found is not None:
            place, offsets = found
            steps = tuple(
                (int(w.base[c[place]]), int(w.other[c[place]]), int(w.count[c[place]]))
                for w, c in zip(ways, part, strict=True)
            )
            return _Solution(steps, offsets)
    return None


def _sums(
    move: Displacement,
    chosen: list[Ints],
    ways: list[_Steps],
    axes: list[_Axis],
    group: Group,
    first: int,
) -> Iterator[Ints]:
    """What a displacement may come to, for each choice of ways for the axes from `first` on."""
    reached = []
    for k, which in enumerate(chosen, first):
        if move[k]:
            values = _reached(ways[k].take(which), axes[k], group, move[k])
            reached.append([values[0]] if (values[0] == values[1]).all() else list(values))
    for terms in itertools.product(*reached):
        total = np.zeros(chosen[0].size, np.int64)
        for term in terms:
            total = group.add[total, term]
        yield total


def _apart(
    moves: list[Displacement],
    chosen: list[Ints],
    ways: list[_Steps],
    axes: list[_Axis],
    group: Group,
    first: int,
) -> Ints:
    """Choices for which none of these displacements comes to nothing."""
    left = np.arange(chosen[0].size)
    for move in moves:
        keep = np.ones(left.size, bool)
        for total in _sums(move, [which[left] for which in chosen], ways, axes, group, first):
            keep &= total != 0
        left = left[keep]
    return left


def _offsets(
    moves: list[tuple[int, ...]],
    chosen: list[Ints],
    ways: list[_Steps],
    axes: list[_Axis],
    fields: int,
    group: Group,
) -> tuple[int, tuple[int, ...]] | None:
    """The first choice for which the fields can be told apart, and the colour of each at the origin."""
    count, size = chosen[0].size, group.size
    minus = group.multiple(-1, np.arange(size))
    if not count:
        return None
    forbidden = np.zeros((fields, fields, count, size), bool)  # differences between the colours of two fields
    everyone = np.arange(count)
    for move in moves:
        f, g = move[0], move[1]
        if f != g:
            for total in _sums(move[2:], chosen, ways, axes, group, 0):
                forbidden[f, g, everyone, minus[total]] = True
    place, offsets = everyone, np.zeros((count, 1), np.int64)
    for g in range(1, fields):
        allowed = np.ones((place.size, size), bool)
        for f in range(g):
            # c_g is allowed where c_g − c_f is.
            difference = group.add[np.arange(size)[None, :], minus[offsets[:, f]][:, None]]
            allowed &= ~np.take_along_axis(forbidden[f, g][place], difference, axis=1)
        which, color = np.nonzero(allowed)
        which, color = which[:20_000], color[:20_000]
        place, offsets = place[which], np.concatenate([offsets[which], color[:, None]], axis=1)
        if not place.size:
            return None
    return int(place[0]), tuple(offsets[0].tolist())


def _paint(solution: _Solution, grid: _Grid, group: Group) -> Ints:
    """The colour of every vertex of the grid."""
    terms, spatial = [], iter(solution.steps)
    for k, n in enumerate(grid.lengths):
        if k == grid.field:
            terms.append(np.array(solution.offsets))
            continue
        base, other, count = (np.array(part) for part in next(spatial))
        change = group.add[other, group.multiple(-1, base)]
        position = np.arange(n)
        terms.append(group.add[group.multiple(position, base), group.multiple(position * count // n, change)])
    total = terms[0]
    for term in terms[1:]:
        total = group.add[total[..., None], term]
    return total.ravel()


def _formula(solution: _Solution, grid: _Grid, group: Group) -> str:
    """``lattice (2 i + 3 j) mod 7``: steps in two sizes are written 2|3."""
    names = iter("i j k l".split())
    parts = []
    for base, other, count in solution.steps:
        step = f"{base}|{other}" if count else f"{base}"
        parts.append(f"{step} {next(names)}" if step != "1" else next(names))
    parts += ["c[f]"] if grid.fields > 1 else []
    return f"lattice ({' + '.join(parts)}) mod {'×'.join(map(str, group.factors))}"
