"""Which entry a pattern misses, once a product has shown that it misses one: by bisection, with differences of f."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from crelle.backends.numpy import check, second, steps
from crelle.backends.numpy.entries import SEEDS, Found, PairEntries, random_multiples
from crelle.backends.numpy.function import BlackBox

Array = np.ndarray[Any, np.dtype[Any]]


def missing_column(box: BlackBox, row: int, listed: Array) -> tuple[int, int, float] | None:
    """(row, column, slope) where an output depends on an entry of x that is not listed for it; None if none is found.

    Args:
        listed: the columns of the row's entries.
    """
    box.keep = np.array([row])
    v = random_multiples(box, SEEDS[1])

    def slope(columns: Array) -> complex:
        found, error = steps.along(box, _only(v, columns))
        return complex(found[0]) if np.abs(found[0]) > check.SLACK * error[0] else 0.0

    column = _bisect(np.setdiff1d(np.arange(box.n), listed), lambda some: slope(some) != 0)
    if column is None:
        return None
    return row, column, _real(slope(np.array([column])) / v[column])


def missing_pair(box: BlackBox, work: PairEntries, found: Found, w: Array, v: Array) -> tuple[int, int, float] | None:
    """(i, j, second derivative) where wᵀHv is not what the entries say; None if none is found."""
    rows, every = np.flatnonzero(w), np.flatnonzero(v)

    def excess(rows: Array, columns: Array) -> complex:
        left, right = _only(w, rows), _only(v, columns)
        product, uncertain = work.product(found, left, right)
        true, error = second.along(box, left, right)
        wrong = check.excess(product, true, error + uncertain)[0] > 1
        return complex(true[0] - product[0]) if wrong else 0.0

    i = _bisect(rows, lambda some: excess(some, every) != 0)
    if i is None:
        return None
    j = _bisect(every, lambda some: excess(np.array([i]), some) != 0)
    if j is None or np.any((work.i == max(i, j)) & (work.j == min(i, j))):  # listed, and wrong
        return None
    return i, j, _real(excess(np.array([i]), np.array([j])) / (w[i] * v[j]))


def _bisect(candidates: Array, matters: Callable[[Array], bool]) -> int | None:
    """One of the candidates that matters, if a set of them matters where one of its members does."""
    if not len(candidates) or not matters(candidates):
        return None
    while len(candidates) > 1:
        half = candidates[: len(candidates) // 2]
        candidates = half if matters(half) else candidates[len(candidates) // 2 :]
    return int(candidates[0]) if matters(candidates) else None


def _only(vector: Array, entries: Array) -> Array:
    """The vector with zeros elsewhere."""
    out = np.zeros_like(vector)
    out[entries] = vector[entries]
    return out


def _real(number: complex) -> Any:
    return number if number.imag else number.real
