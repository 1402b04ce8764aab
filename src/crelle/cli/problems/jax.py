"""Problems in JAX."""

# ruff: noqa: TID251  (these are functions as a user writes them)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crelle.cli.problems import Case, Problem


def _case(f: Callable[..., Any], x: Any, **more: Any) -> Case:
    forward, reverse = jax.jacfwd(f), jax.jacrev(f)
    natives = {"jax.jacfwd": jax.jit(forward), "jax.jacrev": jax.jit(reverse)}
    return Case(f, (x,), lambda: reverse(x), natives, **more)


def element_wise() -> Case:
    """A thousand damped waves: every output reads one input."""

    def waves(x: jax.Array) -> jax.Array:
        return jnp.sin(3 * x) * jnp.exp(-(x**2))

    return _case(waves, jnp.linspace(-2.0, 2.0, 1000))


def thin() -> Case:
    """A network from 4 numbers to 1000."""
    keys = jax.random.split(jax.random.key(0), 2)
    w1, w2 = jax.random.normal(keys[0], (64, 4)), jax.random.normal(keys[1], (1000, 64)) / 8

    def decoder(z: jax.Array) -> jax.Array:
        return w2 @ jnp.tanh(w1 @ z)

    return _case(decoder, jnp.array([0.3, -0.2, 0.5, 0.1]), analyze=True)


def reactions() -> Case:
    """Mass action: A + B -> C, at rates over eight decades."""
    rng = np.random.default_rng(5)
    species, count = 60, 150
    left = jnp.asarray(np.array([rng.choice(species, 2, replace=False) for _ in range(count)]))
    right = jnp.asarray(rng.integers(0, species, count))
    rates = jnp.asarray(10.0 ** rng.uniform(-4, 4, count))

    def reaction_rates(c: jax.Array) -> jax.Array:
        flow = rates * c[left[:, 0]] * c[left[:, 1]]
        out = jnp.zeros_like(c)
        return out.at[left[:, 0]].add(-flow).at[left[:, 1]].add(-flow).at[right].add(flow)

    def remark(matrix: Any) -> str:
        sizes = np.abs(np.linalg.eigvals(matrix))
        sizes = sizes[sizes > 1e-9 * sizes.max()]
        return f"time scales span a factor of {sizes.max() / sizes.min():.1g}: stiff, so a solver needs this matrix"

    return _case(reaction_rates, jnp.asarray(rng.uniform(0.1, 1.0, species)), remark=remark)


def pair_energy() -> Case:
    """Forces between 20 atoms that attract at a distance and repel near by."""
    grid = np.stack(np.meshgrid(*[np.arange(3.0)] * 3), -1).reshape(-1, 3)[:20]
    positions = jnp.asarray(1.12 * grid + 0.05 * np.random.default_rng(2).standard_normal((20, 3)))
    i, j = np.triu_indices(20, 1)

    def energy(r: jax.Array) -> jax.Array:
        s = 1 / ((r[i] - r[j]) ** 2).sum(-1) ** 3
        return jnp.sum(4 * (s * s - s))

    def remark(matrix: Any) -> str:
        drift = np.abs(matrix.reshape(60, 20, 3).sum(1)).max() / np.abs(matrix).max()
        return f"moving all atoms together costs nothing: rows sum to zero within {drift:.0e}"

    dense = jax.hessian(energy)
    natives = {"jax.hessian": jax.jit(dense), "jacrev(jacrev)": jax.jit(jax.jacrev(jax.jacrev(energy)))}
    return Case(energy, (positions,), lambda: dense(positions), natives, remark=remark)


PROBLEMS = [
    Problem(
        "element-wise map",
        "jax",
        "jacobian",
        "1000 damped waves, each a function of its own input",
        1e-12,
        element_wise,
    ),
    Problem("thin network", "jax", "jacobian", "a decoder from 4 numbers to 1000: few columns", 1e-12, thin),
    Problem(
        "stiff reactions", "jax", "jacobian", "rates of 150 chemical reactions between 60 species", 1e-12, reactions
    ),
    Problem(
        "pair energy",
        "jax",
        "hessian",
        "Lennard-Jones energy of 20 atoms in space: its stiffness matrix",
        1e-12,
        pair_energy,
    ),
]
