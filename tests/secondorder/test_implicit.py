"""Derivatives of solutions of equations: against closed forms, derivatives through the iteration, and differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle

RNG = np.random.default_rng(1841)
W, C = 0.3 * RNG.standard_normal((3, 3)), np.array(0.4)


def iterate(math, zeros):
    """A fixed point on a tree, and its equation."""

    def step(x, theta):
        a = math.tanh(theta["w"] @ x["a"] + theta["c"] * x["b"])
        return {"a": a, "b": 0.3 * math.sin(x["a"].sum()) + theta["c"]}

    def solver(theta):
        x = {"a": zeros(3), "b": zeros(())}
        if math is jnp:
            return jax.lax.scan(lambda x, _: (step(x, theta), None), x, length=60)[0]
        for _ in range(60):
            x = step(x, theta)
        return x

    def residual(x, theta):
        new = step(x, theta)
        return {"a": new["a"] - x["a"], "b": new["b"] - x["b"]}

    return solver, residual


def loss(x):
    return (x["a"] ** 2).sum() + x["b"]


def theta_jax():
    return {"w": jnp.asarray(W), "c": jnp.asarray(C)}


def assert_close(found, expected, atol=1e-10):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize(
    "derivative", [jax.grad, jax.jacfwd, lambda f: jax.jit(jax.grad(f))], ids=["grad", "jacfwd", "jit-grad"]
)
def test_jax_trees(derivative):
    solver, residual = iterate(jnp, jnp.zeros)
    root = crelle.implicit(solver, residual)
    expected = jax.grad(lambda theta: loss(solver(theta)))(theta_jax())
    assert float(abs(expected["w"]).max()) > 1e-2
    assert_close(derivative(lambda theta: loss(root(theta)))(theta_jax()), expected)


def test_jax_twice_and_batched():
    solver, residual = iterate(jnp, jnp.zeros)
    root = crelle.implicit(solver, residual)
    ours, theirs = (lambda theta, f=f: loss(f(theta)) for f in (root, solver))
    assert_close(jax.jit(jax.hessian(ours))(theta_jax()), jax.jit(jax.hessian(theirs))(theta_jax()), 1e-9)
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), theta_jax())
    assert_close(jax.vmap(jax.grad(ours))(batch), jax.vmap(jax.grad(theirs))(batch))


@pytest.mark.parametrize("method", ["auto", "gmres", "lsmr"])
def test_torch_trees(method):
    solver, residual = iterate(torch, lambda shape: torch.zeros(shape, dtype=torch.float64))
    root = crelle.implicit(solver, residual, method=method, rtol=1e-12)
    w, c = torch.tensor(W, requires_grad=True), torch.tensor(C, requires_grad=True)
    found = torch.autograd.grad(loss(root({"w": w, "c": c})), (w, c))
    expected = torch.autograd.grad(loss(solver({"w": w, "c": c})), (w, c))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_torch_forward_mode_and_differences():
    solver, residual = iterate(torch, lambda shape: torch.zeros(shape, dtype=torch.float64))
    root = crelle.implicit(solver, residual)
    w, c = torch.tensor(W, requires_grad=True), torch.tensor(C, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, c: tuple(root({"w": w, "c": c}).values()), (w, c), check_forward_ad=True)


def test_torch_second_derivatives_are_refused():
    root = crelle.implicit(lambda c: c ** (1 / 3), lambda x, c: x**3 - c)
    c = torch.tensor([8.0], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(root(c), c, create_graph=True)
    torch.testing.assert_close(first.detach(), torch.tensor([1 / 12], dtype=torch.float64))
    with pytest.raises(crelle.CrelleTypeError, match="a second derivative, and PyTorch has the first one only"):
        torch.autograd.grad(first, c)


def test_torch_products_from_the_left_twice_are_products_from_the_right():
    """uᵀJ is linear in u, and its derivative with respect to u is needed by some: that one is there."""
    root = crelle.implicit(lambda c: c ** (1 / 3), lambda x, c: x**3 - c)
    c = torch.tensor([8.0, 27.0], dtype=torch.float64, requires_grad=True)
    u = torch.ones(2, dtype=torch.float64, requires_grad=True)
    (pulled,) = torch.autograd.grad(root(c), c, u, create_graph=True)
    (pushed,) = torch.autograd.grad(pulled, u, torch.tensor([1.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(pushed, torch.tensor([1 / 12, 2 / 27], dtype=torch.float64))


def test_torch_parameters_that_the_residual_captures():
    layer = torch.nn.Linear(3, 3, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.mul_(0.3)

    def solver(u):
        x = torch.zeros_like(u)
        with torch.no_grad():
            for _ in range(60):
                x = torch.tanh(layer(x) + u)
        return x

    root = crelle.implicit(solver, lambda x, u: torch.tanh(layer(x) + u) - x)
    u = torch.tensor([0.1, -0.3, 0.5], dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(root(u).square().sum(), (u, *layer.parameters()))
    x = torch.zeros_like(u)
    for _ in range(60):
        x = torch.tanh(layer(x) + u)
    expected = torch.autograd.grad(x.square().sum(), (u, *layer.parameters()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def ridge(math):
    """argmin ‖X β - y‖² + e^t ‖β‖²: its minimiser in closed form, and the gradient that is zero there."""
    make = jnp.asarray if math is jnp else torch.as_tensor
    X, y = make(RNG.standard_normal((12, 5))), make(RNG.standard_normal(12))

    def closed(t):
        return math.linalg.solve(X.T @ X + math.exp(t) * math.eye(5, dtype=X.dtype), X.T @ y)

    def gradient(beta, t):
        return X.T @ (X @ beta - y) + math.exp(t) * beta

    return closed, gradient


@pytest.mark.parametrize("method", ["auto", "cg", "minres"])
def test_minimisers_in_jax(method):
    closed, gradient = ridge(jnp)
    best = crelle.implicit(closed, gradient, symmetric=True, rtol=1e-12, method=method)
    np.testing.assert_allclose(jax.jacrev(best)(0.3), jax.jacfwd(closed)(0.3), atol=1e-10)
    np.testing.assert_allclose(jax.jacfwd(best)(0.3), jax.jacfwd(closed)(0.3), atol=1e-10)


@pytest.mark.parametrize("method", ["auto", "cg", "minres"])
def test_minimisers_in_torch(method):
    closed, gradient = ridge(torch)
    best = crelle.implicit(closed, gradient, symmetric=True, rtol=1e-12, method=method)
    t = torch.tensor(0.3, dtype=torch.float64)
    found = torch.autograd.functional.jacobian(best, t)
    torch.testing.assert_close(found, torch.autograd.functional.jacobian(closed, t), rtol=0, atol=1e-10)


def test_solvers_that_cannot_be_differentiated():
    """SciPy in a callback: only its result is used."""
    import scipy.optimize

    def solver(c):
        found = scipy.optimize.root(lambda x: x + np.sin(x) - np.asarray(c), np.zeros(4), tol=1e-13)
        return torch.as_tensor(found.x)

    root = crelle.implicit(solver, lambda x, c: x + torch.sin(x) - c)
    c = torch.linspace(0.1, 1.0, 4, dtype=torch.float64, requires_grad=True)
    x = root(c)
    (found,) = torch.autograd.grad(x.sum(), c)
    torch.testing.assert_close(found, 1 / (1 + torch.cos(x.detach())), rtol=0, atol=1e-10)


def test_a_loss_in_place_of_its_gradient():
    best = crelle.implicit(lambda t: jnp.ones(3) * t, lambda x, t: ((x - t) ** 2).sum())
    with pytest.raises(crelle.CrelleShapeError) as error:
        jax.jacfwd(best)(1.0)
    assert str(error.value) == (
        "crelle.implicit(f, f): 1 equations for 3 unknowns\n"
        "  called    residual: f64[]; solution: f64[3]\n"
        "  expected  as many equations as unknowns\n"
        "  likely    the residual is a loss, in place of its gradient"
    )
    with pytest.raises(crelle.CrelleShapeError, match="1 equations for 3 unknowns"):
        crelle.implicit(lambda t: torch.ones(3) * t, lambda x, t: ((x - t) ** 2).sum())(torch.tensor(1.0))


def test_numpy_is_refused():
    with pytest.raises(crelle.CrelleTypeError, match="NumPy does not differentiate"):
        crelle.implicit(lambda c: c, lambda x, c: x - c)(np.ones(2))


def test_a_singular_equation_says_so():
    root = crelle.implicit(lambda c: torch.zeros_like(c), lambda x, c: x**2 - c)
    c = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(crelle.CrelleSolveError, match="A is singular to rounding"):
        root(c).sum().backward()
