"""Determinants of matrices of differences."""

from __future__ import annotations

from typing import Any

import numpy as np

from crelle.backends._protocol import Call
from crelle.determinants import _sparse
from crelle.determinants._recipe import Recipe
from crelle.determinants._result import CannotFactor, SlogdetResult


def prepare(call: Call) -> Any:
    """A NumPy function is a black box."""
    raise CannotFactor("a NumPy function cannot be traced")


def total(entries: Any, recipe: Recipe, tables: dict[str, Any]) -> SlogdetResult:
    """(signs, logarithms) of each sample, of one without an axis if there are no samples."""
    padded = np.append(entries, 0)  # place -1 is zero
    blocks = [padded[recipe.ones][:, None, None], *(padded[place] for place in recipe.stacks)]
    parts = [np.linalg.slogdet(b) for b in blocks]
    found = [_sparse.slogdet(entries[b.entries], b) for b in recipe.sparse]
    signs, logs = (np.concatenate([*(p[k] for p in parts), [f[k] for f in found]]) for k in (0, 1))
    sign = np.append(signs, 1)[recipe.table].prod(1) * recipe.signs
    log = np.append(logs, 0)[recipe.table].sum(1)
    return SlogdetResult(sign, log) if recipe.batched else SlogdetResult(sign[0], log[0])


def of_matrices(matrices: Any) -> SlogdetResult:
    """Of a dense matrix, or of a stack of them."""
    return SlogdetResult(*np.linalg.slogdet(matrices))
