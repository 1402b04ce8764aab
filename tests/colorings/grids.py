"""Patterns whose colour counts are known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from crelle import SparsityPattern

Offsets = Sequence[tuple[int, ...]]
BOX = list(itertools.product((-1, 0, 1), repeat=2))
CROSS = [o for o in BOX if 0 in o]
BOX3 = list(itertools.product((-1, 0, 1), repeat=3))
CROSS3 = [o for o in BOX3 if o.count(0) >= 2]


def grid(lengths: tuple[int, ...], offsets: Offsets, *, periodic: bool = False, fields: int = 1) -> SparsityPattern:
    """A stencil at every point, and the other fields' values at the same point; fields come first."""
    cells = int(np.prod(lengths))
    points = np.array(list(np.ndindex(*lengths))).reshape(-1, len(lengths))
    rows, cols = [], []
    for offset in offsets:
        other = points + np.array(offset)
        inside = np.ones(cells, bool)
        if periodic:
            other %= np.array(lengths)
        else:
            inside = ((other >= 0) & (other < np.array(lengths))).all(axis=1)
        for field in range(fields):
            rows.append(np.flatnonzero(inside) + field * cells)
            cols.append(np.ravel_multi_index(tuple(other[inside].T), lengths) + field * cells)
    for a, b in itertools.permutations(range(fields), 2):
        rows.append(np.arange(cells) + a * cells)
        cols.append(np.arange(cells) + b * cells)
    size = cells * fields
    return SparsityPattern.from_triplets(np.concatenate(rows), np.concatenate(cols), (size, size))


def brusselator(length: int) -> SparsityPattern:
    """Two fields on a periodic square: six entries a row."""
    return grid((length, length), CROSS, periodic=True, fields=2)


def arrow(n: int) -> SparsityPattern:
    """The first row, the first column, and the diagonal."""
    k = np.arange(n)
    return SparsityPattern.from_triplets(np.concatenate([k, k, 0 * k]), np.concatenate([k, 0 * k, k]), (n, n))


def banded(n: int, lower: int, upper: int) -> SparsityPattern:
    """So many diagonals below and above the main one."""
    i, d = np.meshgrid(np.arange(n), np.arange(-lower, upper + 1), indexing="ij")
    inside = (i + d >= 0) & (i + d < n)
    return SparsityPattern.from_triplets(i[inside], (i + d)[inside], (n, n))
