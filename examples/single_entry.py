"""One entry, or a slice, of a Jacobian: pay for what you ask.

A forward pass yields a column of the Jacobian, a reverse pass a row. So a single entry needs one pass, three rows
need three reverse passes, and two columns need two forward passes, however large the whole matrix is. `rows=`,
`cols=` and `entries=` say which part is wanted, as indices into the flat m × n matrix; the plan counts the passes.
All of this matrix takes three: most of it is zero, and columns that share no row go through together.

The function is a chain of springs: the force on each mass depends on its own place and on its two neighbours'.

Run it:  python examples/single_entry.py
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

import crelle

jax.config.update("jax_enable_x64", True)

N = 200


def force(x: jax.Array) -> jax.Array:
    """Forces, [n], on masses at displacements x, [n], between springs that stiffen as they are stretched."""
    stretch = jnp.diff(x, prepend=0.0, append=0.0)
    tension = stretch + stretch**3
    return tension[1:] - tension[:-1]


def parts() -> dict[str, crelle.Transform]:
    """What is asked, by name."""
    return {
        "one entry, (70, 71)": crelle.jacobian(force, entries=(70, 71)),
        "three entries": crelle.jacobian(force, entries=[(0, 0), (70, 71), (199, 198)]),
        "one row": crelle.jacobian(force, rows=70),
        "a slice, 2 × 8": crelle.jacobian(force, rows=slice(70, 72), cols=slice(67, 75)),
        "the last column": crelle.jacobian(force, cols=-1),
        "all of it": crelle.jacobian(force, flatten=True),
    }


def main() -> None:
    jnp.set_printoptions(precision=4, suppress=True)
    x = 0.1 * jnp.sin(jnp.arange(N) / 10)
    print(f"{'asked for':<22}{'shape':<12}passes")
    for name, J in parts().items():
        plan = J.plan(x)
        print(f"{name:<22}{J(x).shape!s:<12}{plan.passes} {plan.unit}{'s' * (plan.passes != 1)}")
    print("\nthe slice:")
    print(parts()["a slice, 2 × 8"](x))
    print("\nits plan:")
    print(parts()["a slice, 2 × 8"].plan(x))


if __name__ == "__main__":
    main()
