"""Solving inside transformations of JAX: loops of ``lax``, differentiable through ``lax.custom_linear_solve``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from crelle.backends.jax import vectors
from crelle.operators._operator import Operator
from crelle.operators.solve._gmres import RESTART
from crelle.operators.solve._precondition import Preconditioner
from crelle.operators.solve._system import System, norm, safe

if TYPE_CHECKING:
    from crelle.operators.solve._rounds import Recurrence
    from crelle.operators.solve._solve import Solver

Map = Callable[[Any], Any]


def traced_solve(solver: Solver, b: Any, x0: Any) -> tuple[Any, dict[str, Any]]:
    """x for each row of b, and the other fields of ``Solution``; nothing is raised, and numbers are arrays."""
    operator = solver.operator
    push, pull = _mapped(operator._products), _mapped(operator._adjoint_products)
    right = b if x0 is None else b - push(x0)
    if solver.method == "dense":
        x = _dense(operator, push, pull, right, solver.damping)
    elif solver.method == "gmres":
        x = _gmres(solver, push, right)
    else:
        x = _recurrence(solver, push, pull, right)
    if x0 is not None:
        x = x + x0
    r = b - push(x)
    size = safe(norm(b))
    residuals = (norm(r) / size)[:, 0]
    optimality = jnp.full_like(residuals, jnp.nan)
    converged = residuals <= solver.rtol
    m, n = operator.shape
    if solver.method == "lsmr" or solver.damping or m != n:
        gradient = norm(pull(r) - solver.damping * x)[:, 0]
        # ‖A‖ ≥ ‖Aᵀr‖ / ‖r‖ is a bound from below that needs no further product: it is too strict rather than too lax
        optimality = gradient / safe(norm(pull(b))[:, 0] / size[:, 0] * norm(r)[:, 0])
        converged = optimality <= solver.rtol if solver.damping else converged | (optimality <= solver.rtol)
    return x, {
        "residual": residuals.max(initial=0.0),
        "residuals": residuals,
        "optimality": optimality.max(initial=-jnp.inf),
        "products": None,
        "converged": converged.all(),
        "method": solver.method,
        "partial": False,
        "notes": ("inside a transformation of JAX nothing is raised: look at converged",),
    }


def _mapped(products: Map) -> Map:
    """Products with all rows at once: one program for any number of them."""

    def mapped(block: Any) -> Any:
        return products(block) if len(block) == 1 else jax.vmap(lambda row: products(row[None])[0])(block)

    return mapped


def _dense(operator: Operator, push: Map, pull: Map, b: Any, damping: float) -> Any:
    m, n = operator.shape
    matrix = pull(vectors.identity(operator.codomain)) if m < n else push(vectors.identity(operator.domain)).T
    if m == n and not damping:
        return jnp.linalg.solve(matrix, b.T).T
    if damping:
        matrix = jnp.concatenate([matrix, damping**0.5 * jnp.eye(n, dtype=matrix.dtype)])
        b = jnp.concatenate([b, jnp.zeros((len(b), n), b.dtype)], 1)
    return jnp.linalg.lstsq(matrix, b.T)[0].T


def _gmres(solver: Solver, push: Map, b: Any) -> Any:
    precondition = _preconditioner(solver) or (lambda block: block)
    restart = max(1, min(RESTART, b.shape[1]))
    cycles = -(-solver.budget(1) // restart)

    def one(row: Any) -> Any:
        # from the right: y with A M y = b, as outside
        y, _ = jax.scipy.sparse.linalg.gmres(
            lambda v: push(precondition(v[None]))[0], row, tol=0.9 * solver.rtol, restart=restart, maxiter=cycles
        )
        return precondition(y[None])[0]

    return jnp.stack([one(row) for row in b]) if len(b) else b


def _recurrence(solver: Solver, push: Map, pull: Map, b: Any) -> Any:
    from crelle.operators.solve._solve import RECURRENCES

    method = RECURRENCES[solver.method]()
    precondition = _preconditioner(solver)
    m, n = solver.operator.shape
    if m != n or solver.damping:
        system = System(vectors, push, pull, None, solver.damping, host=False)
        return _loop(solver, method, system, system.right_side(b, n))

    def solve(matvec: Map, right: Any) -> Any:
        transposed = jax.linear_transpose(matvec, right) if solver.method == "lsmr" else None
        adjoint: Map = matvec if transposed is None else (lambda u: transposed(u)[0])
        return _loop(solver, method, System(vectors, matvec, adjoint, precondition, host=False), right)

    symmetric = solver.operator.is_symmetric
    return jax.lax.custom_linear_solve(push, b, solve, None if symmetric else solve, symmetric=symmetric)


def _loop(solver: Solver, method: Recurrence, system: System, right: Any) -> Any:
    goal = 0.9 * solver.rtol * norm(right)[:, 0]
    each = 2 if method.name == "lsmr" else 1
    limit = solver.budget(len(right)) // (each * max(len(right), 1))

    def goes_on(carry: tuple[Any, Any]) -> Any:
        count, state = carry
        size, optimality, _, wrong = method.report(state)
        return (count < limit) & ((size > goal) & (optimality > solver.rtol) & (wrong == 0)).any()

    def step(carry: tuple[Any, Any]) -> tuple[Any, Any]:
        return carry[0] + 1, method.step(system, carry[1])

    start = method.start(system, right)
    return jax.lax.while_loop(goes_on, step, (0, start))[1].x


def _preconditioner(solver: Solver) -> Map | None:
    given = solver.given
    if given is None:
        return None
    if isinstance(given, Operator):
        return _mapped(given._products)
    if isinstance(given, Preconditioner):
        return given.apply
    space = solver.operator.domain
    diagonal = space.block(*space.enter(given, lambda: f"{solver.what}: preconditioner="))
    return lambda block: block / (abs(diagonal) if solver.method == "minres" else diagonal)
