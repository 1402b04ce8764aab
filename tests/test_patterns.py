"""Patterns that somebody vouches for: given by the user, or resting on a user's rule."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from jax.extend import core as jex
from jax.interpreters import ad, batching, mlir

import crelle
from crelle.tangent import rules

N = 12


@pytest.fixture
def shift():
    """A primitive that shifts by one, with the derivative rules that JAX needs."""
    shift_p = jex.Primitive("shift_by_one")
    shift_p.def_impl(lambda x: jnp.roll(x, 1))
    shift_p.def_abstract_eval(lambda x: x)
    mlir.register_lowering(shift_p, mlir.lower_fun(lambda x: jnp.roll(x, 1), multiple_results=False))
    ad.deflinear2(shift_p, lambda ct, x: [jnp.roll(ct, -1)])
    batching.defvectorized(shift_p)
    yield shift_p
    rules._RULES.pop("shift_by_one", None)


def test_a_given_pattern_is_taken():
    given = sp.diags_array([np.ones(N), np.ones(N - 1)], offsets=[0, 1])
    J = crelle.jacobian(lambda x: x**2, pattern=given)
    assert J.pattern(jnp.ones(N)) == crelle.SparsityPattern.from_(given)
    assert J.structure(jnp.ones(N)).bandwidths == (0, 1)


def test_a_given_pattern_serves_numpy_functions():
    J = crelle.jacobian(lambda x: x**2, pattern=np.eye(N))
    assert J.structure(np.ones(N)).kind == "diagonal"


def test_a_pattern_of_the_wrong_shape_is_refused():
    J = crelle.jacobian(lambda x: x[:3] ** 2, pattern=np.ones((N, 3)))
    with pytest.raises(crelle.CrelleShapeError, match="the pattern that was passed is 12 × 3") as caught:
        J.pattern(jnp.ones(N))
    assert "expected  3 × 12: raveled outputs by raveled inputs" in str(caught.value)
    assert "pattern.T" in str(caught.value)


def test_a_numpy_function_has_no_pattern():
    with pytest.raises(crelle.CrelleTypeError, match="a NumPy function cannot be traced"):
        crelle.jacobian(lambda x: x**2).pattern(np.ones(N))


def test_a_users_rule_is_followed(shift):
    crelle.register_linear_rule(shift, lambda operands, shapes, params: [np.roll(np.eye(N), 1, 0)])
    f = lambda x: shift.bind(x) * jnp.sin(x)
    x = jnp.linspace(0.3, 2, N)
    dense = np.stack([jax.jvp(f, (x,), (e,))[1] for e in jnp.eye(N)], 1)
    assert np.array_equal(crelle.jacobian(f).pattern(x).to_dense(), dense != 0)


def test_a_rule_that_misses_entries_is_caught_by_name(shift):
    crelle.register_linear_rule("shift_by_one", lambda operands, shapes, params: ["pointwise"])
    f = lambda x: shift.bind(x) ** 2
    with pytest.raises(crelle.CrelleCheckError, match="the pattern misses entries") as caught:
        crelle.jacobian(f).pattern(jnp.linspace(1.0, 2.0, N))
    assert "the linear rule registered for 'shift_by_one' misses entries" in str(caught.value)
    assert re.search(r"expected  row \d+ to be zero in a product with columns", str(caught.value))
    # nothing is compared where no rule of the user is used, or none is wanted
    assert crelle.jacobian(f, check=False).pattern(jnp.ones(N)).nnz == N


def test_a_rule_of_the_wrong_shape_is_refused(shift):
    crelle.register_linear_rule(shift, lambda operands, shapes, params: [np.ones((2, 2))])
    with pytest.raises(crelle.CrelleShapeError, match=r"returned a pattern of shape \(2, 2\)"):
        crelle.jacobian(shift.bind).pattern(jnp.ones(N))


def test_without_a_rule_the_definition_is_read(shift):
    # its implementation is written in JAX, so that it can be looked into
    assert crelle.jacobian(shift.bind).pattern(jnp.ones(N)).nnz == N
