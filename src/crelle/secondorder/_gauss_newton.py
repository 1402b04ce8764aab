"""One step of the Gauss-Newton method, damped as Levenberg and Marquardt do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from crelle._transforms import jacobian
from crelle.operators._derivatives import JacobianOperator
from crelle.operators.solve import Solution


@dataclass(frozen=True)
class GaussNewtonStep:
    """A step δ, and what it should bring.

    Attributes:
        step: δ, a tree like x: the next point is x + δ.
        loss: ½‖r(x)‖².
        predicted: by how much the linear model says that the loss falls: ½‖r‖² - ½‖r + J δ‖².
        solution: of the least-squares problem: products, convergence.
    """

    step: Any
    loss: Any
    predicted: Any
    solution: Solution


def gauss_newton_step(
    residual: Callable[..., Any],
    x: Any,
    *args: Any,
    damping: float = 0.0,
    method: str = "auto",
    rtol: float | None = None,
    budget: int | None = None,
    throw: bool = True,
) -> GaussNewtonStep:
    """δ = argmin ‖r(x) + J δ‖² + λ‖δ‖², with the Jacobian J of the residual r at x: (JᵀJ + λI) δ = -Jᵀr.

    The matrix JᵀJ, whose condition is the square of that of J, is never formed: the problem is solved by LSMR, or by
    the singular values of J where it is small. Accept the step and lower λ if ½‖r(x)‖² - ½‖r(x + δ)‖² is a good part
    of ``predicted``, raise λ otherwise.

    Args:
        residual: ``r(x, *args)``, an array or a tree of arrays; the loss is ½‖r‖².
        x: an array or a tree of arrays.
        args: further arguments, held fixed.
        damping: λ.
        method, rtol, budget, throw: as in :meth:`crelle.Operator.solve`. Far from the minimum ``rtol=1e-2`` will do.

    Raises:
        CrelleSolveError: the least-squares problem was not solved.
        CrelleValueError: a negative λ.

    Cost:
        One evaluation of r, and a product with J and one with Jᵀ for each step of LSMR.

    Source:
        Levenberg, *Quart. Appl. Math.* 2, 1944; Marquardt, *J. SIAM* 11, 1963; Nocedal and Wright, *Numerical
        Optimization*, 2nd ed., 2006, ch. 10.

    >>> import jax.numpy as jnp
    >>> found = gauss_newton_step(lambda x: jnp.array([10 * (x[1] - x[0] ** 2), 1 - x[0]]), jnp.array([-1.2, 1.0]))
    >>> print(found.step.round(3))
    [ 2.2   -4.84]
    """
    operator = cast(JacobianOperator, jacobian(residual).at(x, *args))
    space = operator.codomain
    form, leaves = space.enter(operator.value, lambda: f"gauss_newton_step({operator!r})")
    r = space.block(form, leaves)
    minus = space.formed("tree", -r)
    found = operator.solve(minus, method, damping=damping, rtol=rtol, budget=budget, throw=throw)
    loss = (r * r).sum() / 2
    return GaussNewtonStep(found.value, loss, loss * (1 - found.residual**2), found)
