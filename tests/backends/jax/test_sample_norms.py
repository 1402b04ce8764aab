"""Norms of the gradients of samples, with and without the products that are left out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crelle.backends.jax.sample_norms import SampleNorms

P = {"a": (9, 8), "b": (8,), "c": (8, 4)}


def linear(p, x):
    return jax.nn.relu(x @ p["a"] + p["b"]) @ p["c"]


def shared(p, x):
    return jnp.tanh(x @ p["a"]) @ p["c"] + (x**2) @ p["a"] @ p["c"]


def looped(p, x):
    return jax.lax.scan(lambda h, _: (jnp.sin(h @ p["c"] @ p["c"].T), None), x @ p["a"], None, 3)[0] @ p["c"]


def compiled(p, x):
    return jax.jit(linear)(p, x)


@pytest.mark.parametrize("model", [linear, shared, looped, compiled])
@pytest.mark.parametrize("shape", [(5, 9), (5, 3, 9)])
def test_against_a_loop(model, shape):
    rng = np.random.default_rng(0)
    params = {key: jnp.array(rng.normal(size=s)) for key, s in P.items()}
    x = jnp.array(rng.normal(size=shape))
    seed = jnp.array(rng.normal(size=(*shape[:-1], 4)))
    f = lambda p, x: model(p, x[None])
    norms = SampleNorms(f, params, [x[0]], seed[0])([x], seed)
    for n in range(len(x)):
        (gradient,) = jax.vjp(lambda p, n=n: f(p, x[n])[0], params)[1](seed[n])
        expected = sum(float((g**2).sum()) for g in gradient.values())
        assert float(norms[n]) == pytest.approx(expected, rel=1e-12)


def test_gradients_of_weights_are_not_formed():
    params = {key: jnp.ones(shape) for key, shape in P.items()}
    norms = SampleNorms(lambda p, x: linear(p, x[None]), params, [jnp.ones(9)], jnp.ones(4))
    assert norms.bytes == params["b"].nbytes
    assert SampleNorms(lambda p, x: shared(p, x[None]), params, [jnp.ones(9)], jnp.ones(4)).bytes > norms.bytes
