"""JAX functions of NumPy arrays and numbers are recognised, and NumPy functions are left alone."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crelle
from crelle import _origin


@pytest.fixture(autouse=True)
def _unknown():
    _origin._known.clear()


V = np.array([1.0, 2.0])


def helper(x):
    return jnp.sin(x) * 2


def through_a_helper(x):
    return helper(x)


class Model:
    def __call__(self, x):
        return helper(x)

    def method(self, x):
        return self(x) * jnp.ones(2)


def nested(x):
    def inner(y):
        return jnp.cos(y)

    return inner(x)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: jnp.sin(x),
        through_a_helper,
        nested,
        jnp.sin,
        jax.jit(lambda x: x * 2),
        jax.nn.relu,
        functools.partial(lambda k, x: k * jnp.sin(x), 2.0),
        Model(),
        Model().method,
        lambda x: {"a": [jnp.sin(x)]},
    ],
)
def test_functions_of_jax(f):
    ours, theirs = crelle.jacobian(f)(V), jax.jacrev(f)(V)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert isinstance(a, jax.Array)
        np.testing.assert_array_equal(a, b)


def test_functions_of_numpy_stay_with_numpy():
    calls = []

    def f(x):
        calls.append(None)
        return np.sin(x)

    assert not _origin.returns_jax_arrays(f, (V,), {}, only_named=True)
    assert not calls  # it names nothing of JAX, and was not evaluated
    assert isinstance(crelle.jacobian(f)(V), np.ndarray)
    wrapped = lambda x: np.asarray(jnp.sin(x))
    assert isinstance(crelle.jacobian(wrapped)(V), np.ndarray)


def test_f_is_evaluated_once():
    calls = []

    def f(x):
        calls.append(type(x))
        return jnp.sin(x)

    for _ in range(3):
        assert _origin.returns_jax_arrays(f, (V,), {}, only_named=True)
    assert calls == [np.ndarray]


def test_errors_of_f_are_left_to_the_call():
    def f(x):
        jnp.sin(x)
        raise RuntimeError("mine")

    assert not _origin.returns_jax_arrays(f, (V,), {}, only_named=True)
    with pytest.raises(RuntimeError, match="mine"):
        crelle.jacobian(f)(V)
