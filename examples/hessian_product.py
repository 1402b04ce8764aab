"""A Hessian times a vector, with the matrix and without it.

The Hessian of f(x) = x₀² x₁ + x₁³ is [[2 x₁, 2 x₀], [2 x₀, 6 x₁]]. A product H v is the derivative of the gradient
along v, so it takes one forward pass over a reverse pass, and no matrix: `crelle.hvp`. For two variables either way
will do; for a million, a Hessian has 10¹² entries, and the product still costs a few gradients.

Run it:  python examples/hessian_product.py
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

import crelle

jax.config.update("jax_enable_x64", True)


def f(x: jax.Array) -> jax.Array:
    return x[0] ** 2 * x[1] + x[1] ** 3


def both_ways(x: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(H, H @ v, the same by crelle.hvp)."""
    H = crelle.hessian(f)(x)
    return H, H @ v, crelle.hvp(f, (x,), (v,))


def main() -> None:
    x, v = jnp.array([1.0, 2.0]), jnp.array([1.0, -1.0])
    H, with_matrix, without = both_ways(x, v)
    print("H at", x)
    print(H)
    print("v              ", v)
    print("H @ v          ", with_matrix)
    print("crelle.hvp     ", without)


if __name__ == "__main__":
    main()
