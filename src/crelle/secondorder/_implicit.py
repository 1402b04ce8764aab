"""Functions that are given by an equation, made differentiable by the implicit function theorem."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from crelle._arrays import ArrayType, total_size, types_text
from crelle._call import backend_of, describe_arguments, function_name
from crelle._errors import CrelleShapeError, CrelleTypeError, describe
from crelle._transforms import jacobian
from crelle.operators._algebra import Tagged
from crelle.operators._operator import Operator


@dataclass(frozen=True)
class Equation:
    """F(x, *args) = 0, and how linear systems with ∂F/∂x are solved."""

    solver: Callable[..., Any]
    residual: Callable[..., Any]
    symmetric: bool
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"crelle.implicit({function_name(self.solver)}, {function_name(self.residual)})"

    def operator(self, x: Any, args: tuple[Any, ...]) -> Operator:
        """∂F/∂x at a solution.

        Raises:
            CrelleShapeError: as many equations as unknowns are needed.
        """
        found = jacobian(self.residual).at(x, *args)
        verify_sizes(self, found.domain.types, found.codomain.types)
        return Tagged(found, found.tags | {"symmetric"}) if self.symmetric else found


def implicit(
    solver: Callable[..., Any],
    residual: Callable[..., Any],
    *,
    symmetric: bool = False,
    method: str = "auto",
    rtol: float | None = None,
    budget: int | None = None,
    preconditioner: Any = None,
) -> Callable[..., Any]:
    """x*(θ) with F(x*, θ) = 0, differentiable whatever the solver does: dx* = -(∂F/∂x)⁻¹ (∂F/∂θ) dθ.

    Nothing inside the solver is differentiated, so it may be any program: iterations, SciPy, a table. Its result must
    solve the equation: the derivative is as exact as the solution and the linear solve are.

    Args:
        solver: (θ, ...) -> x*, an array or a tree.
        residual: (x, θ, ...) -> F, as many numbers as x has: the equation, the gradient of a loss that x* minimises,
            or g(x, θ) - x for a fixed point of g.
        symmetric: ∂F/∂x is symmetric, as for the gradient of a loss.
        method, rtol, budget, preconditioner: as in :meth:`crelle.Operator.solve`.

    Returns:
        A function of the arguments of ``solver``. In JAX: forward and reverse mode, any order, inside ``jit`` and
        ``vmap`` as far as the solver works there. In PyTorch: forward and reverse mode, once; what the residual
        captures, such as parameters of a module, gets its gradient, too.

    Raises:
        CrelleShapeError: when differentiated, not as many equations as unknowns.
        CrelleTypeError: when called, arrays of NumPy: there is nothing that could differentiate it.
        CrelleSolveError: when differentiated, the linear system was not solved (not inside ``jax.jit`` or ``grad``).

    Cost:
        One linear solve for each derivative in forward mode, or each gradient; none to evaluate.

    Source:
        Griewank and Walther, *Evaluating Derivatives*, 2nd ed., 2008, ch. 15; Blondel et al., *Efficient and Modular
        Implicit Differentiation*, NeurIPS 2022.

    >>> import jax, jax.numpy as jnp
    >>> root = implicit(lambda c: jnp.cbrt(c), lambda x, c: x**3 - c)
    >>> print(jax.grad(root)(8.0).round(6))  # 1 / (3 x²)
    0.083333
    """
    settings = {"method": method, "rtol": rtol, "budget": budget, "preconditioner": preconditioner}
    equation = Equation(solver, residual, symmetric, settings)
    made: dict[str, Callable[..., Any]] = {}

    @functools.wraps(solver, updated=())
    def solution(*args: Any) -> Any:
        backend = backend_of(residual, args, {}, equation.name)
        if backend.name == "numpy":
            raise CrelleTypeError(
                describe(
                    f"{equation.name}: NumPy does not differentiate",
                    called=describe_arguments(args, {}),
                    expected="arrays of JAX or PyTorch",
                    try_="crelle.jacobian(residual).at(x, θ).solve(...) for the derivative itself",
                )
            )
        if backend.name not in made:
            made[backend.name] = importlib.import_module(f"crelle.backends.{backend.name}.implicit").implicit(equation)
        return made[backend.name](*args)

    return solution


def verify_sizes(equation: Equation, unknowns: tuple[ArrayType, ...], equations: tuple[ArrayType, ...]) -> None:
    """Refuse another number of equations than of unknowns."""
    if total_size(unknowns) != total_size(equations):
        raise CrelleShapeError(
            describe(
                f"{equation.name}: {total_size(equations):,} equations for {total_size(unknowns):,} unknowns",
                called=f"residual: {types_text(equations)}; solution: {types_text(unknowns)}",
                expected="as many equations as unknowns",
                likely="the residual is a loss, in place of its gradient" if total_size(equations) == 1 else None,
            )
        )
