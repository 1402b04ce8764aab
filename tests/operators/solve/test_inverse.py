"""Inverses as operators: products, adjoint products, tags, algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import crelle
from tests.operators.solve.systems import FRAMEWORKS, MAKE, host, indefinite, positive, unsymmetric

CASES = [
    ("cg", positive, {"psd": True}),
    ("minres", indefinite, {"symmetric": True}),
    ("gmres", unsymmetric, {}),
    ("lsmr", unsymmetric, {}),
    ("dense", unsymmetric, {}),
    ("dense", positive, {"psd": True}),
]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("method", "make", "tags"), CASES)
def test_products_and_adjoint_products(framework, method, make, tags, rng):
    matrix = make(rng, 30)
    A = crelle.operator(MAKE[framework](matrix), **tags)
    inverse = A.inverse(method, rtol=1e-12)
    b = rng.standard_normal((30, 2))
    np.testing.assert_allclose(host(inverse @ MAKE[framework](b)), np.linalg.solve(matrix, b), atol=1e-9)
    np.testing.assert_allclose(host(inverse.T @ MAKE[framework](b)), np.linalg.solve(matrix.T, b), atol=1e-9)
    assert inverse.tags == A.tags
    assert inverse.shape == (30, 30)
    assert inverse.method == method
    if method != "dense":
        assert inverse.products > 4


@pytest.mark.parametrize("method", ["lsmr", "dense"])
@pytest.mark.parametrize("damping", [0.0, 0.4])
def test_pseudoinverses(method, damping, rng):
    matrix = rng.standard_normal((12, 7))
    expected = np.linalg.pinv(matrix)
    if damping:
        expected = np.linalg.solve(matrix.T @ matrix + damping * np.eye(7), matrix.T)
    inverse = crelle.operator(matrix).inverse(method, damping=damping, rtol=1e-13)
    assert inverse.shape == (7, 12)
    np.testing.assert_allclose(inverse.todense(), expected, atol=1e-9)
    np.testing.assert_allclose(inverse.T.todense(), expected.T, atol=1e-9)


def test_preconditioners_are_transposed_with_the_matrix(rng):
    matrix = unsymmetric(rng, 40) * np.logspace(0, 3, 40)
    close = crelle.operator(np.linalg.inv(matrix + 1e-3 * rng.standard_normal((40, 40))))
    inverse = crelle.operator(matrix).inverse("gmres", preconditioner=close, rtol=1e-10)
    b = rng.standard_normal(40)
    np.testing.assert_allclose(inverse @ b, np.linalg.solve(matrix, b), atol=1e-7)
    before = inverse.products
    np.testing.assert_allclose(inverse.T @ b, np.linalg.solve(matrix.T, b), atol=1e-7)
    assert inverse.products - before < 15


def test_factors_are_made_once(rng):
    count = [0]
    matrix = unsymmetric(rng, 20)

    def product(v):
        count[0] += 1
        return matrix @ v

    A = crelle.operator(product, (20, 20), adjoint=lambda u: matrix.T @ u, like=np.zeros(1))
    inverse = A.inverse()
    assert inverse.method == "dense"
    for _ in range(3):
        b = rng.standard_normal(20)
        np.testing.assert_allclose(inverse @ b, np.linalg.solve(matrix, b), atol=1e-10)
    assert count[0] == 20


def test_inverses_are_operators(rng):
    """(A + B⁻¹) and J A⁻¹ Jᵀ, and the print."""
    matrix = positive(rng, 10)
    inverse = crelle.operator(matrix, psd=True).inverse("cg", rtol=1e-12)
    assert repr(inverse) == "inverse of MatrixOperator by cg(f64[10×10], numpy, cpu, symmetric, psd)"
    total = inverse.shifted(2.0)
    assert total.is_symmetric
    np.testing.assert_allclose(total.todense(), np.linalg.inv(matrix) + 2 * np.eye(10), atol=1e-9)
    J = rng.standard_normal((3, 10))
    middle = crelle.operator(J) @ inverse @ crelle.operator(J).T
    np.testing.assert_allclose(middle.todense(), J @ np.linalg.inv(matrix) @ J.T, atol=1e-9)


def test_products_are_differentiable_in_torch(rng):
    matrix = torch.tensor(unsymmetric(rng, 10))
    inverse = crelle.operator(matrix).inverse("gmres", rtol=1e-13)
    b = torch.tensor(rng.standard_normal(10), requires_grad=True)
    found = inverse.of.solve(b, "gmres", rtol=1e-13).value
    (gradient,) = torch.autograd.grad(found.sum(), b)
    torch.testing.assert_close(gradient, inverse.T @ torch.ones(10, dtype=torch.float64), rtol=0, atol=1e-9)


def test_failures_are_those_of_solve():
    inverse = crelle.operator(np.diag([1.0, -1.0]), symmetric=True).inverse("cg")
    with pytest.raises(crelle.CrelleSolveError, match=r"\.inverse: pᵀA p ≤ 0 for a direction p, so A is not positive"):
        inverse @ np.ones(2)
