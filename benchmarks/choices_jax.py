"""JAX under ``jit``: Crelle's choice against all that it could have chosen, the framework's functions, and by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import crelle
from benchmarks import tasks_jax
from benchmarks.choices import BY_HAND, SMOKE, SPARSE, alternatives
from benchmarks.harness import Contestant
from benchmarks.patterns import HESSIANS, jax_problem
from benchmarks.problem import OURS, Problem, Task

Function = Callable[[Any], Any]
Maker = Callable[[bool], tuple[Function, Any]]


def dense(make: Maker, hessian: bool, small: bool) -> Problem:
    """A dense result: every mode, the framework's functions, and the sparse result made dense."""
    f, x = make(small)
    made = alternatives(tasks_jax.problem(f, x, hessian=hessian, modes=True))
    kind = crelle.hessian if hessian else crelle.jacobian
    sparse = kind(f, format="sparse")
    shape = jax.eval_shape(kind(f), x).shape
    whole = jax.jit(lambda z: sparse(z).todense().reshape(shape))
    made.contestants.append(Contestant("sparse, made dense", lambda: jax.block_until_ready(whole(x))))
    return made


def sparse(name: str, n: int, tiny: int, small: bool) -> Problem:
    """A sparse result, its entries by rows: dense and gathered, or by hand with the colours j mod k."""
    f, x = structured(name, tiny if small else n)
    hessian = name in HESSIANS
    kind = crelle.hessian if hessian else crelle.jacobian
    transform = kind(f, format="sparse")
    pattern = transform.pattern(x)
    rows, cols = jnp.asarray(pattern.rows), jnp.asarray(pattern.cols)
    gradient = jax.grad(f) if hessian else f

    def gathered(derivative: Function) -> Function:
        return lambda z: derivative(z)[rows, cols]

    def by_hand(k: int) -> Function:
        seeds = jnp.asarray(np.arange(x.size) % k == np.arange(k)[:, None], x.dtype)
        return lambda z: jax.vmap(jax.linearize(gradient, z)[1])(seeds)[cols % k, rows]

    ways: dict[str, Function] = {OURS: lambda z: transform(z).data}
    if x.size <= 2000:
        ways |= {"jacfwd, gathered": gathered(jax.jacfwd(gradient)), "jacrev, gathered": gathered(jax.jacrev(gradient))}
    if name in BY_HAND:
        ways["seeds by hand"] = by_hand(BY_HAND[name])
    if not hessian:
        ways |= {
            f"{side} colours": functools.partial(_colored, f, crelle.coloring(pattern, side), rows, cols)
            for side in ("columns", "rows")
            if crelle.coloring(pattern, side).passes <= 64  # type: ignore[arg-type]
        }
    jitted = {way: jax.jit(g) for way, g in ways.items()}
    contestants = [Contestant(way, lambda g=g: jax.block_until_ready(g(x))) for way, g in jitted.items()]
    plan = transform.plan(x)
    return Problem(contestants, f"n = {x.size:,}, {pattern.nnz:,} entries", {"mode": plan.mode, "method": plan.method})


def _colored(f: Function, coloring: crelle.Coloring, rows: Any, cols: Any, z: Any) -> Any:
    """The entries from the products of one side, seeds as constants."""
    colors = jnp.asarray(coloring.colors)
    seeds = (colors == jnp.arange(coloring.passes)[:, None]).astype(z.dtype)
    if coloring.kind == "columns":
        return jax.vmap(jax.linearize(f, z)[1])(seeds)[colors[cols], rows]
    pull = jax.vjp(f, z)[1]
    return jax.vmap(lambda s: pull(s)[0])(seeds)[colors[rows], cols]


def structured(name: str, n: int) -> tuple[Function, Any]:
    """One of the problems of the patterns, or one of those below."""
    if name == "arrow":  # a dense row and a dense column
        first = jnp.arange(n) == 0
        return lambda x: jnp.sin(x) * x[0] + jnp.where(first, (x * x).sum(), 0.0), jnp.linspace(0.1, 0.9, n)
    if name == "full":  # nothing is zero
        matrix = jnp.asarray(np.random.default_rng(6).standard_normal((n, n)) / np.sqrt(n))
        return lambda x: jnp.tanh(matrix @ x), jnp.linspace(0.1, 0.9, n)
    f, x, _ = jax_problem(name, n)
    return f, jnp.asarray(x)


def tiny(small: bool) -> tuple[Function, Any]:
    """Three numbers to two."""
    return lambda x: jnp.stack([x[0] * jnp.sin(x[1]), x[1] * x[2]]), jnp.array([0.3, 0.5, 0.7])


def tasks(modes: bool = False) -> list[Task]:
    """Dense results first."""
    double = jnp.float64
    makers: dict[str, Maker] = {
        "three to two": tiny,
        "mlp-input": functools.partial(tasks_jax.mlp_input, double),
        "mlp-batch": functools.partial(tasks_jax.mlp_batch, double),
        "elementwise": functools.partial(tasks_jax.elementwise, double),
        "bottleneck": functools.partial(tasks_jax.bottleneck, double),
        "transformer": functools.partial(tasks_jax.transformer, double),
        "thin-4-1000": functools.partial(tasks_jax.thin, 4, 1000, double),
        "thin-1000-4": functools.partial(tasks_jax.thin, 1000, 4, double),
        "burgers-1000": lambda small: structured("burgers", 50 if small else 1000),
        "arrow-500": lambda small: structured("arrow", 20 if small else 500),
    }
    hessians: dict[str, Maker] = {
        "pair-hessian": functools.partial(tasks_jax.pair_energy, double),
        "rosenbrock-300": lambda small: structured("rosenbrock", 20 if small else 300),
    }
    every = [(name, functools.partial(dense, make, False)) for name, make in makers.items()]
    every += [(name, functools.partial(dense, make, True)) for name, make in hessians.items()]
    made = [Task("choice-jax", f"jax: {name}, dense", build, name in SMOKE) for name, build in every]
    for name, n, few in SPARSE:
        build = functools.partial(sparse, name, n, few)
        made.append(Task("choice-jax", f"jax: {name}-{n}, sparse", build, f"{name}-{n}" in SMOKE))
    return made
