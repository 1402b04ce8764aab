"""The Frobenius norm, and norms of rows and columns: E‖A z‖² = ‖A‖² for random signs z, and E (A z)_i² = ‖A_i‖²."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from crelle.estimators._coloured import coloured_products, count_of, pattern_of, row_colors
from crelle.estimators._diagonal import VectorEstimate, averaged, verify_finite
from crelle.estimators._estimate import Estimate, source_for, verify_limits
from crelle.estimators._hutchinson import Floats, Mean, Probes, sample
from crelle.operators._vectors import vectors_of

if TYPE_CHECKING:
    from crelle.operators._operator import Operator


def frobenius_norm(
    operator: Operator, rtol: float | None, budget: int | None, seed: int | None, key: Any, generator: Any
) -> Estimate:
    """See :meth:`crelle.operators.Operator.frobenius_norm`."""
    verify_limits(operator, "frobenius_norm", rtol, budget)
    source = source_for(operator, "frobenius_norm", seed, key, generator)
    m, n = operator.shape
    limit = min(m, n) if budget is None else budget
    colors, transposed, method = _columns(operator, limit, either=True)
    if colors is not None:
        probes = Probes(operator.T if transposed else operator, "frobenius_norm", source)
        total = 0.0
        for _, found in coloured_products(probes, colors):
            total += float(probes.numbers((found * found).sum(1)).sum())
        return Estimate(math.sqrt(total), 0.0, probes.count, method)
    probes = Probes(operator, "frobenius_norm", source)

    def draw(count: int) -> Iterator[Floats]:
        for _, found in probes.chunks(count):
            yield probes.numbers((found * found).sum(1))

    # the relative error of the root is half of that of the square
    mean = sample(Mean(), draw, None if rtol is None else 2 * rtol, limit, "Frobenius norm")
    value = math.sqrt(mean.value)
    stderr = mean.stderr / (2 * value) if value else mean.stderr
    return Estimate(value, stderr, probes.count, "Hutchinson", mean.partial)


def line_norms(
    operator: Operator, what: str, rtol: float | None, budget: int | None, seed: int | None, key: Any, generator: Any
) -> VectorEstimate:
    """See :meth:`crelle.operators.Operator.row_norms`; columns are rows of Aᵀ."""
    verify_limits(operator, what, rtol, budget)
    source = source_for(operator, what, seed, key, generator)
    limit = operator.shape[1] if budget is None else budget
    vectors = vectors_of(operator.backend)
    zeros = vectors.zeros(1, operator.shape[0], vectors.empty(operator.codomain))[0]
    colors, _, method = _columns(operator, limit, either=False)
    probes = Probes(operator, what, source)
    if colors is not None:
        squares = zeros
        for _, found in coloured_products(probes, colors):
            verify_finite(probes, found)
            squares = squares + (found * found).sum(0)
        return VectorEstimate(squares**0.5, zeros, probes.count, method, space=operator.codomain)

    def draw(count: int) -> Iterator[Any]:
        for _, found in probes.chunks(count):
            verify_finite(probes, found)
            yield found * found

    moments = averaged(probes, draw, rtol, limit, what, errors=0.5)
    value = moments.mean**0.5
    stderr = moments.stderr / (2 * value + (value == 0))
    return VectorEstimate(value, stderr, probes.count, "Hutchinson", moments.partial, space=operator.codomain)


def _columns(operator: Operator, limit: int, either: bool) -> tuple[Any, bool, str]:
    """(colours of columns, whether of the transposed matrix, method) for an exact answer; ``None`` if it takes more
    than ``limit`` products."""
    m, n = operator.shape
    ways = [(np.arange(n), False, "exact, all columns")]
    if either:
        ways.append((np.arange(m), True, "exact, all rows"))
    pattern = pattern_of(operator) if m and n else None
    if pattern is not None:
        ways.append((row_colors(pattern), False, "exact, by structure"))
        if either:
            ways.append((row_colors(pattern.T), True, "exact, by structure"))
    best = min(ways, key=lambda way: count_of(way[0]))
    return best if count_of(best[0]) <= limit else (None, False, "")
