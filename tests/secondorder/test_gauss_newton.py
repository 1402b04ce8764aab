"""Steps of Newton, Gauss-Newton and Levenberg-Marquardt methods against dense ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.flatten_util import ravel_pytree

import crelle
from tests.operators.solve.systems import FRAMEWORKS, MAKE, host

MATH = {"numpy": np, "jax": jnp, "torch": torch}


def fit(framework: str):
    """Residuals of y = a exp(-b t), and the parameters as an array."""
    math, make = MATH[framework], MAKE[framework]
    t = make(np.linspace(0.0, 2.0, 9))
    y = make(2.0 * np.exp(-1.3 * np.linspace(0.0, 2.0, 9)) + 0.01 * np.cos(np.arange(9.0)))
    return lambda x: x[0] * math.exp(-x[1] * t) - y


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("damping", [0.0, 0.5])
@pytest.mark.parametrize("method", ["auto", "lsmr"])
def test_the_step_is_that_of_the_normal_equations(framework, damping, method):
    residual = fit(framework)
    x = np.array([1.0, 0.5])
    rtol = 1e-6 if framework == "numpy" else 1e-12  # derivatives of NumPy functions are differences
    found = crelle.gauss_newton_step(residual, MAKE[framework](x), damping=damping, method=method, rtol=rtol)
    t = np.linspace(0.0, 2.0, 9)
    r = fit("numpy")(x)
    J = np.stack([np.exp(-x[1] * t), -x[0] * t * np.exp(-x[1] * t)], 1)
    step = -np.linalg.solve(J.T @ J + damping * np.eye(2), J.T @ r)
    close = 1e-5 if framework == "numpy" else 1e-9
    np.testing.assert_allclose(host(found.step), step, atol=close)
    np.testing.assert_allclose(float(found.loss), r @ r / 2, atol=1e-12)
    np.testing.assert_allclose(float(found.predicted), r @ r / 2 - np.sum((r + J @ step) ** 2) / 2, atol=close)
    assert found.solution.converged


def test_levenberg_marquardt_finds_the_minimum():
    """The loop of the page: damping falls where the prediction holds."""
    residual = fit("jax")
    x, damping = jnp.array([1.0, 0.5]), 1.0
    for _ in range(30):
        found = crelle.gauss_newton_step(residual, x, damping=damping)
        new = x + found.step
        gain = (found.loss - (residual(new) ** 2).sum() / 2) / found.predicted
        x, damping = (new, damping / 3) if gain > 0.25 else (x, damping * 4)
        if float(found.predicted) < 1e-14:
            break
    gradient = jax.grad(lambda x: (residual(x) ** 2).sum())(x)
    np.testing.assert_allclose(gradient, 0, atol=1e-7)
    np.testing.assert_allclose(x, [2.0, 1.3], atol=0.05)


def test_trees_arguments_and_more_unknowns_than_residuals():
    def residual(x, y):
        return (x["w"] @ jnp.arange(3.0) + x["b"] ** 2 - y, x["b"][:1])

    x = {"w": jnp.ones((2, 3)), "b": jnp.array([0.5, 2.0])}
    y = jnp.array([1.0, -1.0])
    found = crelle.gauss_newton_step(residual, x, y)
    assert found.step["w"].shape == (2, 3)
    flat, unravel = ravel_pytree(x)
    r = lambda v: ravel_pytree(residual(unravel(v), y))[0]
    expected = -np.linalg.pinv(jax.jacobian(r)(flat)) @ r(flat)
    np.testing.assert_allclose(ravel_pytree(found.step)[0], expected, atol=1e-10)


def test_inside_jit():
    residual = fit("jax")
    step = jax.jit(lambda x: crelle.gauss_newton_step(residual, x, damping=0.1).step)
    x = jnp.array([1.0, 0.5])
    np.testing.assert_allclose(step(x), crelle.gauss_newton_step(residual, x, damping=0.1).step, atol=1e-9)


def test_negative_damping_is_refused():
    with pytest.raises(crelle.CrelleValueError, match="damping=-1.0"):
        crelle.gauss_newton_step(fit("jax"), jnp.array([1.0, 0.5]), damping=-1.0)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_newton_krylov(framework):
    """The line of the page, on a nonlinear boundary value problem with 150 unknowns: GMRES."""
    math, make = MATH[framework], MAKE[framework]
    n = 150
    stiff = make(np.diag(np.full(n, 2.0)) - np.diag(np.ones(n - 1), 1) - np.diag(np.ones(n - 1), -1))

    def f(u):
        return stiff @ u + 0.5 * math.sinh(u) - 1.0

    u = make(np.zeros(n))
    rtol = 1e-5 if framework == "numpy" else 1e-9
    for _ in range(6):
        A = crelle.jacobian(f).at(u)
        found = A.solve(-A.value, rtol=rtol)
        assert found.method == "gmres"
        u = u + found.value
    assert abs(host(f(u))).max() < 1e-10


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_influence_of_a_sample(framework):
    """(H + λI)⁻¹ g: what leaving a sample out does to the parameters of a ridge regression, to first order."""
    make = MAKE[framework]
    rng = np.random.default_rng(1828)
    X, y = rng.standard_normal((40, 5)), rng.standard_normal(40)
    Xs, ys = make(X), make(y)
    loss = lambda w: ((Xs @ w - ys) ** 2).sum() / 2
    w = np.linalg.solve(X.T @ X + 0.5 * np.eye(5), X.T @ y)
    H = crelle.hessian(loss).at(make(w))
    g = X[3] * (X[3] @ w - y[3])
    found = H.shifted(0.5).solve(make(g), "minres", rtol=1e-12)
    np.testing.assert_allclose(host(found.value), np.linalg.solve(X.T @ X + 0.5 * np.eye(5), g), atol=1e-10)
    without = np.linalg.solve(
        np.delete(X, 3, 0).T @ np.delete(X, 3, 0) + 0.5 * np.eye(5), np.delete(X, 3, 0).T @ np.delete(y, 3)
    )
    leverage = X[3] @ np.linalg.solve(X.T @ X + 0.5 * np.eye(5), X[3])
    np.testing.assert_allclose(w + host(found.value) / (1 - leverage), without, atol=1e-10)
