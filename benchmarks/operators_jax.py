"""Operators in JAX: Hessian-vector products in gradients and against jitted ``jvp(grad)``, blocks, and small functions.

Networks of 270,000, 106,000 and 200,000 parameters, cross-entropy, f32; the operators are made beforehand, as users do
who ask for many products.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import crelle
from benchmarks.harness import Contestant
from benchmarks.problem import OURS, Problem, Task

Loss = Callable[[Any], Any]
F32 = jnp.float32


def _dense(key: Any, inputs: int, outputs: int) -> tuple[Any, Any]:
    return jax.random.normal(key, (inputs, outputs), F32) / inputs**0.5, jnp.zeros(outputs, F32)


def _cross_entropy(z: Any, y: Any) -> Any:
    return -jnp.take_along_axis(jax.nn.log_softmax(z), y[..., None], -1).mean()


def mlp(small: bool) -> tuple[Loss, Any]:
    """784-256-256-10, tanh, 512 samples."""
    count, width = (16, 16) if small else (512, 256)
    keys = jax.random.split(jax.random.key(0), 5)
    parameters = [_dense(keys[0], 784, width), _dense(keys[1], width, width), _dense(keys[2], width, 10)]
    data, y = jax.random.normal(keys[3], (count, 784), F32), jax.random.randint(keys[4], (count,), 0, 10)

    def loss(p: Any) -> Any:
        x = data
        for w, b in p[:-1]:
            x = jnp.tanh(x @ w + b)
        return _cross_entropy(x @ p[-1][0] + p[-1][1], y)

    return loss, parameters


def cnn(small: bool) -> tuple[Loss, Any]:
    """Two convolutions and two dense layers, ReLU, 128 samples of 28 × 28."""
    count = 2 if small else 128
    keys = jax.random.split(jax.random.key(0), 6)
    first = jax.random.normal(keys[0], (3, 3, 1, 16), F32) / 3, jnp.zeros(16, F32)
    second = jax.random.normal(keys[1], (3, 3, 16, 32), F32) / 12, jnp.zeros(32, F32)
    parameters = [first, second, _dense(keys[2], 32 * 49, 64), _dense(keys[3], 64, 10)]
    data, y = jax.random.normal(keys[4], (count, 28, 28, 1), F32), jax.random.randint(keys[5], (count,), 0, 10)

    def loss(p: Any) -> Any:
        x = data
        for w, b in p[:2]:
            x = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = jax.nn.relu(x + b)
            x = x.reshape(count, x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).max((2, 4))
        x = jax.nn.relu(x.reshape(count, -1) @ p[2][0] + p[2][1])
        return _cross_entropy(x @ p[3][0] + p[3][1], y)

    return loss, parameters


def transformer(small: bool) -> tuple[Loss, Any]:
    """One block of width 128, four heads, 32 samples of 32 tokens."""
    d, count = (16, 2) if small else (128, 32)
    keys = jax.random.split(jax.random.key(0), 7)
    parameters: dict[str, Any] = {
        "qkv": _dense(keys[0], d, 3 * d), "o": _dense(keys[1], d, d), "m1": _dense(keys[2], d, 4 * d),
        "m2": _dense(keys[3], 4 * d, d), "h": _dense(keys[4], d, 10),
    }  # fmt: skip
    parameters |= {name: (jnp.ones(d, F32), jnp.zeros(d, F32)) for name in ("n1", "n2")}
    data, y = jax.random.normal(keys[5], (count, 32, d), F32), jax.random.randint(keys[6], (count, 32), 0, 10)

    def layer_norm(x: Any, w: Any) -> Any:
        return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * w[0] + w[1]

    def loss(p: Any) -> Any:
        x, z = data, layer_norm(data, p["n1"])
        q, k, v = (z @ p["qkv"][0] + p["qkv"][1]).reshape(count, 32, 3, 4, d // 4).transpose(2, 0, 3, 1, 4)
        a = jax.nn.softmax(q @ k.swapaxes(-1, -2) / (d // 4) ** 0.5, -1) @ v
        x = x + a.transpose(0, 2, 1, 3).reshape(count, 32, d) @ p["o"][0] + p["o"][1]
        z = layer_norm(x, p["n2"]) @ p["m1"][0] + p["m1"][1]
        x = x + jax.nn.gelu(z, approximate=False) @ p["m2"][0] + p["m2"][1]
        return _cross_entropy(x @ p["h"][0] + p["h"][1], y)

    return loss, parameters


def _ready(run: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(run())


def products(network: Callable[[bool], tuple[Loss, Any]], small: bool) -> Problem:
    """H v from a kept operator, of trees; a gradient, for scale."""
    loss, parameters = network(small)
    leaves, tree = jax.tree.flatten(parameters)
    v = jax.tree.unflatten(
        tree, [jax.random.normal(jax.random.fold_in(jax.random.key(1), i), a.shape, F32) for i, a in enumerate(leaves)]
    )
    gradient, native = jax.jit(jax.grad(loss)), jax.jit(lambda p, v: jax.jvp(jax.grad(loss), (p,), (v,))[1])
    h = crelle.hessian(loss).at(parameters)
    linear = jax.jit(jax.linearize(jax.grad(loss), parameters)[1])
    contestants = [
        Contestant("gradient", _ready(lambda: gradient(parameters)), compared=False),
        Contestant("jit(jvp(grad))", _ready(lambda: native(parameters, v))),
        Contestant("jit(linearize(grad))", _ready(lambda: linear(v))),
        Contestant(OURS, _ready(lambda: h @ v)),
    ]
    size = sum(leaf.size for leaf in leaves)
    return Problem(contestants, f"{size:,} parameters", reference="jit(jvp(grad))")


def blocks(network: Callable[[bool], tuple[Loss, Any]], small: bool) -> Problem:
    """H V for 32 vectors, when it was decided how they go."""
    loss, parameters = network(small)
    h = crelle.hessian(loss).at(parameters)
    rows = jax.random.normal(jax.random.key(1), (4 if small else 32, h.shape[1]), F32)
    made = h._kept._linear.push
    while not small and made.chunk is None:
        h._products(rows)
    one = jax.jit(lambda c, row: made._formed("row", c, row))
    several = jax.jit(made._all)
    coefficients = h._kept._coefficients
    contestants = [
        Contestant("loop", _ready(lambda: jnp.concatenate([one(coefficients, row[None]) for row in rows]))),
        Contestant("vmap", _ready(lambda: several(coefficients, rows))),
        Contestant(OURS, _ready(lambda: h._products(rows))),
    ]
    return Problem(contestants, f"{len(rows)} of {h.shape[1]:,}", {"chunk": made.chunk})


def small_function(small: bool) -> Problem:
    """What a product costs beyond the arithmetic: five numbers to five."""
    x = jnp.arange(5.0)

    def f(x: Any) -> Any:
        return jnp.tanh(x) * 2

    a, linear = crelle.jacobian(f).at(x), jax.jit(jax.linearize(f, x)[1])
    contestants = [Contestant(OURS, _ready(lambda: a @ x)), Contestant("jit(linear)", _ready(lambda: linear(x)))]
    return Problem(contestants, "f64[5] -> f64[5]")


def tasks(modes: bool = False) -> list[Task]:
    """Every row of the table."""
    made = [
        Task("operators-jax-product", "H v, MLP", functools.partial(products, mlp)),
        Task("operators-jax-product", "H v, CNN", functools.partial(products, cnn)),
        Task("operators-jax-product-transformer", "H v, transformer", functools.partial(products, transformer)),
    ]
    named = (("MLP", mlp), ("CNN", cnn), ("transformer", transformer))
    made += [
        Task("operators-jax-block", f"H V, 32 vectors, {name}", functools.partial(blocks, network), name == "MLP")
        for name, network in named
    ]
    return [*made, Task("operators-jax-small", "J v, five numbers", small_function)]
