"""Callables for SciPy: equal to the frameworks' dense derivatives, usable by the solvers, strict about arguments."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.sparse as sp
import scipy.sparse.linalg as spla
import torch

import crelle
from crelle.interop import scipy_constraint, scipy_fun, scipy_grad, scipy_hess, scipy_jac

FRAMEWORKS = ("jax", "torch")
N = 60


def brusselator(t, z, roll, cat, cos):
    """Two fields on a ring, driven in time."""
    n = z.shape[0] // 2
    u, v = z[:n], z[n:]

    def laplacian(w):
        return roll(w, 1) + roll(w, -1) - 2 * w

    du = 1 + u**2 * v - 4.4 * u + 10 * laplacian(u) + 0.1 * cos(t)
    return cat([du, 3.4 * u - u**2 * v + 10 * laplacian(v)])


def residuals(x, cat):
    """2n − 2 residuals of Rosenbrock's function in n variables."""
    return cat([10 * (x[1:] - x[:-1] ** 2), 1 - x[:-1]])


def energy(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def pairs(x):
    """n/2 constraints."""
    return x[::2] ** 2 + x[1::2]


FUNCTIONS = {
    "jax": {
        "ode": lambda t, z: brusselator(t, z, jnp.roll, jnp.concatenate, jnp.cos),
        "residuals": lambda x: residuals(x, jnp.concatenate),
    },
    "torch": {
        "ode": lambda t, z: brusselator(t, z, torch.roll, torch.cat, torch.cos),
        "residuals": lambda x: residuals(x, torch.cat),
    },
}
for _functions in FUNCTIONS.values():
    _functions |= {"energy": energy, "pairs": pairs}


def array(framework, values):
    values = np.array(values, np.float64)
    return jnp.asarray(values) if framework == "jax" else torch.from_numpy(values)


def dense(framework, kind, f, x, *rest, argnums=0):
    """The framework's own derivative."""
    args = list(rest)
    args.insert(argnums, x)
    args = [array(framework, a) for a in args]
    if framework == "jax":
        ask = {"jacobian": jax.jacfwd, "hessian": jax.hessian, "gradient": jax.grad}[kind]
    else:
        ask = {"jacobian": torch.func.jacfwd, "hessian": torch.func.hessian, "gradient": torch.func.grad}[kind]
    return np.asarray(ask(f, argnums)(*args))


def close(mine, theirs):
    mine = mine.toarray() if sp.issparse(mine) else mine
    assert mine.dtype == np.float64
    assert mine.shape == theirs.shape
    np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12 * np.abs(theirs).max(initial=0))


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("format", ["csr", "csc", "dense", "auto"])
@pytest.mark.parametrize("n", [4, N])
def test_jacobian_is_the_dense_one_at_every_point(framework, format, n, rng):
    f = FUNCTIONS[framework]["residuals"]
    jac = scipy_jac(f, array(framework, np.ones(n)), format=format)
    for _ in range(3):
        x = rng.standard_normal(n)
        close(jac(x), dense(framework, "jacobian", f, x))
        close(jac.fun(x), np.asarray(f(array(framework, x))))
    assert jac.shape == (2 * n - 2, n)
    assert jac.format == ({4: "dense", N: "csr"}[n] if format == "auto" else format)
    assert sp.issparse(jac(x)) == (jac.format != "dense")


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("format", ["csr", "csc", "dense"])
def test_jacobian_by_the_second_argument_follows_the_first(framework, format, rng):
    f = FUNCTIONS[framework]["ode"]
    jac = scipy_jac(f, 0.0, array(framework, np.ones(N)), argnums=1, format=format)
    x = rng.standard_normal(N)
    for t in (0.0, 1.5, np.float64(2.0)):
        close(jac(t, x), dense(framework, "jacobian", f, x, t, argnums=1))
        close(jac.fun(t, x), np.asarray(f(array(framework, t), array(framework, x))))
    assert np.ptp([jac.fun(t, x)[0] for t in (0.0, 1.5)]) > 0.01


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("format", ["csr", "csc", "dense", "auto"])
def test_hessian_and_gradient_are_the_dense_ones(framework, format, rng):
    x0 = array(framework, np.ones(N))
    hess, grad = scipy_hess(energy, x0, format=format), scipy_grad(energy, x0)
    for _ in range(3):
        x = rng.standard_normal(N)
        close(hess(x), dense(framework, "hessian", energy, x))
        close(grad(x), dense(framework, "gradient", energy, x))
        assert hess.fun(x) == grad.fun(x) == pytest.approx(float(energy(x)), rel=1e-13)
        assert type(grad.fun(x)) is float


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("format", ["csr", "dense"])
def test_constraint_gives_jacobian_and_hessian_of_the_weighted_sum(framework, format, rng):
    constraint = scipy_constraint(pairs, array(framework, np.ones(N)), -1.0, np.inf, format=format)
    assert isinstance(constraint, scipy.optimize.NonlinearConstraint)
    assert (constraint.lb, constraint.ub) == (-1.0, np.inf)
    for _ in range(3):
        x, v = rng.standard_normal(N), rng.standard_normal(N // 2)
        close(constraint.fun(x), pairs(x))
        close(constraint.jac(x), dense(framework, "jacobian", pairs, x))
        close(constraint.hess(x, v), dense(framework, "hessian", lambda x, v: (v * pairs(x)).sum(), x, v))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_sparsity_is_a_scipy_array_with_the_pattern(framework):
    f = FUNCTIONS[framework]["residuals"]
    jac = scipy_jac(f, array(framework, np.ones(N)))
    assert isinstance(jac.sparsity, sp.csr_array)
    assert jac.pattern == crelle.SparsityPattern.from_(jac.sparsity)
    expected = dense(framework, "jacobian", f, np.linspace(1, 2, N)) != 0
    np.testing.assert_array_equal(jac.sparsity.toarray(), expected)
    assert jac.plan.passes <= 2


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_results_have_entries_of_their_own_and_share_indices_that_cannot_be_changed(framework):
    f = FUNCTIONS[framework]["residuals"]
    for format in ("csr", "csc"):
        jac = scipy_jac(f, array(framework, np.ones(N)), format=format)
        first = jac(np.ones(N))
        before = first.toarray()
        second = jac(np.full(N, 3.0))
        second.data *= 7
        np.testing.assert_array_equal(first.toarray(), before)
        close(jac(np.ones(N)), before)
        assert first.indices is second.indices or np.shares_memory(first.indices, second.indices)
        with pytest.raises(ValueError, match="read-only"):
            second.indices[0] = 1
        assert first.has_canonical_format
    value = jac.fun(np.ones(N))
    value *= 2  # least_squares scales residuals in place


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_arguments_beside_the_vector(framework, rng):
    """Floats and arrays may change; an integer is part of what was traced."""

    def f(x, scale, weights, power):
        return scale * weights["w"] * x**power

    x0, w0 = array(framework, np.ones(N)), {"w": array(framework, np.ones(N))}
    jac = scipy_jac(f, x0, 1.0, w0, 3, format="csr")
    x, w = rng.standard_normal(N), rng.standard_normal(N)
    close(jac(x, 2.5, {"w": w}, 3), np.diag(7.5 * w * x**2))
    close(jac.fun(x, 2.5, {"w": w}, 3), 2.5 * w * x**3)
    with pytest.raises(crelle.CrelleValueError, match="an argument that is no float has changed"):
        jac(x, 2.5, {"w": w}, 2)
    with pytest.raises(crelle.CrelleShapeError, match="other arguments than in the example"):
        jac(x, 2.5, w, 3)
    with pytest.raises(crelle.CrelleShapeError, match="other arguments than in the example"):
        jac(x)


def test_the_same_array_twice_is_told_apart():
    x0 = jnp.ones(40)
    jac = scipy_jac(lambda p, x: p * x**2, x0, x0, argnums=1, format="csr")
    close(jac(np.full(40, 3.0), np.full(40, 5.0)), 30 * np.eye(40))


def test_numpy_example_is_taken_for_functions_of_jax():
    jac = scipy_jac(lambda x: jnp.sin(x), np.ones(N))
    close(jac(np.zeros(N)), np.eye(N))


def test_numpy_vector_beside_a_tensor():
    jac = scipy_jac(lambda x, w: w * x**2, np.ones(N), torch.ones(N, dtype=torch.float64), format="csr")
    close(jac(np.full(N, 2.0), np.full(N, 3.0)), 12 * np.eye(N))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_single_precision_is_handed_over_in_double(framework):
    x0 = array(framework, np.ones(N))
    x0 = x0.astype(jnp.float32) if framework == "jax" else x0.float()
    jac = scipy_jac(lambda x: x**2, x0, format="csr")
    assert jac(np.ones(N)).dtype == jac.fun(np.ones(N)).dtype == np.float64


def test_double_precision_that_jax_would_drop_is_reported():
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.warns(crelle.CrelleWarning, match=r"x is f64\[3\], and jax computes with f32\[3\]"):
            scipy_fun(lambda x: jnp.sin(x), np.ones(3))
    finally:
        jax.config.update("jax_enable_x64", True)


def test_tensors_that_f_captures_may_change():
    """As for ``crelle.jacobian``: a constant part that was computed once is computed anew."""
    weight = torch.ones(N, dtype=torch.float64)
    jac = scipy_jac(lambda x: weight * x + x**2, torch.ones(N, dtype=torch.float64), format="csr")
    close(jac(np.ones(N)), 3 * np.eye(N))
    weight.fill_(5.0)
    close(jac(np.ones(N)), 7 * np.eye(N))
    close(jac.fun(np.ones(N)), np.full(N, 6.0))


def test_a_pattern_that_moves_is_refused():
    shift = [1]
    jac = scipy_jac(lambda x: x.roll(shift[0]) ** 2, torch.ones(N, dtype=torch.float64), format="csr")
    jac(np.ones(N))
    shift[0] = 2
    with pytest.raises(crelle.CrelleValueError, match="its entries are in other places now"):
        jac(np.ones(N))


def test_read_only_vectors_are_taken():
    x = np.ones(N)
    x.flags.writeable = False
    for framework in FRAMEWORKS:
        close(scipy_fun(lambda x: 2 * x, array(framework, x))(x), 2 * x)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("part", [slice(None, None, -1), slice(None, None, 2)])
def test_vectors_that_are_views_and_integers(framework, part):
    f = FUNCTIONS[framework]["residuals"]
    view = np.arange(8.0)[part]
    jac = scipy_jac(f, array(framework, np.ones(len(view))), format="csr")
    close(jac(view), dense(framework, "jacobian", f, view.copy()))
    close(jac(view.astype(int)), dense(framework, "jacobian", f, view.copy()))
    close(jac.fun(view), np.asarray(f(array(framework, view.copy()))))


@pytest.mark.parametrize("format", ["csr", "dense"])
def test_modules_and_parameters(format, rng):
    """Nothing is recorded for parameters that require gradients; when they change, so does the result."""
    weight = torch.nn.Parameter(torch.ones(N, dtype=torch.float64))
    f = lambda x: weight * x.sin() + 2 * x
    x = rng.standard_normal(N)
    jac = scipy_jac(f, torch.ones(N, dtype=torch.float64, requires_grad=True), format=format)
    close(jac(x), np.diag(np.cos(x) + 2))
    with torch.no_grad():
        weight.mul_(3)
    close(jac(x), np.diag(3 * np.cos(x) + 2))
    close(jac.fun(x), 3 * np.sin(x) + 2 * x)
    module = torch.nn.Sequential(torch.nn.Linear(N, N, dtype=torch.float64), torch.nn.Tanh())
    layer = scipy_jac(module, torch.ones(N, dtype=torch.float64), format=format)
    close(layer(x), torch.func.jacfwd(module)(torch.from_numpy(x)).detach().numpy())


@pytest.mark.parametrize("format", ["csr", "dense"])
def test_under_no_grad_and_with_grad(format):
    hess = scipy_hess(energy, torch.ones(N, dtype=torch.float64), format=format)
    x = np.linspace(1, 2, N)
    with torch.no_grad():
        first = hess(x)
    close(first, dense("torch", "hessian", energy, x))
    close(hess(x), dense("torch", "hessian", energy, x))


def test_a_given_pattern_is_used():
    wide = crelle.SparsityPattern.from_dense(np.tri(N, N, 1) - np.tri(N, N, -2))
    jac = scipy_jac(lambda x: jnp.sin(x), jnp.ones(N), pattern=wide)
    assert jac.pattern == wide
    close(jac(np.zeros(N)), np.eye(N))


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("format", ["csr", "csc", "dense"])
def test_no_entry_and_one(framework, format, n):
    jac = scipy_jac(lambda x: x**2, array(framework, np.ones(n)), format=format)
    close(jac(np.full(n, 3.0)), 6 * np.eye(n))


# -- the solvers


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("method", ["BDF", "Radau"])
def test_solve_ivp(framework, method):
    f = FUNCTIONS[framework]["ode"]
    y0 = np.concatenate([1 + np.sin(2 * np.pi * np.arange(N // 2) / (N // 2)), np.full(N // 2, 3.0)])
    jac = scipy_jac(f, 0.0, array(framework, y0), argnums=1, format="csc")
    calls = 0

    def fun(t, y):
        nonlocal calls
        calls += 1
        return jac.fun(t, y)

    solve = lambda **how: scipy.integrate.solve_ivp(fun, (0, 0.5), y0, method=method, rtol=1e-8, atol=1e-10, **how)
    mine, calls_of_mine = solve(jac=jac), calls
    grouped = solve(jac_sparsity=jac.sparsity)
    explicit = scipy.integrate.solve_ivp(jac.fun, (0, 0.5), y0, method="DOP853", rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(mine.y[:, -1], explicit.y[:, -1], rtol=1e-6)
    np.testing.assert_allclose(grouped.y[:, -1], explicit.y[:, -1], rtol=1e-6)
    assert calls - calls_of_mine >= calls_of_mine + 4 * grouped.njev  # differences of groups of columns


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("loss", ["linear", "huber"])
def test_least_squares(framework, loss):
    f = FUNCTIONS[framework]["residuals"]
    x0 = np.full(N, 0.5)
    jac = scipy_jac(f, array(framework, x0))
    found = scipy.optimize.least_squares(jac.fun, x0, jac=jac, loss=loss)
    assert jac.format == "csr"
    np.testing.assert_allclose(found.x, 1, rtol=1e-6)
    assert found.njev < 60


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("method", ["hybr", "lm"])
def test_root(framework, method):
    jac = scipy_jac(lambda x: x**3 + x.flip(0) - 3 if framework == "torch" else x**3 + x[::-1] - 3,
                    array(framework, np.ones(N)), format="dense")  # fmt: skip
    found = scipy.optimize.root(jac.fun, np.ones(N), jac=jac, method=method)
    assert found.success
    np.testing.assert_allclose(found.x**3 + found.x[::-1], 3, atol=1e-9)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_minimize_with_a_constraint(framework):
    x0 = np.full(N, 0.5)
    hess, grad = scipy_hess(energy, array(framework, x0)), scipy_grad(energy, array(framework, x0))
    constraint = scipy_constraint(pairs, array(framework, x0), -np.inf, 1.0, format="csr")
    found = scipy.optimize.minimize(
        grad.fun, x0, jac=grad, hess=hess, constraints=[constraint], method="trust-constr",
        options={"gtol": 1e-8, "maxiter": 500},
    )  # fmt: skip
    assert found.status in (1, 2)
    assert found.constr_violation < 1e-9
    lagrangian = grad(found.x) + constraint.jac(found.x).T @ found.v[0]
    assert np.abs(lagrangian).max() < 1e-6
    assert found.fun > 1  # the constraint is active: without it the minimum is 0


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_newton_by_sparse_factorisation(framework):
    x = np.linspace(0.98, 1.02, N)
    grad, hess = scipy_grad(energy, array(framework, x)), scipy_hess(energy, array(framework, x), format="csc")
    for _ in range(10):
        x = x - spla.splu(hess(x)).solve(grad(x))
    np.testing.assert_allclose(x, 1, rtol=1e-12)


# -- what is refused


def message(error):
    return str(error.value)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("make", [scipy_jac, scipy_fun])
def test_x_of_another_length(framework, make):
    def residual(x):
        return x**2

    called = make(residual, array(framework, np.ones(4)))
    with pytest.raises(crelle.CrelleShapeError) as error:
        called(np.ones(5))
    assert message(error) == (
        f"crelle.interop.{make.__name__}(residual): x is f64[5]\n"
        "  expected  f64[4], as in the example\n"
        "  likely    x0 of the solver has another length than the x0 that this callable was made with"
    )


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_scalar_functions_have_no_jacobian(framework):
    with pytest.raises(crelle.CrelleShapeError) as error:
        scipy_jac(energy, array(framework, np.ones(4)))
    assert message(error) == (
        "crelle.interop.scipy_jac(energy): f returned a scalar\n"
        "  called    f64[4]\n"
        "  expected  a vector\n"
        "  try       crelle.interop.scipy_grad for a scalar: SciPy wants its gradient"
    )


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("make", [scipy_grad, scipy_hess])
def test_vector_functions_have_no_gradient_and_no_hessian(framework, make):
    with pytest.raises(crelle.CrelleShapeError, match="f returned a vector\n.*\n  expected  a scalar"):
        make(lambda x: x**2, array(framework, np.ones(4)))


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("make", [scipy_jac, scipy_fun])
def test_matrices_are_no_vectors(framework, make):
    with pytest.raises(crelle.CrelleShapeError, match=r"f returned f64\[2,3\]\n(.|\n)*f64\[6\](.|\n)*y.ravel"):
        make(lambda x: x.reshape(2, 3), array(framework, np.ones(6)))
    with pytest.raises(crelle.CrelleShapeError, match=r"x is f64\[2,3\], and solvers work with vectors"):
        make(lambda x: x[0], array(framework, np.ones((2, 3))))
    with pytest.raises(crelle.CrelleTypeError, match=f"f returned tuple\n(.|\n)*one array of {framework}"):
        make(lambda x: (x, x), array(framework, np.ones(6)))


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("make", [scipy_jac, scipy_fun])
def test_complex_numbers(framework, make):
    complex_x = jnp.ones(4, complex) if framework == "jax" else torch.ones(4, dtype=torch.complex128)
    with pytest.raises(crelle.CrelleTypeError) as error:
        make(lambda x: x**2, complex_x)
    assert message(error) == (
        f"crelle.interop.{make.__name__}(f): x is c128[4], and solvers work with real vectors\n"
        "  expected  an array of floats\n"
        "  try       put real and imaginary parts one after the other"
    )
    with pytest.raises(crelle.CrelleTypeError, match=r"f returned c128\[4\]"):
        make(lambda x: x * 1j, array(framework, np.ones(4)))
    with pytest.raises(crelle.CrelleTypeError, match=r"an argument is c128\[4\]\n  expected  f64\[4\], real"):
        make(lambda x: x**2, array(framework, np.ones(4)))(np.ones(4, complex))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_integers_do_not_vary(framework):
    with pytest.raises(crelle.CrelleTypeError, match=r"x is i64\[4\], and solvers work with real vectors"):
        x0 = jnp.arange(4) if framework == "jax" else torch.arange(4)
        scipy_jac(lambda x: x**2, x0)


def test_functions_of_numpy_are_not_taken():
    with pytest.raises(crelle.CrelleTypeError) as error:
        scipy_jac(lambda x: np.sin(x), np.ones(4))
    assert message(error) == (
        "crelle.interop.scipy_jac(f): no argument says that f is written in JAX or PyTorch\n"
        "  called    f64[4]\n"
        "  expected  one array of JAX or PyTorch among the arguments\n"
        "  try       jnp.asarray(x0) or torch.as_tensor(x0); for a function of NumPy, which SciPy takes as it is, "
        'jac=crelle.jacobian(f), with format="csr" and pattern= where it is sparse'
    )


def test_functions_of_numpy_need_no_callable_of_their_own():
    """What that message says."""
    pattern = np.eye(N) + np.eye(N, k=1)
    f = lambda x: np.append(x[1:], 0) * x + x**3 - 2
    found = scipy.optimize.least_squares(f, np.ones(N), jac=crelle.jacobian(f, format="csr", pattern=pattern))
    np.testing.assert_allclose(f(found.x), 0, atol=1e-6)


def test_what_is_asked_wrongly():
    x0 = jnp.ones(4)
    with pytest.raises(crelle.CrelleTypeError, match="f is not a function but"):
        scipy_jac(x0, x0)
    with pytest.raises(crelle.CrelleTypeError, match="argnums=1 names no argument of the example"):
        scipy_jac(lambda t, y: y, x0, argnums=1)
    with pytest.raises(crelle.CrelleTypeError, match="t is float"):
        scipy_jac(lambda t, y: y, 0.0, x0)
    with pytest.raises(crelle.CrelleValueError, match="format='bsr' is not known\n.*'auto' | 'csr' | 'csc' | 'dense'"):
        scipy_jac(lambda x: x, x0, format="bsr")


def test_they_print_what_they_are():
    x0 = jnp.ones(N)
    text = "crelle.interop.scipy_jac(pairs): csr, SparsityPattern(30 × 60, 60 nonzeros, 3.3 %"
    assert repr(scipy_jac(pairs, x0)).startswith(text)
    assert repr(scipy_fun(pairs, x0)) == "crelle.interop.scipy_fun(pairs)"
    assert repr(scipy_grad(energy, x0)) == "crelle.interop.scipy_grad(energy)"
