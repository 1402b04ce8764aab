"""The solver for lineax: solutions and derivatives are those of dense matrices, in optimistix and diffrax too."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crelle
from crelle.interop import lineax_solver

lx = pytest.importorskip("lineax", reason="lineax is not installed")
N = 40


def field(t, z, rate):
    """Two fields on a ring."""
    u, v = z[:N], z[N:]

    def laplacian(w):
        return jnp.roll(w, 1) + jnp.roll(w, -1) - 2 * w

    return jnp.concatenate([1 + u**2 * v - 4.4 * u + rate * laplacian(u), 3.4 * u - u**2 * v + rate * laplacian(v)])


def start():
    return jnp.concatenate([1 + jnp.sin(2 * jnp.pi * jnp.arange(N) / N), jnp.full(N, 3.0)])


def residual(y, rate):
    """One step of the implicit Euler method."""
    return y - start() - 0.05 * field(0.0, y, rate)


@pytest.mark.parametrize("jitted", [False, True])
def test_solution_is_the_dense_one(jitted, rng):
    b = jnp.asarray(rng.standard_normal(2 * N))

    def solve(y, b):
        return lx.linear_solve(lx.JacobianLinearOperator(residual, y, 7.0), b, lineax_solver()).value

    found = (jax.jit(solve) if jitted else solve)(start(), b)
    expected = jnp.linalg.solve(jax.jacfwd(residual)(start(), 7.0), b)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


def test_the_transposed_system_too(rng):
    b, y = jnp.asarray(rng.standard_normal(2 * N)), start() + 0.1
    f = lambda y, args: y**3 + y * jnp.roll(y, 1)  # its Jacobian is not symmetric
    operator = lx.JacobianLinearOperator(f, y)
    state = lineax_solver().init(operator, {})
    transposed, _ = lineax_solver().transpose(state, {})
    found = lineax_solver().compute(transposed, b, {})[0]
    np.testing.assert_allclose(found, jnp.linalg.solve(jax.jacfwd(f)(y, None).T, b), rtol=1e-11)
    again, _ = lineax_solver().transpose(transposed, {})
    np.testing.assert_array_equal(lineax_solver().compute(again, b, {})[0], lineax_solver().compute(state, b, {})[0])


def test_derivatives_of_the_solution(rng):
    b = jnp.asarray(rng.standard_normal(2 * N))

    def loss(rate, solver):
        operator = lx.JacobianLinearOperator(residual, start(), rate)
        return jnp.sum(lx.linear_solve(operator, b, solver).value ** 3)

    for derivative in (jax.grad, jax.jacfwd):
        mine, dense = derivative(loss)(7.0, lineax_solver()), derivative(loss)(7.0, lx.LU())
        np.testing.assert_allclose(mine, dense, rtol=1e-10)


def test_batches(rng):
    """Of right-hand sides, and of matrices."""
    points, b = jnp.asarray(rng.uniform(1, 2, (3, 2 * N))), jnp.asarray(rng.standard_normal((3, 2 * N)))
    solve = lambda y, b: lx.linear_solve(lx.JacobianLinearOperator(residual, y, 7.0), b, lineax_solver()).value
    dense = lambda y, b: jnp.linalg.solve(jax.jacfwd(residual)(y, 7.0), b)
    for axes in ((None, 0), (0, 0), (0, None)):
        args = [a if axis == 0 else a[0] for a, axis in zip((points, b), axes, strict=True)]
        np.testing.assert_allclose(jax.vmap(solve, axes)(*args), jax.vmap(dense, axes)(*args), rtol=1e-10)


def test_trees_keep_their_structure():
    x = {"a": jnp.arange(1.0, 4.0), "b": jnp.ones((2, 2))}
    f = lambda x, args: {"a": x["a"] ** 2, "b": 2 * x["b"] + x["a"][0]}
    found = lx.linear_solve(
        lx.JacobianLinearOperator(f, x), {"a": jnp.ones(3), "b": jnp.zeros((2, 2))}, lineax_solver()
    )
    np.testing.assert_allclose(found.value["a"], [1 / 2, 1 / 4, 1 / 6], rtol=1e-14)
    np.testing.assert_allclose(found.value["b"], np.full((2, 2), -1 / 4), rtol=1e-14)


def test_only_as_many_products_as_colours():
    """The operator of a ring is applied once, to a block of a few vectors, and not 2N times."""
    widths = []

    class Counted(lx.FunctionLinearOperator):
        def mv(self, vector):
            widths.append(vector.shape)
            return super().mv(vector)

    plan = crelle.jacobian(residual, format="triplets").plan(start(), 7.0)
    assert plan.passes <= 8
    operator = Counted(lambda v: jax.jvp(lambda y: residual(y, 7.0), (start(),), (v,))[1], jax.eval_shape(start))
    lx.linear_solve(operator, start(), lineax_solver())
    assert len(widths) < 10


def test_optimistix(rng):
    optx = pytest.importorskip("optimistix", reason="optimistix is not installed")

    def solve(rate, solver):
        newton = optx.Newton(rtol=1e-10, atol=1e-10, linear_solver=solver)
        return optx.root_find(residual, newton, start(), args=rate).value

    found = solve(7.0, lineax_solver())
    assert jnp.abs(residual(found, 7.0)).max() < 1e-9
    np.testing.assert_allclose(found, solve(7.0, lx.LU()), rtol=1e-10)
    sums = [jax.grad(lambda r, s=s: solve(r, s).sum() + solve(r, s)[0])(7.0) for s in (lineax_solver(), lx.LU())]
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-8)


def test_diffrax():
    diffrax = pytest.importorskip("diffrax", reason="diffrax is not installed")

    def solve(solver):
        chord = diffrax.with_stepsize_controller_tols(diffrax.VeryChord)(linear_solver=solver)
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Kvaerno5(root_finder=chord), 0.0, 0.2, 0.01, start(), args=10.0,
            stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-8),
        ).ys  # fmt: skip

    np.testing.assert_allclose(solve(lineax_solver()), solve(lx.LU()), rtol=1e-10)


def test_operators_that_are_not_square_are_refused():
    operator = lx.JacobianLinearOperator(lambda x, args: x[1:] - x[:-1], jnp.ones(4))
    with pytest.raises(crelle.CrelleShapeError) as error:
        lineax_solver().init(operator, {})
    assert str(error.value) == (
        "crelle.interop.lineax_solver: the operator is 3 × 4\n"
        "  expected  a square one\n"
        "  try       lineax.LSMR() or lineax.QR() for least squares"
    )


def test_without_lineax(monkeypatch):
    monkeypatch.setitem(sys.modules, "lineax", None)
    monkeypatch.delitem(sys.modules, "crelle.backends.jax.lineax", raising=False)
    with pytest.raises(crelle.CrelleImportError, match="lineax_solver needs lineax, which is not installed"):
        lineax_solver()
