"""Implicit functions in JAX: a rule for derivatives, transposed through ``lax.custom_linear_solve``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from crelle.secondorder._implicit import Equation


def implicit(equation: Equation) -> Callable[..., Any]:
    """The solver with the rule dx = -(∂F/∂x)⁻¹ ∂F/∂θ dθ."""

    @jax.custom_jvp
    def solution(*args: Any) -> Any:
        return equation.solver(*args)

    @solution.defjvp
    def rule(args: Any, tangents: Any) -> tuple[Any, Any]:
        x = solution(*args)
        _, change = jax.jvp(lambda *a: equation.residual(x, *a), args, tangents)
        operator = equation.operator(x, args)
        return x, operator.solve(jax.tree.map(lambda leaf: -leaf, change), **equation.settings).value

    return solution
