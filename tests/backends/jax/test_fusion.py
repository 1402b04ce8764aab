"""Choices that follow XLA's habits on a CPU: when columns are dear, and which coefficients are kept."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crelle
from crelle.backends.jax import fusion

MATRIX = jnp.asarray(np.random.default_rng(0).standard_normal((300, 280)) / 17)
POINT = jnp.linspace(-1.0, 1.0, 280)


def linear_jaxpr(f, x):
    return jax.make_jaxpr(jax.linearize(f, x)[1])(x).jaxpr


@pytest.mark.parametrize(
    ("f", "factor"),
    [
        (lambda x: jnp.tanh(x) * x, 1.0),
        (lambda x: x / jnp.sqrt(jnp.sum(x * x)), 1.0),
        (lambda x: x[1:] - x[:-1], 1.0),
        (lambda x: jnp.tanh(MATRIX @ x), fusion.AFTER_PRODUCT),
        (lambda x: x.reshape(28, 10) / x.reshape(28, 10).sum(-1, keepdims=True), fusion.AFTER_ROWS),
        (lambda x: jnp.roll(x, 1) * x, fusion.AFTER_ROWS),
        (lambda x: jnp.cumsum(jnp.exp(x)), fusion.AFTER_ROWS),
        (lambda x: jax.nn.softmax(MATRIX @ x), fusion.AFTER_PRODUCT),
    ],
    ids=["elementwise", "one sum", "slices", "product", "sums of rows", "roll", "running sum", "product then sum"],
)
def test_factor_of_columns(f, factor):
    assert fusion.column_factor(linear_jaxpr(f, POINT)) == factor


def test_square_problems_take_rows_after_a_product_and_columns_element_by_element():
    square = MATRIX[:280]
    assert crelle.jacobian(lambda x: jnp.tanh(square @ x)).plan(POINT).mode == "reverse"
    assert crelle.jacobian(lambda x: jnp.tanh(x) * jnp.sum(x)).plan(POINT).mode == "forward"
    assert crelle.jacobian(lambda x: jnp.tanh(x) * jnp.exp(-x * x)).plan(POINT).mode == "coloured columns"
    assert crelle.jacobian(jax.nn.softmax).plan(POINT).mode == "forward"


SINES = {
    "outside": lambda x: jnp.sin(MATRIX @ x),
    "inside": lambda x: MATRIX @ jnp.cos(2.0 * x),
    "under a call": lambda x: MATRIX @ jnp.where(x > 0, jnp.sin(x), x),
}


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("f", SINES.values(), ids=SINES.keys())
def test_sines_are_kept_and_the_answer_is_the_same(f, mode):
    ours = crelle.jacobian(f, mode=mode)
    assert "cumsum" in str(jax.make_jaxpr(ours)(POINT))
    expected = jax.jacrev(f)(POINT)
    for answer in (ours(POINT), jax.jit(ours)(POINT), jax.jit(crelle.jacobian(f, mode=mode, chunk=32))(POINT)):
        np.testing.assert_allclose(answer, expected, rtol=1e-12, atol=1e-13)
    value, answer = crelle.jacobian(f, mode=mode, value=True)(POINT)
    np.testing.assert_allclose(value, f(POINT), rtol=1e-14)
    np.testing.assert_allclose(answer, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("mode", ["forward-over-reverse", "reverse-over-reverse", "reverse-over-forward"])
def test_hessians_with_sines(mode):
    f = lambda x: jnp.sum(jnp.sin(MATRIX @ x) ** 2)
    expected = jax.hessian(f)(POINT)
    for chunk in (None, 100):
        answer = jax.jit(crelle.hessian(f, mode=mode, chunk=chunk))(POINT)
        np.testing.assert_allclose(answer, expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(
        crelle.hessian(f, mode=mode, rows=[3, 5])(POINT), expected[jnp.array([3, 5])], atol=1e-11
    )
    np.testing.assert_allclose(crelle.hessian(f, mode=mode, cols=[3])(POINT), expected[:, jnp.array([3])], atol=1e-11)


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (lambda x: jnp.sin(x), jnp.ones(3)),
        (lambda x: jnp.tanh(MATRIX @ x), POINT),
        (lambda x: jax.lax.scan(lambda h, _: (jnp.sin(h), h), x, None, length=3)[0], POINT),
    ],
    ids=["small", "no sine", "stored by a loop"],
)
def test_nothing_is_added_where_nothing_is_recomputed(f, x):
    assert "cumsum" not in str(jax.make_jaxpr(crelle.jacobian(f))(x))


def test_kept_coefficients_can_be_differentiated_and_mapped():
    f = SINES["inside"]
    ours = crelle.jacobian(f, mode="reverse")
    direction = jnp.linspace(0.0, 1.0, 280)
    got = jax.jvp(ours, (POINT,), (direction,))[1]
    np.testing.assert_allclose(got, jax.jvp(jax.jacrev(f), (POINT,), (direction,))[1], rtol=1e-12, atol=1e-12)
    both = jnp.stack([POINT, direction])
    np.testing.assert_allclose(jax.vmap(ours)(both), jax.vmap(jax.jacrev(f))(both), rtol=1e-12, atol=1e-13)
