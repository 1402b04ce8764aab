"""Determinants of large sparse blocks by SuperLU, on the host (Li 2005). No framework is imported here."""

from __future__ import annotations

from typing import Any

import numpy as np

from crelle.determinants._recipe import Ints, SparseBlock

#: Columns of the inverse that are held at a time.
_CHUNK = 256


def slogdet(values: Any, block: SparseBlock) -> tuple[Any, Any]:
    """(sign, log|det|) of a block from its entries; (0, -inf) if a pivot is zero."""
    values = np.asarray(values)
    real = np.zeros(0, values.dtype).real.dtype
    lu = _factored(values, block)
    if lu is None:
        return np.zeros((), values.dtype), np.full((), -np.inf, real)
    pivots = lu.U.diagonal().astype(values.dtype)
    sizes = np.abs(pivots)
    if not sizes.all():
        return np.zeros((), values.dtype), np.full((), -np.inf, real)
    sign = np.prod(pivots / sizes) * _parity(lu.perm_r) * _parity(lu.perm_c)
    return np.asarray(sign, values.dtype), np.asarray(np.log(sizes).sum(), real)


def slope(values: Any, block: SparseBlock) -> Any:
    """∂ log det / ∂ J[i, j] = J⁻¹[j, i] for the entries of a block: solves with its factors, no dense inverse."""
    values = np.asarray(values)
    found = np.full(values.shape, np.nan, values.dtype)
    lu = _factored(values, block)
    if lu is None:
        return found
    order = np.argsort(block.rows, kind="stable")
    starts = np.searchsorted(block.rows[order], np.arange(0, block.size + _CHUNK, _CHUNK))
    for k, first in enumerate(range(0, block.size, _CHUNK)):
        width = min(_CHUNK, block.size - first)
        unit = np.zeros((block.size, width), values.dtype)
        unit[first + np.arange(width), np.arange(width)] = 1
        columns = lu.solve(unit)
        some = order[starts[k] : starts[k + 1]]
        found[some] = columns[block.cols[some], block.rows[some] - first]
    return found


def _factored(values: Any, block: SparseBlock) -> Any | None:
    from scipy.sparse import csc_array
    from scipy.sparse.linalg import splu

    if not np.isfinite(values).all():
        return None
    matrix = csc_array((values, (block.rows, block.cols)), shape=(block.size, block.size))
    try:
        return splu(matrix)
    except RuntimeError:  # "Factor is exactly singular"
        return None


def _parity(permutation: Ints) -> int:
    """1 for an even permutation, -1 for an odd one: (-1)^(n - cycles)."""
    seen, cycles = np.zeros(len(permutation), bool), 0
    for start in range(len(permutation)):
        if not seen[start]:
            cycles += 1
            while not seen[start]:
                seen[start] = True
                start = permutation[start]
    return -1 if (len(permutation) - cycles) % 2 else 1
