"""Preconditioners: fewer products, the same solutions, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle
from tests.operators.solve.systems import FRAMEWORKS, MAKE, host, positive

N = 200


def badly_scaled(rng):
    """A matrix that is well conditioned after scaling with its diagonal, over four orders of magnitude."""
    scale = np.logspace(0, 2, N)
    inner = positive(rng, N) / 50 + np.eye(N)
    return scale[:, None] * inner * scale


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("method", ["cg", "minres", "gmres"])
def test_the_diagonal_saves_products(framework, method, rng):
    matrix, b = badly_scaled(rng), rng.standard_normal((N, 2))
    make = MAKE[framework]
    A = crelle.operator(make(matrix), psd=True)
    expected = np.linalg.solve(matrix, b)
    plain = A.solve(make(b), method, throw=False, budget=600)
    diagonal = np.diag(matrix).copy()
    inverse = crelle.operator(make(np.diag(1 / diagonal)), psd=True)
    for given in ("jacobi", make(diagonal), inverse):
        found = A.solve(make(b), method, preconditioner=given, rtol=1e-10)
        np.testing.assert_allclose(host(found.value), expected, atol=1e-7)
        assert found.products < plain.products / 4


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_blocks_by_leaves(framework, rng):
    """Exact for a Hessian without coupling between leaves: one step."""
    math, make = (jnp if framework == "jax" else torch), MAKE[framework]
    a, c = make(positive(rng, 12)), make(positive(rng, 5))

    def loss(p):
        return p["u"] @ a @ p["u"] / 2 + p["v"].reshape(-1) @ c @ p["v"].reshape(-1) / 2 + math.exp(p["w"])

    p = {"u": make(np.zeros(12)), "v": make(np.zeros((5, 1))), "w": make(np.array(0.5))}
    H = crelle.hessian(loss).at(p)
    b = {"u": make(rng.standard_normal(12)), "v": make(rng.standard_normal((5, 1))), "w": make(np.array(2.0))}
    for method in ("cg", "minres", "gmres"):
        found = H.solve(b, method, preconditioner="block", rtol=1e-10)
        plain = H.solve(b, method, rtol=1e-10)
        assert found.products - 18 <= 3 + 2  # 18 for the blocks, and two that check symmetry
        for name in ("u", "v", "w"):
            np.testing.assert_allclose(host(found.value[name]), host(plain.value[name]), atol=1e-8)


def test_diagonals_of_derivatives_are_exact_where_they_are_cheap():
    def loss(x):
        return jnp.sum(jnp.logspace(1, 5, N) * x**2) / 2 + jnp.sum(jnp.cos(x[1:] - x[:-1]))

    H = crelle.hessian(loss).at(jnp.zeros(N))
    b = jnp.ones(N)
    found = H.solve(b, "minres", preconditioner="jacobi")
    np.testing.assert_allclose(found.value, jnp.linalg.solve(jax.hessian(loss)(jnp.zeros(N)), b), atol=1e-8)
    assert found.products < 60
    assert found.notes == ()


def test_estimated_diagonals_say_so(rng):
    matrix = badly_scaled(rng)
    A = crelle.operator(lambda v: matrix @ v, (N, N), like=np.zeros(1), psd=True)
    b = rng.standard_normal(N)
    found = A.solve(b, "cg", preconditioner="jacobi")
    assert found.notes == ("the diagonal is an estimate from 100 products",)
    np.testing.assert_allclose(found.value, np.linalg.solve(matrix, b), atol=1e-6)


def test_minres_takes_absolute_values(rng):
    matrix = np.diag(np.concatenate([-np.logspace(0, 3, 20), np.logspace(0, 3, 20)]))
    found = crelle.operator(matrix, symmetric=True).solve(np.ones(40), "minres", preconditioner="jacobi")
    np.testing.assert_allclose(found.value, 1 / np.diag(matrix), atol=1e-8)
    assert found.products < 10
    assert found.notes == ("the preconditioner has absolute values of the diagonal",)


def test_inside_jit(rng):
    matrix, b = jnp.asarray(badly_scaled(rng)), jnp.asarray(rng.standard_normal(N))
    A = crelle.operator(matrix, psd=True)
    inverse = crelle.operator(jnp.diag(1 / jnp.diag(matrix)), psd=True)
    for method in ("cg", "minres", "gmres"):
        for given in (jnp.diag(matrix), inverse):
            found = jax.jit(lambda b, m=method, g=given: A.solve(b, m, preconditioner=g).value)(b)
            np.testing.assert_allclose(found, jnp.linalg.solve(matrix, b), atol=1e-6)
    with pytest.raises(crelle.CrelleTypeError, match="this is inside jax.jit, grad or vmap"):
        jax.jit(lambda b: A.solve(b, "cg", preconditioner="jacobi").value)(b)


def test_what_is_refused():
    A = crelle.operator(np.diag([1.0, -1.0, 2.0]), symmetric=True)
    b = np.ones(3)
    with pytest.raises(crelle.CrelleValueError) as error:
        A.solve(b, "cg", preconditioner="jacobi")
    assert str(error.value) == (
        "MatrixOperator(f64[3×3], numpy, cpu, symmetric).solve: 1 of the 3 elements on the diagonal are negative\n"
        "  likely  A is not positive definite, and conjugate gradients need that\n"
        "  try     method='minres', which takes absolute values of the diagonal; or A.shifted(c)"
    )
    with pytest.raises(crelle.CrelleValueError, match="1 of the 3 elements on the diagonal are zero or NaN"):
        A.solve(b, "minres", preconditioner=np.array([1.0, 0.0, 2.0]))
    with pytest.raises(crelle.CrelleTypeError, match="expected  'jacobi', 'block', an operator like A⁻¹"):
        A.solve(b, "minres", preconditioner="ilu")
    with pytest.raises(crelle.CrelleShapeError, match="expected  an operator like A⁻¹"):
        A.solve(b, "minres", preconditioner=crelle.operator(np.eye(2), psd=True))
    with pytest.raises(crelle.CrelleValueError, match="no preconditioner= for least squares"):
        A.solve(b, "lsmr", preconditioner="jacobi")
    with pytest.raises(crelle.CrelleValueError, match="the block of .* on the diagonal has no inverse"):
        crelle.operator(np.zeros((3, 3)), symmetric=True).solve(b, "minres", preconditioner="block")
    indefinite = crelle.operator(np.diag([1.0, -1.0, 1.0]), symmetric=True)
    with pytest.raises(crelle.CrelleSolveError, match="the preconditioner M is not positive definite"):
        A.solve(np.array([1.0, 3.0, 1.0]), "minres", preconditioner=indefinite)


def test_blocks_that_are_too_large():
    n = 20_000
    A = crelle.operator(lambda v: v, (n, n), like=np.zeros(1), psd=True)
    with pytest.raises(crelle.CrelleMemoryError, match="the largest leaf has 20,000 elements"):
        A.solve(np.ones(n), "cg", preconditioner="block")
