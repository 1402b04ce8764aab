"""Loops, branches and calls."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from crelle.tangent.program import Dependence
from tests.backends.jax.lower.dense import check

CASES = {
    "carry and stack": lambda x: lax.scan(lambda c, a: (c * a, c + a), 1.0, x),
    "reverse": lambda x: lax.scan(lambda c, a: (c * a, c + a), 1.0, x, reverse=True),
    "no carry": lambda x: lax.map(jnp.sin, x),
    "in batches": lambda x: lax.map(jnp.sin, x, batch_size=4),
    "no steps": lambda x: lax.scan(lambda c, a: (c * a, c), x, jnp.zeros((0, 6))),
    "an index": lambda x: lax.fori_loop(0, 3, lambda i, c: c.at[i].mul(c[i + 1]), x),
    "an index, stacked": lambda x: lax.scan(lambda c, i: (c, c[2 * i]), x, jnp.arange(3))[1],
    "an index in a loop in a loop": lambda x: lax.scan(
        lambda c, i: (lax.fori_loop(0, 2, lambda j, d: d.at[j].add(c[i]), c), c[i]), x, jnp.arange(3)
    ),
    "a step that gives zero": lambda x: lax.scan(
        lambda c, i: (c, lax.cond(i == 0, lambda: 0.0, lambda: x[1] * c)), 1.0, jnp.arange(3)
    )[1],
    "a step that gives something else": lambda x: lax.scan(
        lambda c, i: (c, lax.cond(i == 0, lambda: x[0], lambda: x[1] * c)), 1.0, jnp.arange(3)
    )[1],
    "masks": lambda x: lax.scan(lambda c, m: (c, c * m), x, jnp.array([0.0, 1.0, 0.0]))[1],
    "compared with a table": lambda x: lax.scan(
        lambda c, row: (c, jnp.where(row > 2.0, c, 0.0)), x, jnp.array([[0.0] * 6, [3.0, 0, 3, 0, 0, 0]])
    )[1],
    "compared with a table that has no zeros": lambda x: lax.scan(
        lambda c, t: (c, jnp.where(t > 2.0, c[:1], 0.0)), x, jnp.array([1.0, 3.0, 1.0])
    )[1][1],
    "a table whose zeros stay": lambda x: lax.scan(
        lambda c, row: (c, jnp.where(row > 2.0, c, 0.0)), x, jnp.array([[0, 1.0, 1, 1, 1, 1], [0, 3.0, 1, 1, 1, 1]])
    )[1],
    "constants": lambda x: lax.scan(lambda c, _: (c + x[0] * jnp.arange(6.0), None), x, None, length=3)[0],
    "remat": jax.checkpoint(lambda x: jnp.sin(jnp.cos(x)) * x[::-1]),
    "a barrier": lambda x: lax.optimization_barrier((x, jnp.sin(x)))[1],
    "a call": lambda x: jax.jit(lambda y: jnp.sin(y) * 2)(x),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_exact(name):
    check(CASES[name], (6,))


def test_random_keys_are_no_numbers():
    keys = jax.random.split(jax.random.key(0), 3)
    check(lambda x: lax.scan(lambda c, k: (c * jax.random.uniform(k), c), x, keys), (4,))
    check(lambda x: lax.scan(lambda c, k: (c, c * jax.random.bernoulli(k, 0.5, (4,))), x, keys)[1], (4,), exact=False)
    check(lambda x: jax.random.bernoulli(keys[1], 0.5, (4,)) * x, (4,))
    check(lambda x: jax.random.permutation(keys[0], x), (4,), exact=False)
    check(lambda x: jax.random.choice(keys[0], x, (2,)), (4,), exact=False)


def test_how_often_depends_on_x():
    parts = check(
        lambda x: lax.while_loop(lambda c: jnp.sum(c) < 40.0, lambda c: c * 1.5, jnp.abs(x) + 0.1), (3,), exact=False
    )
    assert (parts.kinds == Dependence.VARYING).all()


def test_how_often_does_not_depend_on_x():
    parts = check(
        lambda x: lax.while_loop(lambda s: s[1] < 5, lambda s: (s[0] * 1.5 + s[0][::-1], s[1] + 1), (x, 0))[0],
        (4,), exact=False,
    )  # fmt: skip
    assert len(parts.indices) == 8


@pytest.mark.parametrize("index", [0, 1, 2, 9, -3])
def test_a_known_branch(index):
    branches = [jnp.sin, lambda y: y[::-1] * y, lambda y: 0 * y]
    check(lambda x: lax.switch(index, branches, x), (5,), exact=index != 2)


def test_an_unknown_branch_is_any():
    parts = check(lambda x: lax.cond(x[0] > 0, lambda y: 2 * y, lambda y: 2 * y[::-1], x), (4,))
    assert (parts.kinds == Dependence.VARYING).all()


def test_straight_through():
    @jax.custom_jvp
    def rounded(x):
        return jnp.round(x)

    rounded.defjvp(lambda primals, tangents: (rounded(*primals), tangents[0]))
    check(rounded, (4,))

    @jax.custom_vjp
    def clipped(x):
        return jnp.round(x)

    clipped.defvjp(lambda x: (jnp.round(x), None), lambda _, ct: (ct[::-1],))
    import crelle

    found = crelle.jacobian(clipped).pattern(jnp.ones(4)).to_dense()
    np.testing.assert_array_equal(found, np.eye(4, dtype=bool)[::-1])
