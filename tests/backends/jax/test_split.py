"""A tangent in two parts: what passed constant coefficients only, and the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crelle
from crelle.backends.jax.split import CannotSplit, split
from crelle.tangent.program import Dependence

N = 6
A = jnp.asarray(np.random.default_rng(0).standard_normal((N, N)))


def parts(f, x, v, *passive, kinds=()):
    """(constant part, varying part) of J v."""
    closed = jax.make_jaxpr(lambda x, *rest: jax.linearize(lambda x: f(x, *rest[:-1]), x)[1](rest[-1]))(x, *passive, v)
    (c,), (rest,) = split(closed, [Dependence.VARYING, *kinds])([x, *passive], [v])
    return c, rest


def points():
    rng = np.random.default_rng(1)
    return [jnp.asarray(rng.uniform(0.3, 1.5, N)) for _ in range(3)]


FUNCTIONS = {
    "linear": lambda x: A @ x + jnp.roll(x, 1),
    "stencil": lambda x: x**2 + 1e12 * (jnp.roll(x, 1) - 2 * x + jnp.roll(x, -1)),
    "chain": lambda x: jnp.sin(A @ x)[::-1] + 3 * x,
    "scan": lambda x: jax.lax.scan(lambda c, a: (0.5 * c + a, c * 2), 0.0, x)[1] + jnp.sin(x),
    "scan that varies": lambda x: jax.lax.scan(lambda c, a: (c * a, c + a), 1.0, x)[1],
    "where": lambda x: jnp.where(jnp.arange(N) < 3, x**2, 2 * x),
    "select by value": lambda x: jnp.where(x > 1, x, 2 * x),
    "jit": lambda x: jax.jit(lambda y: y * 2 + jnp.exp(y))(x),
    "cond": lambda x: jax.lax.cond(x[0] > 1, jnp.flip, lambda y: 2 * y, x) + x,
    "concatenate": lambda x: jnp.concatenate([x[:2] ** 2, x[2:]]),
    "nothing": lambda x: jnp.zeros(N) + jnp.argmax(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_both_parts_are_the_product_and_one_is_the_same_everywhere(name):
    f = FUNCTIONS[name]
    v = jnp.asarray(np.random.default_rng(2).standard_normal(N))
    constants = []
    for x in points():
        c, rest = parts(f, x, v)
        np.testing.assert_allclose(c + rest, jax.jvp(f, (x,), (v,))[1], rtol=1e-12, atol=1e-12)
        constants.append(c)
    np.testing.assert_array_equal(constants[0], constants[1])
    np.testing.assert_array_equal(constants[0], constants[2])


def test_the_varying_part_keeps_its_digits_beside_large_constants():
    x, v = points()[0], jnp.ones(N) + 1e-3 * jnp.arange(N)
    _, rest = parts(FUNCTIONS["stencil"], x, v)
    np.testing.assert_allclose(rest, 2 * x * v, rtol=1e-14)


def test_what_depends_on_other_arguments_is_not_constant():
    x, v = points()[0], jnp.ones(N)
    c, rest = parts(lambda x, w: w * x + 3 * x, x, v, jnp.full(N, 2.0), kinds=[Dependence.PASSIVE])
    np.testing.assert_array_equal(c, 3 * v)
    np.testing.assert_array_equal(rest, 2 * v)


def test_loops_that_mix_values_and_tangents_are_refused():
    def f(x):
        return jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(s[1])), (0, x))[1]

    with pytest.raises(CannotSplit, match="values and tangents go through while together"):
        parts(f, points()[0], jnp.ones(N))


def test_a_hessian_whose_constant_part_is_not_symmetric_is_run_whole():
    @jax.custom_vjp
    def shifted(x):
        return jnp.roll(x, 5)

    # the derivative is right, and varies with x as far as anybody can tell: on one side of the Hessian only
    shifted.defvjp(lambda x: (jnp.roll(x, 5), x), lambda x, g: (jnp.roll(g, -5) * (x / x),))

    def f(x):
        others = jnp.roll(x, 12) + jnp.roll(x, 15) + jnp.roll(x, 18)
        return jnp.sum(shifted(x) * jnp.roll(x, 1) + x**3 + x * others)

    x = jnp.linspace(0.5, 1.5, 40)
    found = crelle.hessian(f, format="csr", check=False)(x).toarray()
    plain = lambda x: jnp.sum(jnp.roll(x, 5) * jnp.roll(x, 1) + x**3 + x * (jnp.roll(x, 12) + jnp.roll(x, 15)
                                                                            + jnp.roll(x, 18)))  # fmt: skip
    np.testing.assert_allclose(found, jax.hessian(plain)(x), rtol=1e-12, atol=1e-12)
