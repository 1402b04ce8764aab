"""The density of a normalizing flow: log p(x) = log N(f(x); 0, 1) + log|det J(x)|, with no formula for the determinant.

A flow f maps data to noise, and the change of variables needs the log-determinant of its Jacobian. Layers of a flow are
made so that their Jacobians are triangular, and its author then writes down the log-determinant of each beside the
layer. crelle.slogdet finds it from f alone: it cuts the derivative where it passes through n numbers, sees that each
piece is triangular up to a permutation, and computes the diagonals, one product for each layer. The networks inside of
the layers are not differentiated at all. Here it is compared with the sum of the layers' scales (the closed form), with
the determinant of the dense Jacobian, and the density is integrated over the plane, which must give 1.

Run it:  python examples/flow_density.py
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

import crelle

jax.config.update("jax_enable_x64", True)

Layer = tuple[jax.Array, jax.Array, jax.Array]


def layers(key: jax.Array, n: int, count: int, hidden: int = 16) -> list[Layer]:
    """Random weights of the networks of some coupling layers, and a permutation for each."""
    found = []
    for k in jax.random.split(key, count):
        first, second, order = jax.random.split(k, 3)
        found.append(
            (
                jax.random.normal(first, (n // 2, hidden)),
                0.3 * jax.random.normal(second, (hidden, 2 * (n - n // 2))),
                jax.random.permutation(order, n) if n > 2 else jnp.array([1, 0]),
            )
        )
    return found


def flow(flow_layers: list[Layer], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """RealNVP (Dinh, Sohl-Dickstein and Bengio 2017): f(x), and log|det J| in closed form."""
    n, total = x.shape[-1], jnp.zeros(())
    for into, out, order in flow_layers:
        a, b = x[: n // 2], x[n // 2 :]
        s, t = jnp.split(jnp.tanh(a @ into) @ out, 2)
        s = jnp.tanh(s)
        x = jnp.concatenate([a, b * jnp.exp(s) + t])[order]
        total = total + s.sum()
    return x, total


def log_density(flow_layers: list[Layer], x: jax.Array) -> jax.Array:
    """log p(x), from f alone."""
    z, found = crelle.slogdet(lambda x: flow(flow_layers, x)[0], value=True)(x)
    return -0.5 * (z**2).sum() - 0.5 * z.size * jnp.log(2 * jnp.pi) + found.logabsdet


def main() -> None:
    eight = layers(jax.random.key(0), 8, 4)
    x = jax.random.normal(jax.random.key(1), (8,))
    determinant = crelle.slogdet(lambda x: flow(eight, x), has_aux=True)
    (sign, logarithm), closed = determinant(x)
    dense = jnp.linalg.slogdet(jax.jacfwd(lambda x: flow(eight, x)[0])(x))
    print(f"n = 8: log|det J| by structure {logarithm:.12f}, closed form {closed:.12f}, dense {dense[1]:.12f}")
    print(f"       sign {sign:+.0f}, dense {dense[0]:+.0f}; {determinant.plan(x).passes} products, not 8")
    print()

    large = layers(jax.random.key(2), 4096, 4)
    x = jax.random.normal(jax.random.key(3), (4096,))
    determinant = crelle.slogdet(lambda x: flow(large, x), has_aux=True)
    found, closed = determinant(x)
    print(
        f"n = 4096: by structure {found.logabsdet:.9f}, closed form {closed:.9f}; {determinant.plan(x).passes} products"
    )
    print(determinant.plan(x))
    print()

    plane = layers(jax.random.key(4), 2, 4)
    axis = jnp.linspace(-12, 12, 801)
    points = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    density = jnp.exp(jax.jit(jax.vmap(lambda x: log_density(plane, x)))(points))
    print(f"n = 2: the density integrates to {density.sum() * (axis[1] - axis[0]) ** 2:.6f}")
    slope = jax.grad(lambda weights: log_density(weights, points[0]), allow_int=True)(plane)
    print(f"       and is differentiable in all weights: |d log p / d W| = {jnp.linalg.norm(slope[0][0]):.3f}")


if __name__ == "__main__":
    main()
