"""Callbacks for IPOPT: structures that do not move, values that are the dense ones, and a run of IPOPT itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import crelle
from crelle.interop import ipopt_callbacks

FRAMEWORKS = ("jax", "torch")


def objective(x):
    """HS071."""
    return x[0] * x[3] * (x[0] + x[1] + x[2]) + x[2]


def hs071(stack):
    return lambda x: stack([x.prod(), (x * x).sum()])


def chain(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def triples(x):
    """3·x₁³ + 2·x₂ − 5 + sin(x₁ − x₂)·sin(x₁ + x₂) + ..., of three neighbours: the chained constraints of
    Lukšan & Vlček (1999), problem 5.1, up to terms.
    """
    sin = jnp.sin if isinstance(x, jax.Array) else torch.sin
    a, b, c = x[:-2], x[1:-1], x[2:]
    return 3 * b**3 + 2 * c - 5 + sin(b - c) * sin(b + c) + 4 * b - a * a


def array(framework, values):
    return jnp.asarray(values) if framework == "jax" else torch.tensor(values)


def dense(framework, f, x, order):
    if framework == "jax":
        return np.asarray((jax.jacfwd if order == 1 else jax.hessian)(f)(jnp.asarray(x)))
    return np.asarray((torch.func.jacfwd if order == 1 else torch.func.hessian)(f)(torch.tensor(x)))


def close(mine, theirs):
    np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12 * np.abs(theirs).max(initial=0))


PROBLEMS = {
    "hs071": lambda framework: (objective, hs071(jnp.stack if framework == "jax" else torch.stack), 4),
    "chain": lambda framework: (chain, triples, 30),
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_values_are_the_dense_ones_at_every_point(framework, problem, rng):
    f, g, n = PROBLEMS[problem](framework)
    nlp = ipopt_callbacks(f, g, array(framework, np.ones(n)))
    m = nlp.m
    assert (nlp.n, m) == (n, len(g(array(framework, np.ones(n)))))
    rows, cols = nlp.jacobianstructure()
    i, j = nlp.hessianstructure()
    assert len(set(zip(rows.tolist(), cols.tolist(), strict=True))) == len(rows)
    assert len(set(zip(i.tolist(), j.tolist(), strict=True))) == len(i)
    assert (i >= j).all()
    for _ in range(3):
        x, multipliers, factor = rng.uniform(1, 2, n), rng.standard_normal(m), rng.uniform(0.5, 2)
        here = array(framework, x)
        assert type(nlp.objective(x)) is float
        assert nlp.objective(x) == pytest.approx(float(f(here)), rel=1e-13)
        close(nlp.gradient(x), dense(framework, f, x, 1))
        close(nlp.constraints(x), np.asarray(g(here)))
        close(sp.coo_array((nlp.jacobian(x), (rows, cols)), shape=(m, n)).toarray(), dense(framework, g, x, 1))
        weights = array(framework, multipliers)
        lagrangian = dense(framework, lambda x, w=weights, s=factor: s * f(x) + (w * g(x)).sum(), x, 2)
        lower = sp.coo_array((nlp.hessian(x, multipliers, factor), (i, j)), shape=(n, n)).toarray()
        close(lower, np.tril(lagrangian))
        close(nlp.hessian(x, multipliers, 0) + nlp.hessian(x, 0 * multipliers, factor),
              nlp.hessian(x, multipliers, factor))  # fmt: skip


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_structures_are_sparse(framework):
    nlp = ipopt_callbacks(chain, triples, array(framework, np.ones(30)))
    assert len(nlp.jacobianstructure()[0]) == 3 * 28
    assert len(nlp.hessianstructure()[0]) == 30 + 29  # b and c interact, a and b do not


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_without_constraints(framework, rng):
    nlp = ipopt_callbacks(chain, None, array(framework, np.ones(30)))
    x, nothing = rng.uniform(1, 2, 30), np.zeros(0)
    assert (nlp.n, nlp.m) == (30, 0)
    assert nlp.constraints(x).shape == nlp.jacobian(x).shape == nlp.jacobianstructure()[0].shape == (0,)
    lower = sp.coo_array((nlp.hessian(x, nothing, 2.0), nlp.hessianstructure()), shape=(30, 30)).toarray()
    close(lower, np.tril(2 * dense(framework, chain, x, 2)))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_linear_problems_have_an_empty_hessian(framework):
    nlp = ipopt_callbacks(lambda x: x.sum(), lambda x: x[1:] - x[:-1], array(framework, np.ones(5)))
    x = np.arange(5.0)
    assert nlp.hessian(x, np.ones(4), 1.0).shape == (0,)
    close(nlp.jacobian(x), np.tile([-1.0, 1.0], 4))
    close(nlp.gradient(x), np.ones(5))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_is_refused(framework):
    x0 = array(framework, np.ones(4))
    nlp = ipopt_callbacks(objective, lambda x: x[1:] * x[:-1], x0)
    with pytest.raises(crelle.CrelleShapeError, match=r"ipopt_callbacks\(objective\): x is f64\[3\]"):
        nlp.gradient(np.ones(3))
    with pytest.raises(crelle.CrelleShapeError, match=r"an argument is f64\[2\]\n  expected  f64\[3\]"):
        nlp.hessian(np.ones(4), np.ones(2), 1.0)
    with pytest.raises(crelle.CrelleTypeError, match="real as in the example"):
        nlp.objective(np.ones(4, complex))
    with pytest.raises(crelle.CrelleShapeError, match="f returned a vector\n(.|\n)*f is the objective"):
        ipopt_callbacks(lambda x: x, None, x0)
    with pytest.raises(crelle.CrelleShapeError, match="f returned a scalar\n(.|\n)*None if there are no constraints"):
        ipopt_callbacks(objective, objective, x0)
    with pytest.raises(crelle.CrelleTypeError, match="solvers work with real vectors"):
        ipopt_callbacks(objective, None, x0 + 1j)


def test_it_prints_what_it_is():
    nlp = ipopt_callbacks(chain, triples, jnp.ones(30))
    assert repr(nlp) == (
        "crelle.interop.ipopt_callbacks(chain): 30 variables, 28 constraints, 84 entries of the Jacobian, "
        "59 of the lower Hessian"
    )


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_ipopt_solves_hs071(framework):
    """Hock & Schittkowski (1981), problem 71: f* = 17.0140173."""
    cyipopt = pytest.importorskip("cyipopt", reason="IPOPT is not installed")
    f, g, n = PROBLEMS["hs071"](framework)
    x0 = np.array([1.0, 5.0, 5.0, 1.0])
    nlp = ipopt_callbacks(f, g, array(framework, x0))
    problem = cyipopt.Problem(
        n=n, m=nlp.m, problem_obj=nlp, lb=np.ones(4), ub=np.full(4, 5.0), cl=[25, 40], cu=[2e19, 40]
    )
    problem.add_option("print_level", 0)
    problem.add_option("sb", "yes")
    x, info = problem.solve(x0)
    assert info["status"] == 0
    assert info["obj_val"] == pytest.approx(17.0140173, rel=1e-8)
    np.testing.assert_allclose(x, [1.0, 4.7429994, 3.8211503, 1.3794082], rtol=1e-6)


def test_ipopt_approves_the_derivatives_of_a_chain(capfd):
    cyipopt = pytest.importorskip("cyipopt", reason="IPOPT is not installed")
    n = 20
    x0 = np.where(np.arange(n) % 2, 1.0, -1.2)
    nlp = ipopt_callbacks(chain, triples, jnp.asarray(x0))
    problem = cyipopt.Problem(n=n, m=nlp.m, problem_obj=nlp, cl=np.zeros(nlp.m), cu=np.zeros(nlp.m))
    problem.add_option("derivative_test", "second-order")
    problem.add_option("derivative_test_tol", 1e-3)  # its differences are not exact where the entry is zero
    problem.add_option("print_level", 5)
    x, info = problem.solve(x0)
    assert "No errors detected by derivative checker" in capfd.readouterr().out
    assert info["status"] == 0
    np.testing.assert_allclose(np.asarray(triples(jnp.asarray(x))), 0, atol=1e-8)
