"""Solves against SciPy's own methods and dense references: all methods, in all frameworks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
import torch

import crelle
from tests.operators.solve.systems import FRAMEWORKS, MAKE, host, indefinite, positive, rotated, unsymmetric

SQUARE = [
    ("cg", positive, {"psd": True}),
    ("minres", positive, {"psd": True}),
    ("minres", indefinite, {"symmetric": True}),
    ("gmres", unsymmetric, {}),
    ("gmres", indefinite, {}),
    ("lsmr", unsymmetric, {}),
    ("dense", positive, {"psd": True}),
    ("dense", indefinite, {"symmetric": True}),
    ("dense", unsymmetric, {}),
]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("method", "make", "tags"), SQUARE)
@pytest.mark.parametrize("columns", [None, 3])
def test_square_systems(framework, method, make, tags, columns, rng):
    matrix = make(rng)
    b = rng.standard_normal((150,) if columns is None else (150, columns))
    found = crelle.operator(MAKE[framework](matrix), **tags).solve(MAKE[framework](b), method, rtol=1e-11)
    assert type(found.value) is type(MAKE[framework](b))
    np.testing.assert_allclose(host(found.value), np.linalg.solve(matrix, b), rtol=0, atol=1e-9)
    assert found.converged
    assert found.method == method
    left = np.linalg.norm(b - matrix @ host(found.value), axis=0) / np.linalg.norm(b, axis=0)
    np.testing.assert_allclose(found.residuals, np.atleast_1d(left), rtol=0.2, atol=1e-15)
    assert found.residual == found.residuals.max() <= 1e-11


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("shape", [(200, 150), (120, 160)])
@pytest.mark.parametrize("method", ["lsmr", "dense"])
@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_least_squares(framework, shape, method, damping, rng):
    """The solution with the smallest norm where there are several; (AᵀA + λI) x = Aᵀb with damping."""
    matrix, b = rng.standard_normal(shape), rng.standard_normal((shape[0], 2))
    A = crelle.operator(MAKE[framework](matrix))
    found = A.solve(MAKE[framework](b), method, damping=damping, rtol=1e-11)
    if damping:
        expected = np.linalg.solve(matrix.T @ matrix + damping * np.eye(shape[1]), matrix.T @ b)
    else:
        expected = np.linalg.pinv(matrix) @ b
    np.testing.assert_allclose(host(found.value), expected, rtol=0, atol=1e-7)
    left = np.linalg.norm(b - matrix @ expected, axis=0) / np.linalg.norm(b, axis=0)
    np.testing.assert_allclose(found.residuals, left, atol=1e-7)
    assert found.converged
    assert found.optimality < 1e-10 if damping or shape[0] > shape[1] else np.isnan(found.optimality)


@pytest.mark.parametrize(
    ("method", "make", "theirs"),
    [
        ("cg", positive, scipy.sparse.linalg.cg),
        ("minres", indefinite, scipy.sparse.linalg.minres),
        ("gmres", unsymmetric, lambda a, b, **kw: scipy.sparse.linalg.gmres(a, b, restart=50, **kw)),
    ],
)
def test_as_many_products_as_scipy(method, make, theirs, rng):
    matrix, b = make(rng), rng.standard_normal(150)
    count = [0]

    def product(v):
        count[0] += 1
        return matrix @ v

    reference = scipy.sparse.linalg.LinearOperator((150, 150), product, dtype=float)
    expected, info = theirs(reference, b, rtol=1e-9)
    assert info == 0
    found = crelle.operator(matrix, symmetric=method != "gmres").solve(b, method, rtol=1e-9)
    np.testing.assert_allclose(found.value, expected, rtol=0, atol=1e-6)
    assert found.products <= count[0] * 1.1 + 3


def test_lsmr_takes_as_many_products_as_scipy(rng):
    matrix, b = rng.standard_normal((200, 150)), rng.standard_normal(200)
    expected, _, steps, *_ = scipy.sparse.linalg.lsmr(matrix, b, damp=0.5, atol=1e-9, btol=1e-9, conlim=0)
    found = crelle.operator(matrix).solve(b, "lsmr", damping=0.25, rtol=1e-9)
    np.testing.assert_allclose(found.value, expected, rtol=0, atol=1e-7)
    assert abs(found.products - 2 * steps) <= 6


@pytest.mark.parametrize(
    ("make", "tags", "method"),
    [(positive, {"psd": True}, "cg"), (indefinite, {"symmetric": True}, "minres"), (unsymmetric, {}, "gmres")],
)
def test_auto_goes_by_what_is_known(make, tags, method, rng):
    matrix = make(rng)
    b = rng.standard_normal(150)
    known = crelle.operator(lambda v: matrix @ v, (150, 150), adjoint=lambda u: matrix.T @ u, like=b, **tags)
    assert known.solve(b).method == method
    assert known.solve(b, damping=0.1).method == "lsmr"
    assert crelle.operator(matrix, **tags).solve(b).method == "dense"
    assert known.gram().solve(b, rtol=1e-6).method == "cg"


def test_auto_of_rectangular_matrices(rng):
    matrix, b = rng.standard_normal((150, 140)), rng.standard_normal(150)
    A = crelle.operator(lambda v: matrix @ v, (150, 140), adjoint=lambda u: matrix.T @ u, like=b)
    assert A.solve(b).method == "lsmr"


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_trees_come_back_as_trees(framework):
    math = jnp if framework == "jax" else torch
    make = MAKE[framework]
    x = {"a": make(np.linspace(1.0, 2.0, 3)), "b": (make(np.array(1.5)),)}

    def f(x):
        return (x["a"] ** 2 * x["b"][0], math.sin(x["b"][0]) + x["a"].sum())

    A = crelle.jacobian(f).at(x)
    b = (make(np.array([1.0, -1.0, 2.0])), make(np.array(0.5)))
    found = A.solve(b)
    assert set(found.value) == {"a", "b"}
    assert found.value["b"][0].shape == ()
    back = A @ found.value
    np.testing.assert_allclose(host(back[0]), host(b[0]), atol=1e-12)
    np.testing.assert_allclose(host(back[1]), host(b[1]), atol=1e-12)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("method", ["cg", "minres", "gmres", "lsmr", "dense"])
def test_starting_points_and_zeros(framework, method, rng):
    matrix, x = positive(rng, 40), rng.standard_normal((40, 2))
    make = MAKE[framework]
    A = crelle.operator(make(matrix), psd=True)
    b = matrix @ x
    exact = A.solve(make(b), method, x0=make(x))
    np.testing.assert_allclose(host(exact.value), x, atol=1e-12)
    assert exact.products == (0 if method == "dense" else 2)
    near = A.solve(make(b), method, x0=make(x + 1e-3 * rng.standard_normal(x.shape)), rtol=1e-10)
    np.testing.assert_allclose(host(near.value), x, atol=1e-8)
    if method != "dense":
        assert near.products < A.solve(make(b), method, rtol=1e-10).products
    nothing = A.solve(make(np.zeros(40)), method, x0=make(np.ones(40)))
    assert (host(nothing.value) == 0).all()
    assert nothing.converged
    b[:, 0] = 0  # one column that is zero beside one that is not
    mixed = A.solve(make(b), method, rtol=1e-10)
    assert (host(mixed.value)[:, 0] == 0).all()
    np.testing.assert_allclose(host(mixed.value)[:, 1], x[:, 1], atol=1e-8)


@pytest.mark.parametrize("method", ["cg", "minres", "gmres", "lsmr", "dense"])
def test_empty_and_scalar_systems(method):
    empty = crelle.operator(np.zeros((0, 0)), psd=True).solve(np.zeros(0), method)
    assert empty.value.shape == (0,)
    assert empty.converged
    scalar = crelle.operator(np.array([[4.0]]), psd=True).solve(np.array([2.0]), method)
    np.testing.assert_allclose(scalar.value, [0.5], atol=1e-12)
    none = crelle.operator(np.eye(3), psd=True).solve(np.zeros((3, 0)), method)
    assert none.value.shape == (3, 0)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("method", ["minres", "gmres", "lsmr"])
def test_singular_systems_with_a_solution(framework, method, rng):
    matrix = rotated(rng, np.concatenate([np.zeros(10), np.linspace(1, 9, 30)]))
    b = matrix @ rng.standard_normal(40)
    make = MAKE[framework]
    found = crelle.operator(make(matrix), symmetric=True).solve(make(b), method, rtol=1e-9)
    np.testing.assert_allclose(host(found.value), np.linalg.pinv(matrix) @ b, atol=1e-6)


def test_ill_conditioned_systems_keep_their_promise(rng):
    """Recurrences drift from the true residual; rounds from the true one close the gap, or say that they cannot."""
    matrix = rotated(rng, np.logspace(-7, 0, 60))
    b = matrix @ rng.standard_normal(60)
    found = crelle.operator(matrix, psd=True).solve(b, "minres", rtol=1e-9, budget=5000)
    assert np.linalg.norm(b - matrix @ found.value) <= 1e-9 * np.linalg.norm(b)


@pytest.mark.parametrize("method", ["cg", "minres", "gmres", "lsmr"])
def test_single_precision_has_its_own_default(method, rng):
    matrix, b = positive(rng, 60), rng.standard_normal(60)
    A = crelle.operator(torch.tensor(matrix, dtype=torch.float32), psd=True)
    found = A.solve(torch.tensor(b, dtype=torch.float32), method)
    assert found.value.dtype == torch.float32
    assert found.residual <= 1e-5
    np.testing.assert_allclose(host(found.value), np.linalg.solve(matrix, b), atol=1e-3)


def test_results_print_themselves(rng):
    A = crelle.operator(np.diag([1.0, 2.0]), psd=True)
    found = A.solve(np.ones(2), "cg")
    assert str(found).startswith("converged: relative residual ")
    assert str(found).endswith("  (cg, 3 products)")


@pytest.mark.parametrize("method", ["cg", "minres", "gmres", "lsmr", "dense"])
def test_complex_systems_are_dense(method, rng):
    matrix = rng.standard_normal((5, 5)) + 1j * rng.standard_normal((5, 5))
    b = rng.standard_normal(5) + 1j * rng.standard_normal(5)
    A = crelle.operator(matrix)
    if method != "dense":
        with pytest.raises(crelle.CrelleTypeError, match="is for real matrices, and this is complex"):
            A.solve(b, method)
        return
    np.testing.assert_allclose(A.solve(b).value, np.linalg.solve(matrix, b), atol=1e-12)


# -- derivatives


@pytest.mark.parametrize(("method", "make", "tags"), SQUARE)
def test_torch_differentiates_with_respect_to_b(method, make, tags, rng):
    matrix = torch.tensor(make(rng, 6))
    A = crelle.operator(matrix, **tags)
    b = torch.tensor(rng.standard_normal((6, 2)), requires_grad=True)
    weights = torch.tensor(rng.standard_normal((6, 2)))
    (found,) = torch.autograd.grad((A.solve(b, method, rtol=1e-12).value * weights).sum(), b, create_graph=True)
    torch.testing.assert_close(found.detach(), torch.linalg.solve(matrix.T, weights), rtol=0, atol=1e-9)
    assert torch.autograd.gradgradcheck(lambda b: A.solve(b, method, rtol=1e-12).value ** 2, b, atol=1e-5)


def _traced(method, make, tags, rng):
    """A function of (θ, b) that solves, and the same by a dense solve."""
    matrix, b = jnp.asarray(make(rng, 6)), jnp.asarray(rng.standard_normal(6))

    def ours(theta, b):
        A = crelle.operator(theta * matrix + jnp.eye(6), **tags)
        return jnp.sin(A.solve(b, method, rtol=1e-12).value).sum()

    def theirs(theta, b):
        return jnp.sin(jnp.linalg.solve(theta * matrix + jnp.eye(6), b)).sum()

    return ours, theirs, b


@pytest.mark.parametrize(("method", "make", "tags"), [SQUARE[i] for i in (0, 2, 3, 6, 8)])
def test_jax_differentiates_with_respect_to_both(method, make, tags, rng):
    ours, theirs, b = _traced(method, make, tags, rng)
    found, expected = (jax.jit(jax.grad(f, argnums=(0, 1)))(1.5, b) for f in (ours, theirs))
    np.testing.assert_allclose(found[0], expected[0], atol=1e-9)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "make", "tags"), [SQUARE[i] for i in (0, 2, 3, 5)])
def test_jax_differentiates_forward_and_twice(method, make, tags, rng):
    ours, theirs, b = _traced(method, make, tags, rng)
    for derivative in (jax.jacfwd, jax.hessian):
        found, expected = (jax.jit(derivative(f, argnums=1))(1.5, b) for f in (ours, theirs))
        np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("method", ["lsmr", "dense"])
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_least_squares_inside_jit(method, damping, rng):
    matrix, b = rng.standard_normal((30, 20)), rng.standard_normal((30, 2))

    def solve(matrix, b):
        found = crelle.operator(matrix).solve(b, method, damping=damping, rtol=1e-11)
        return found.value, found.converged

    value, converged = jax.jit(solve)(matrix, b)
    expected = np.linalg.solve(matrix.T @ matrix + damping * np.eye(20), matrix.T @ b)
    np.testing.assert_allclose(value, expected, atol=1e-9)
    assert converged


def _step(method):
    """A Newton step with 140 unknowns, and the dense one."""

    def f(x):
        return x**3 + jnp.roll(x, 1)

    def step(x):
        found = crelle.jacobian(f).at(x).solve(-f(x), method, rtol=1e-10)
        assert found.method == ("gmres" if method == "auto" else method)
        return found.value

    return step, lambda x: jnp.linalg.solve(jax.jacobian(f)(x), -f(x))


def test_jit_of_many_unknowns():
    ours, dense = _step("auto")
    x = jnp.linspace(1, 2, 140)
    np.testing.assert_allclose(jax.jit(ours)(x), dense(x), atol=1e-8)
    np.testing.assert_allclose(ours(x), dense(x), atol=1e-8)


def test_vmap_of_many_unknowns():
    ours, dense = _step("lsmr")
    xs = jnp.stack([jnp.linspace(1, 2, 140), jnp.linspace(2, 3, 140)])
    np.testing.assert_allclose(jax.vmap(ours)(xs), jnp.stack([dense(x) for x in xs]), atol=1e-7)


def test_a_budget_inside_jit_shows_in_converged(rng):
    matrix, b = jnp.asarray(positive(rng)), jnp.asarray(rng.standard_normal(150))
    A = crelle.operator(matrix, psd=True)
    assert not jax.jit(lambda b: A.solve(b, "cg", budget=5).converged)(b)
    assert jax.jit(lambda b: A.solve(b, "cg").converged)(b)
