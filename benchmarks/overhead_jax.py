"""What a call costs beyond the arithmetic, in JAX: a function of three numbers that returns two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import crelle
from benchmarks.harness import Contestant
from benchmarks.problem import OURS, Problem, Task


def tiny(x: Any) -> Any:
    """Three numbers to two."""
    return jnp.stack([x[0] * x[1], jnp.sin(x[2]) * x[0]])


def _point() -> Any:
    return jnp.array([1.0, 2.0, 3.0])


def _ready(g: Callable[[Any], Any], x: Any) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(g(x))


def jitted(small: bool) -> Problem:
    """Under ``jax.jit`` nothing of Crelle is left but the arithmetic."""
    x = _point()
    contestants = [
        Contestant(OURS, _ready(jax.jit(crelle.jacobian(tiny)), x)),
        Contestant("jit(jacfwd)", _ready(jax.jit(jax.jacfwd(tiny)), x)),
        Contestant("jit(jacrev)", _ready(jax.jit(jax.jacrev(tiny)), x)),
    ]
    return Problem(contestants, "f64[3] -> f64[2]")


def called_plan(small: bool) -> Problem:
    """A called plan binds its arguments and looks at their shapes, then runs what was compiled."""
    x = _point()
    plan = crelle.jacobian(tiny).plan(x)
    contestants = [
        Contestant(OURS, _ready(plan, x)),
        Contestant("jit(jacfwd)", _ready(jax.jit(jax.jacfwd(tiny)), x)),
        Contestant("jit(jacrev)", _ready(jax.jit(jax.jacrev(tiny)), x)),
    ]
    return Problem(contestants, "f64[3] -> f64[2]", {"mode": plan.mode, "chunk": plan.chunk, "method": plan.method})


def unjitted(small: bool) -> Problem:
    """Neither is jitted: Crelle traces f to see whether it changed, and reuses what it compiled."""
    x = _point()
    ours = crelle.jacobian(tiny)
    contestants = [
        Contestant(OURS, _ready(ours, x)),
        Contestant("jacrev", _ready(jax.jacrev(tiny), x)),
    ]
    return Problem(contestants, "f64[3] -> f64[2]")


def tasks(modes: bool = False) -> list[Task]:
    """All of them."""
    return [
        Task("overhead-jax-jitted", "jitted", jitted),
        Task("overhead-jax-plan", "called plan", called_plan),
        Task("overhead-jax-unjitted", "un-jitted", unjitted),
    ]
