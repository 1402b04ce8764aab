"""Two products with a Jacobian that is not formed: the JVP of exp, the VJP of sin.

A Jacobian-vector product J v says how the output moves when the input moves along v; it goes forwards, with the
function. A vector-Jacobian product uᵀJ says how a weighted sum of the outputs depends on each input; it goes
backwards. Both cost about as much as a few evaluations of the function, however large the matrix is. For functions
applied to each entry, J is diagonal, so both products are known: exp(x)·v and cos(x)·u.

Run it:  python examples/products.py
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

import crelle

jax.config.update("jax_enable_x64", True)


def jvp_of_exp(x: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(exp(x), J v)."""
    return crelle.jvp(jnp.exp, (x,), (v,))


def vjp_of_sin(x: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sin(x), uᵀJ)."""
    value, vjp_fn = crelle.vjp(jnp.sin, x)
    (product,) = vjp_fn(u)
    return value, product


def main() -> None:
    x = jnp.array([0.0, 1.0, 2.0])
    v = jnp.array([1.0, -1.0, 0.5])
    value, product = jvp_of_exp(x, v)
    print("x        ", x)
    print("v = u    ", v)
    print("exp(x)   ", value)
    print("JVP      ", product, "  exp(x)·v:", jnp.exp(x) * v)
    value, product = vjp_of_sin(x, v)
    print("sin(x)   ", value)
    print("VJP      ", product, "  cos(x)·u:", jnp.cos(x) * v)


if __name__ == "__main__":
    main()
