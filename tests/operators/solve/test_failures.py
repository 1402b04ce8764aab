"""What is said when a system cannot be solved, and what is returned when solving is interrupted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import crelle
from tests.operators.solve.systems import FRAMEWORKS, MAKE, host, positive, rotated


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_conjugate_gradients_on_an_indefinite_matrix(framework, rng):
    matrix = rotated(rng, np.linspace(-3, 9.5, 40))
    A = crelle.operator(MAKE[framework](matrix), symmetric=True)
    b = MAKE[framework](rng.standard_normal(40))
    with pytest.raises(crelle.CrelleSolveError) as error:
        A.solve(b, "cg")
    assert str(error.value) == (
        f"MatrixOperator(f64[40×40], {framework}, cpu, symmetric).solve: "
        "pᵀA p ≤ 0 for a direction p, so A is not positive definite\n"
        "  expected  a positive definite matrix, for conjugate gradients\n"
        "  likely    (a) the Hessian at a point that is no minimum\n"
        "            (b) a singular matrix, and b not in its range\n"
        "            (c) a preconditioner that is not positive definite\n"
        "  try       method='minres', which takes any symmetric A; "
        "A.shifted(c) with c above the most negative eigenvalue"
    )
    np.testing.assert_allclose(host(A.solve(b, "minres").value), np.linalg.solve(matrix, host(b)), atol=1e-6)
    found = A.solve(b, "cg", throw=False)
    assert not found.converged
    assert found.notes == ("pᵀA p ≤ 0 for a direction p, so A is not positive definite",)


def test_only_the_columns_that_fail_are_named():
    A = crelle.operator(np.diag([1.0, 2.0, -1.0]), symmetric=True)
    b = np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    with pytest.raises(crelle.CrelleSolveError, match=r"for a direction p \(columns 1, 2\), so A"):
        A.solve(b, "cg")
    found = A.solve(b, "cg", throw=False)
    np.testing.assert_allclose(found.value[:, 0], [1.0, 0.5, 0.0], atol=1e-12)


def test_the_budget(rng):
    A = crelle.operator(positive(rng, 60), psd=True)
    b = rng.standard_normal(60)
    with pytest.raises(crelle.CrelleSolveError) as error:
        A.solve(b, "cg", budget=10)
    text = str(error.value)
    assert "conjugate gradients came to a relative residual" in text
    assert "after 11 products: the budget" in text
    assert "try       a preconditioner; a larger budget= or rtol=; x0=; throw=False" in text
    for method in ("cg", "minres", "gmres", "lsmr"):
        found = A.solve(b, method, budget=10, throw=False)
        assert not found.converged
        assert found.products <= 14
        left = np.linalg.norm(b - A.matrix @ found.value) / np.linalg.norm(b)
        np.testing.assert_allclose(found.residual, left, rtol=1e-6)
        again = A.solve(b, method, x0=found.value)
        assert again.converged


@pytest.mark.parametrize("method", ["minres", "gmres", "dense"])
def test_singular_matrices(method, rng):
    matrix = rotated(rng, np.concatenate([np.zeros(3), np.linspace(1, 9, 27)]))
    A = crelle.operator(matrix, symmetric=True)
    b = rng.standard_normal(30)
    expected = "singular to rounding" if method == "dense" else r"\(a\) A is singular, and b not in its range"
    with pytest.raises(crelle.CrelleSolveError, match=expected) as error:
        A.solve(b, method)
    assert "method='lsmr'" in str(error.value)
    found = A.solve(b, "lsmr")
    np.testing.assert_allclose(found.value, np.linalg.pinv(matrix) @ b, atol=1e-6)
    assert found.optimality < 1e-8 < found.residual


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("method", ["cg", "minres", "gmres", "lsmr", "dense"])
def test_nan_in_a_product(framework, method):
    matrix = np.eye(5)
    matrix[2, 2] = np.nan
    A = crelle.operator(MAKE[framework](matrix), psd=True)
    with pytest.raises(crelle.CrelleSolveError, match=r"a product is NaN or infinite, among the first \d"):
        A.solve(MAKE[framework](np.ones(5)), method)


def test_nan_later_on(rng):
    """The product at fault is named: the fourth."""
    matrix, count = positive(rng, 30), [0]

    def product(v):
        count[0] += 1
        return matrix @ v * (np.nan if count[0] == 4 else 1)

    A = crelle.operator(product, (30, 30), like=np.zeros(1), psd=True)
    with pytest.raises(crelle.CrelleSolveError, match="a product is NaN or infinite, among the first 4"):
        A.solve(rng.standard_normal(30), "cg")


def test_nan_in_b():
    with pytest.raises(crelle.CrelleValueError, match="b holds NaN or infinity"):
        crelle.operator(np.eye(2)).solve(np.array([1.0, np.nan]))


@pytest.mark.parametrize("method", ["cg", "minres", "gmres", "lsmr"])
def test_interrupted_solves_return_what_they_have(method, rng):
    matrix, count = positive(rng, 60), [0]

    def product(v):
        count[0] += 1
        if count[0] == 20:
            raise KeyboardInterrupt
        return matrix @ v

    A = crelle.operator(product, (60, 60), like=np.zeros(1), psd=True)
    b = rng.standard_normal(60)
    found = A.solve(b, method, rtol=1e-12)
    assert found.partial
    assert not found.converged
    left = np.linalg.norm(b - matrix @ found.value) / np.linalg.norm(b)
    np.testing.assert_allclose(found.residual, left, rtol=1e-6)
    assert left < 0.9
    assert str(found).startswith("interrupted: relative residual ")


@pytest.mark.parametrize("method", ["cg", "gmres"])
def test_interrupted_before_anything_was_done(method):
    def product(v):
        raise KeyboardInterrupt

    A = crelle.operator(product, (200, 200), like=np.zeros(1), psd=True)
    with pytest.raises(KeyboardInterrupt):
        A.solve(np.ones(200), method)


def test_methods_that_do_not_fit(rng):
    square, wide = crelle.operator(np.eye(4)), crelle.operator(np.ones((3, 4)))
    with pytest.raises(crelle.CrelleShapeError, match="needs a square matrix, and this is 3 × 4"):
        wide.solve(np.ones(3), "gmres")
    with pytest.raises(crelle.CrelleTypeError, match="not known to be one"):
        square.solve(np.ones(4), "minres")
    with pytest.raises(crelle.CrelleValueError, match="expected  'auto', 'cg', 'minres', 'gmres', 'lsmr', 'dense'"):
        square.solve(np.ones(4), "bicgstab")
    with pytest.raises(crelle.CrelleValueError, match=r"try       A.shifted\(0.5\).solve\(b\)"):
        square.solve(np.ones(4), "gmres", damping=0.5)
    with pytest.raises(crelle.CrelleValueError, match="damping=-1"):
        square.solve(np.ones(4), damping=-1)
    with pytest.raises(crelle.CrelleValueError, match="rtol=0"):
        square.solve(np.ones(4), rtol=0)
    with pytest.raises(crelle.CrelleValueError, match="budget=0"):
        square.solve(np.ones(4), budget=0)
    with pytest.raises(crelle.CrelleShapeError, match="no vector of this operator"):
        square.solve(np.ones(3))
    with pytest.raises(crelle.CrelleShapeError, match="x0= holds 2 vectors, and b holds 1"):
        square.solve(np.ones(4), x0=np.ones((4, 2)))


def test_a_hessian_that_is_not_symmetric():
    class Crooked(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return (x**2).sum()

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * (x + x.roll(1) * torch.arange(4.0, dtype=x.dtype))

    H = crelle.hessian(Crooked.apply).at(torch.ones(4, dtype=torch.float64))
    with pytest.raises(crelle.CrelleCheckError, match="solve: the matrix is not symmetric"):
        H.solve(torch.ones(4, dtype=torch.float64), "minres")
