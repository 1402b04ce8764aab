"""Blocks of vectors in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import crelle
from crelle._arrays import ArrayType
from crelle.backends.numpy import BACKEND, vectors
from crelle.operators._spaces import Space

TYPES = (
    ArrayType("float32", (2, 2)),
    ArrayType("float64", ()),
    ArrayType("float64", (0, 3)),
    ArrayType("float64", (1,)),
)


def space(size, dtype="float64"):
    return Space.of(BACKEND, BACKEND.flatten(0)[1], (ArrayType(dtype, (size,)),))


def test_join_and_cut():
    leaves = [np.arange(8, dtype=np.float32).reshape(2, 2, 2), np.ones(2), np.zeros((2, 0, 3)), np.full((2, 1), 7.0)]
    block = vectors.join(leaves, "float64")
    np.testing.assert_array_equal(block, [[0, 1, 2, 3, 1, 7], [4, 5, 6, 7, 1, 7]])
    for got, expected in zip(vectors.cut(block, TYPES), leaves, strict=True):
        assert got.dtype == expected.dtype and got.shape == expected.shape
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("start", "stop"), [(0, None), (2, 4), (3, 3)])
def test_identity(start, stop):
    np.testing.assert_array_equal(vectors.identity(space(5), start, stop), np.eye(5)[start:stop])


def test_put_and_zeros():
    block = vectors.put(vectors.zeros(3, 2, np.ones(1)), 1, np.asarray([4.0, 5.0]))
    np.testing.assert_array_equal(block, [[0, 0], [4, 5], [0, 0]])


def test_project_out(rng):
    basis = np.linalg.qr(rng.standard_normal((6, 4)))[0].T
    vector = rng.standard_normal(6)
    rest, coefficients = vectors.project_out(basis, 3, vector)
    np.testing.assert_allclose(basis[:3] @ rest, 0, atol=1e-15)
    np.testing.assert_allclose(rest + coefficients[:3] @ basis[:3], vector, rtol=1e-13)


def test_orthonormal(rng):
    block = rng.standard_normal((3, 7))
    q, r = vectors.orthonormal(block)
    np.testing.assert_allclose(q @ q.T, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(r.T @ q, block, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_vectors(dtype):
    like = vectors.empty(space(3, dtype))
    source, again = (vectors.source(np.random.default_rng(4), like) for _ in range(2))
    signs, numbers = source.rademacher(50, 40), source.normal(50, 40)
    assert signs.dtype == numbers.dtype == np.dtype(dtype)
    assert set(np.unique(signs)) == {1.0, -1.0}
    assert abs(float(np.mean(numbers**2)) - 1) < 0.1
    np.testing.assert_array_equal(again.rademacher(50, 40), signs)
    assert not np.array_equal(source.rademacher(50, 40), signs)


@pytest.mark.parametrize("given", ["seed", 1.5, True])
def test_other_sources_are_refused(given):
    with pytest.raises(crelle.CrelleTypeError, match=r"seed= an integer, or generator= a numpy\.random\.Generator"):
        vectors.source(given, np.ones(2))
