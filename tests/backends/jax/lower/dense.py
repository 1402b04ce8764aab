"""Patterns and kinds against dense Jacobians at several points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import crelle
from crelle.tangent.sparsity import detect

POINTS = 6


def raveled(f: Callable[..., Any]) -> Callable[..., Any]:
    """All leaves of the result in one vector."""
    return lambda x: jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(f(x))])


def points(shape: tuple[int, ...], low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, (POINTS, *shape))


def check(f: Callable[..., Any], shape: tuple[int, ...], exact: bool = True, low: float = -2.0, high: float = 2.0):
    """Compare the pattern of f with what is not zero anywhere, and constant entries with each other."""
    xs = points(shape, low, high)
    size = int(np.prod(shape))
    rows = jax.eval_shape(raveled(f), jnp.asarray(xs[0])).size
    dense = jax.jit(jax.jacfwd(raveled(f)))
    matrices = np.stack([np.asarray(dense(jnp.asarray(x))).reshape(rows, size) for x in xs])
    seen = (matrices != 0).any(0)
    derivative = crelle.jacobian(f)
    found = derivative.pattern(jnp.asarray(xs[0])).to_dense()
    assert found.shape == seen.shape
    assert not (seen & ~found).any(), f"unsound: misses {(seen & ~found).sum()} of {seen.sum()}"
    if exact:
        np.testing.assert_array_equal(found, seen)
    at_first = derivative.pattern(jnp.asarray(xs[0]), local=True).to_dense()
    assert not ((matrices[0] != 0) & ~at_first).any(), "unsound at a point"
    parts = detect(derivative.program(jnp.asarray(xs[0])))
    rows = np.repeat(np.arange(parts.shape[0]), np.diff(parts.indptr))
    constant = parts.kinds == 0
    values = matrices[:, rows[constant], parts.indices[constant]]
    np.testing.assert_allclose(values, np.broadcast_to(values[:1], values.shape), rtol=1e-12, atol=1e-14)
    return parts
