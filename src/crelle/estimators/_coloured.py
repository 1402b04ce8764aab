"""Parts of matrices that are exact by structure: a few products with sums of unit vectors of one colour."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from crelle._errors import CrelleError
from crelle.estimators._hutchinson import Probes, pieces
from crelle.operators._vectors import vectors_of

if TYPE_CHECKING:
    from crelle.operators._operator import Operator
    from crelle.pattern import SparsityPattern
    from crelle.tangent.program import TangentProgram

#: The pattern is looked for if one product takes at most this many operations, and so many for each row and column:
#: else it would take longer than the products that it saves.
MOST_FLOPS, _MOST_FLOPS_A_LINE = 2e6, 16
#: ... and is of use with at most this many entries a line.
_MOST_ENTRIES = 32
#: Index sets of one operation may have this many entries, and so many for each row and column.
_INDEX_SETS, _INDEX_SETS_A_LINE = 1_000_000, 8


def pattern_of(operator: Operator) -> SparsityPattern | None:
    """Where the matrix may be nonzero; ``None`` where this is not known, dense, or too dear to find out."""
    from crelle.operators import _algebra
    from crelle.operators._derivatives import HessianOperator, JacobianOperator

    if isinstance(operator, (JacobianOperator, HessianOperator)):
        return _of_derivative(operator)
    if isinstance(operator, (_algebra.Scaled, _algebra.Tagged)):
        return pattern_of(operator.of)
    if isinstance(operator, _algebra.Transposed):
        found = pattern_of(operator.of)
        return None if found is None else found.T
    if "diagonal" in operator.tags:
        from crelle.pattern import SparsityPattern

        index = np.arange(operator.shape[0])
        return SparsityPattern.from_triplets(index, index, operator.shape)
    if isinstance(operator, _algebra.Sum):
        first, *rest = map(pattern_of, operator.terms)
        for other in rest:
            first = None if first is None or other is None else first | other
        return first
    return None


def _of_derivative(operator: Any) -> SparsityPattern | None:
    from crelle.tangent.report import pattern_of as from_detected
    from crelle.tangent.sparsity import TooDense, detect

    call = operator._call
    lines = sum(operator.shape)
    try:
        program = call.backend.tangent_program(call)
        if flops_of(program) > MOST_FLOPS + _MOST_FLOPS_A_LINE * lines:
            return None
        found = detect(program, _MOST_ENTRIES * lines, _INDEX_SETS + _INDEX_SETS_A_LINE * lines)
    except (CrelleError, TooDense):  # it cannot be traced, or is dense: products are what there is
        return None
    return from_detected(found) if found.shape == operator.shape else None


def flops_of(program: TangentProgram) -> float:
    """Operations of one product."""
    cost = program.cost()
    return cost.flops + cost.matmul_flops


def diagonal_colors(pattern: SparsityPattern) -> Any:
    """Colours of columns such that (A s)_i = A[i, i] for the sum s of unit vectors of i's colour; −1: A[i, i] = 0."""
    from crelle.colorings import color_columns
    from crelle.pattern import SparsityPattern

    on = pattern.rows == pattern.indices
    index = pattern.rows[on]
    wanted = SparsityPattern.from_triplets(index, index, pattern.shape)
    return color_columns(pattern, wanted=wanted).column_colors


def row_colors(pattern: SparsityPattern) -> Any:
    """Colours of columns of which no two meet in a row: each (A s)_i is an entry of A, or zero."""
    from crelle.colorings import color_columns

    return color_columns(pattern).column_colors


def count_of(colors: Any) -> int:
    """Number of products."""
    return int(colors.max(initial=-1)) + 1


def coloured_products(probes: Probes, colors: Any) -> Iterator[tuple[Any, Any]]:
    """(s, A s) for the sums s of the unit vectors of each colour, a few rows at a time."""
    vectors = vectors_of(probes.operator.backend)
    like = vectors.empty(probes.operator.domain)
    start = 0
    for size in pieces(count_of(colors), probes.chunk):
        seeds = vectors.from_host(colors[None] == np.arange(start, start + size)[:, None], like)
        yield seeds, probes.times(seeds)
        start += size


def unit_products(probes: Probes) -> Iterator[tuple[Any, Any]]:
    """(e_j, A e_j) for all unit vectors, a few at a time."""
    yield from coloured_products(probes, np.arange(probes.operator.domain.size))
