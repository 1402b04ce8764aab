"""Operators of the user's matrices and functions."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle

MATRIX = np.asarray([[2.0, 1.0, 0.5], [1.0, 3.0, -1.0]])
SQUARE = MATRIX.T @ MATRIX


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray, torch.as_tensor])
def test_a_function(make):
    matrix = make(MATRIX)
    A = crelle.operator(lambda v: matrix @ v, (2, 3), adjoint=lambda u: matrix.T @ u, like=make(np.ones(1)))
    v, u = np.arange(6.0).reshape(3, 2), np.arange(4.0).reshape(2, 2)
    np.testing.assert_allclose(A @ make(v), MATRIX @ v)
    np.testing.assert_allclose(A @ make(v[:, 0]), MATRIX @ v[:, 0])
    np.testing.assert_allclose(A.T @ make(u), MATRIX.T @ u)
    np.testing.assert_allclose(A.todense(), MATRIX)
    assert tuple((A @ make(np.ones((3, 0)))).shape) == (2, 0)


def test_a_symmetric_function_needs_no_adjoint():
    A = crelle.operator(lambda v: SQUARE @ v, (3, 3), like=np.ones(1), symmetric=True)
    assert A.T is A
    np.testing.assert_allclose(A.todense(), SQUARE)


def test_integers_become_floats():
    for make in (np.asarray, jnp.asarray, torch.as_tensor):
        A = crelle.operator(make(np.asarray([[1, 2], [3, 4]])))
        assert "float" in A.dtype
        np.testing.assert_allclose(A @ make(np.asarray([0.5, 0.25])), [1.0, 2.5])


REFUSED = {
    "nothing": (lambda: crelle.operator(3), crelle.CrelleTypeError, "crelle.operator(int): not enough"),
    "no shape": (lambda: crelle.operator(np.sin), crelle.CrelleTypeError, "crelle.operator(ufunc): not enough"),
    "no adjoint": (
        lambda: crelle.operator(lambda v: v, (2, 2), like=np.ones(1)),
        crelle.CrelleTypeError,
        "crelle.operator(function): no products with the transposed matrix\n"
        "  try  adjoint= a function u -> Aᵀu, or symmetric=True",
    ),
    "a vector": (
        lambda: crelle.operator(np.ones(3)),
        crelle.CrelleShapeError,
        "crelle.operator(f64[3])\n  expected  a matrix",
    ),
    "not square": (
        lambda: crelle.operator(MATRIX, symmetric=True),
        crelle.CrelleShapeError,
        "crelle.operator(f64[2,3])\n  expected  a square matrix",
    ),
    "an operator that is not square": (
        lambda: crelle.operator(crelle.operator(MATRIX), psd=True),
        crelle.CrelleShapeError,
        "MatrixOperator(f64[2×3], numpy, cpu).symmetric: the matrix is 2 × 3",
    ),
    "a product of another shape": (
        lambda: crelle.operator(lambda v: v, (2, 3), adjoint=lambda u: u, like=np.ones(1)) @ np.ones(3),
        crelle.CrelleShapeError,
        "FunctionOperator(f64[2×3], numpy, cpu): a product returned f64[3]\n  expected  f64[2]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    build, kind, text = REFUSED[case]
    with pytest.raises(kind) as caught:
        build()
    assert str(caught.value).startswith(text)
