"""Operators of NumPy functions: products by differences."""

from __future__ import annotations

import numpy as np
import pytest

import crelle

X = np.asarray([0.3, -0.7, 1.1])


def f(x):
    return np.stack([x[0] * x[1], np.sin(x[2]), x[0] ** 2, np.exp(x[1])])


JACOBIAN = np.asarray([[-0.7, 0.3, 0], [0, 0, np.cos(1.1)], [0.6, 0, 0], [0, np.exp(-0.7), 0]])


def test_jacobian(rng):
    A = crelle.jacobian(f).at(X)
    V, U = rng.standard_normal((3, 2)), rng.standard_normal((4, 2))
    np.testing.assert_allclose(A @ V, JACOBIAN @ V, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(A @ V[:, 0], JACOBIAN @ V[:, 0], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(A.T @ U, JACOBIAN.T @ U, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(A.todense(), JACOBIAN, rtol=1e-8, atol=1e-9)
    assert (A @ V[:, :0]).shape == (4, 0) and (A.T @ U[:, :0]).shape == (3, 0)
    np.testing.assert_array_equal(A.value, f(X))
    assert A.notes == ("derivatives of NumPy functions are differences: an estimate, not exact to rounding",)


def test_hessian_of_a_tree(rng):
    p = {"a": np.asarray([1.0, 2.0]), "b": np.asarray(0.5)}
    H = crelle.hessian(lambda p: np.sum(p["a"] ** 3) * p["b"]).at(p)
    matrix = np.asarray([[3.0, 0, 3], [0, 6, 12], [3, 12, 0]])
    v = rng.standard_normal(3)
    np.testing.assert_allclose(H @ v, matrix @ v, rtol=1e-5, atol=1e-5)
    found = H @ {"a": v[:2], "b": v[2]}
    np.testing.assert_allclose(np.append(found["a"], found["b"]), matrix @ v, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(H.todense(), matrix, rtol=1e-5, atol=1e-5)


def test_the_point_may_change_afterwards():
    x = X.copy()
    A = crelle.jacobian(f).at(x)
    x += 1
    np.testing.assert_allclose(A @ X, JACOBIAN @ X, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("x", [np.zeros(0), np.zeros((0, 2))])
def test_empty(x):
    A = crelle.jacobian(lambda x: np.ones(2)).at(x)
    np.testing.assert_array_equal(A @ x, np.zeros(2))
    assert A.todense().shape == (2, 0)


def test_aux_and_further_arguments():
    A = crelle.jacobian(lambda x, n: (x**n, "aux"), has_aux=True).at(X, 2)
    np.testing.assert_allclose(A @ X, 2 * X * X, rtol=1e-8)
