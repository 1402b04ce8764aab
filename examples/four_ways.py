"""Four ways to a Jacobian in JAX, and a fifth that chooses among them.

A Jacobian can be had by columns or by rows. Columns: push each unit vector of the input forwards, which is
`jax.jacfwd`, and `vmap` of `jvp` spelled out. Rows: pull each unit vector of the output backwards, which is
`jax.jacrev`, and `vmap` of `vjp` spelled out. All are the same matrix; which is cheapest depends on the shapes and on
the operations inside. `crelle.jacobian` prices the ways and takes one; its plan says which, and why.

Run it:  python examples/four_ways.py
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

import crelle

jax.config.update("jax_enable_x64", True)


def f(x: jax.Array) -> jax.Array:
    return jnp.stack([x[0] ** 2 * x[1], jnp.sin(x[2])])


def all_ways(x: jax.Array) -> dict[str, jax.Array]:
    """The Jacobian of f, [2, 3], by each way."""
    columns = jax.vmap(lambda v: jax.jvp(f, (x,), (v,))[1], out_axes=1)(jnp.eye(3))
    _, vjp_fn = jax.vjp(f, x)
    (rows,) = jax.vmap(vjp_fn)(jnp.eye(2))
    return {
        "jax.jacfwd": jax.jacfwd(f)(x),
        "jax.jacrev": jax.jacrev(f)(x),
        "vmap of jvp": columns,
        "vmap of vjp": rows,
        "crelle.jacobian": crelle.jacobian(f)(x),
    }


def main() -> None:
    x = jnp.array([1.0, 2.0, 0.0])
    found = all_ways(x)
    for name, J in found.items():
        print(f"{name:<16}", str(J).replace("\n", "\n" + " " * 17))
    reference = found["jax.jacrev"]
    print("largest difference:", max(float(jnp.abs(J - reference).max()) for J in found.values()))
    print()
    print(crelle.jacobian(f).plan(x))


if __name__ == "__main__":
    main()
