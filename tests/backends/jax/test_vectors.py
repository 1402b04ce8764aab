"""Blocks of vectors in JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crelle
from crelle._arrays import ArrayType
from crelle.backends.jax import BACKEND, vectors
from crelle.operators._spaces import Space

TYPES = (
    ArrayType("float32", (2, 2)),
    ArrayType("float64", ()),
    ArrayType("float64", (0, 3)),
    ArrayType("float64", (1,)),
)


def space(size, dtype="float64"):
    return Space.of(BACKEND, jax.tree.structure(0), (ArrayType(dtype, (size,)),))


def test_join_and_cut():
    leaves = [
        jnp.arange(8.0, dtype=jnp.float32).reshape(2, 2, 2),
        jnp.ones(2),
        jnp.zeros((2, 0, 3)),
        jnp.full((2, 1), 7.0),
    ]
    block = vectors.join(leaves, "float64")
    np.testing.assert_array_equal(block, [[0, 1, 2, 3, 1, 7], [4, 5, 6, 7, 1, 7]])
    for got, expected in zip(vectors.cut(block, TYPES), leaves, strict=True):
        assert got.dtype == expected.dtype and got.shape == expected.shape
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("start", "stop"), [(0, None), (2, 4), (3, 3)])
def test_identity(start, stop):
    found = vectors.identity(space(5), start, stop)
    np.testing.assert_array_equal(found, np.eye(5)[start:stop])
    assert found.dtype == jnp.float64


def test_put_and_zeros():
    block = vectors.put(vectors.zeros(3, 2, jnp.ones(1)), 1, jnp.asarray([4.0, 5.0]))
    np.testing.assert_array_equal(block, [[0, 0], [4, 5], [0, 0]])


def test_project_out(rng):
    basis = jnp.asarray(np.linalg.qr(rng.standard_normal((6, 4)))[0].T)
    vector = jnp.asarray(rng.standard_normal(6))
    rest, coefficients = vectors.project_out(basis, 3, vector)
    np.testing.assert_allclose(basis[:3] @ rest, 0, atol=1e-15)
    np.testing.assert_allclose(rest + coefficients @ basis, vector, rtol=1e-13)
    np.testing.assert_array_equal(coefficients[3:], 0)


def test_orthonormal(rng):
    block = jnp.asarray(rng.standard_normal((3, 7)))
    q, r = vectors.orthonormal(block)
    np.testing.assert_allclose(q @ q.T, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(r.T @ q, block, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "complex128"])
def test_random_vectors(dtype):
    like = vectors.empty(space(3, dtype))
    source, again = (vectors.source(jax.random.key(4), like) for _ in range(2))
    signs, numbers = source.rademacher(50, 40), source.normal(50, 40)
    assert signs.dtype == numbers.dtype == like.dtype
    assert set(np.unique(np.asarray(signs).astype(complex))) == {1.0, -1.0}
    assert abs(float(np.mean(np.abs(np.asarray(numbers).astype(complex)) ** 2)) - 1) < 0.1
    np.testing.assert_array_equal(again.rademacher(50, 40), signs)
    assert not np.array_equal(source.rademacher(50, 40), signs)


@pytest.mark.parametrize("given", ["seed", 1.5, True, np.random.default_rng(0)])
def test_other_sources_are_refused(given):
    with pytest.raises(crelle.CrelleTypeError, match=r"seed= an integer, or key= a key made by jax\.random\.key"):
        vectors.source(given, jnp.ones(2))


def test_legacy_keys():
    assert vectors.source(jax.random.PRNGKey(0), jnp.ones(2)).normal(2, 3).shape == (2, 3)
