"""Comparison with JAX's own transforms: trees, shapes, dtypes, weak types, values."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def assert_same(ours: Any, theirs: Any, tolerance: float = 1e-12, weak: bool = True) -> None:
    """Equal trees, shapes, dtypes and weak types; values to ``tolerance`` of the largest entry of the whole answer."""
    left, left_tree = jax.tree.flatten(ours)
    right, right_tree = jax.tree.flatten(theirs)
    assert left_tree == right_tree
    arrays = [np.asarray(b).astype(complex) for b in right if hasattr(b, "shape")]
    scale = max([1.0, *(float(np.nanmax(np.abs(b), initial=0.0)) for b in arrays)])
    for a, b in zip(left, right, strict=True):
        if not hasattr(b, "shape"):
            assert a == b
            continue
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        if weak:
            assert getattr(a, "weak_type", False) == getattr(b, "weak_type", False)
        p, q = np.asarray(a).astype(complex), np.asarray(b).astype(complex)
        np.testing.assert_array_equal(np.isnan(p), np.isnan(q))
        differs = (p != q) & ~np.isnan(p)
        assert float(np.abs(p[differs] - q[differs]).max(initial=0.0)) <= tolerance * scale
