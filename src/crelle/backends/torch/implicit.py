"""Implicit functions in PyTorch: the residual at the solution is recorded, and the solution hangs on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from crelle._errors import CrelleTypeError, describe
from crelle.backends.torch.run import type_of
from crelle.operators._operator import Operator
from crelle.secondorder._implicit import Equation, verify_sizes


def implicit(equation: Equation) -> Callable[..., Any]:
    """The solver on detached arguments, and F at what it found with the arguments themselves."""

    def solution(*args: Any) -> Any:
        plain = pytree.tree_map(_detached, args)
        found, tree = pytree.tree_flatten(equation.solver(*plain))
        leaves = [leaf.detach() for leaf in found]
        x = pytree.tree_unflatten(leaves, tree)
        equations, spec = pytree.tree_flatten(equation.residual(x, *args))
        verify_sizes(equation, tuple(map(type_of, leaves)), tuple(map(type_of, equations)))
        system = _System(equation, x, plain, tree, spec)
        hung = _Solution.apply(system, len(leaves), *leaves, *equations)  # type: ignore[no-untyped-call]
        return pytree.tree_unflatten(list(hung), tree)

    return solution


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


class _System:
    """Linear systems with ∂F/∂x, which is linearised when one is first asked for."""

    def __init__(self, equation: Equation, x: Any, args: Any, unknowns: Any, equations: Any) -> None:
        self._equation, self._x, self._args = equation, x, args
        self._unknowns, self._equations = unknowns, equations
        self._operator: Operator | None = None

    def solve(self, b: list[Tensor], transposed: bool) -> list[Tensor]:
        """x with A x = b, or Aᵀx = b, as leaves."""
        if self._operator is None:
            self._operator = self._equation.operator(self._x, self._args)
        operator = self._operator.T if transposed else self._operator
        tree = pytree.tree_unflatten(b, self._unknowns if transposed else self._equations)
        settings = dict(self._equation.settings)
        given = settings["preconditioner"]
        if transposed and hasattr(given, "T") and hasattr(given, "is_symmetric"):
            settings["preconditioner"] = given.T
        return list(pytree.tree_leaves(operator.solve(tree, **settings).value))


class _Solution(torch.autograd.Function):
    """(x, F) ↦ x, with the derivative -(∂F/∂x)⁻¹ in F."""

    @staticmethod
    def forward(ctx: Any, system: _System, count: int, *leaves: Tensor) -> Any:
        ctx.system, ctx.count = system, count
        ctx.save_for_backward(*leaves[count:])
        return tuple(leaf.clone() for leaf in leaves[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        found = [-leaf for leaf in ctx.system.solve(list(grads), True)]
        if torch.is_grad_enabled():
            once: Any = _Once.apply
            found = [leaf + once(f) for leaf, f in zip(found, ctx.saved_tensors, strict=True)]
        return None, None, *[None] * ctx.count, *found

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        found = ctx.system.solve(list(tangents[2 + ctx.count :]), False)
        return tuple(-leaf for leaf in found)


class _Once(torch.autograd.Function):
    """Zeros that hang on F, as multipliers do; by how much is not known."""

    @staticmethod
    def forward(ctx: Any, equation: Tensor) -> Tensor:
        return torch.zeros_like(equation)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise CrelleTypeError(
            describe("crelle.implicit: a second derivative, and PyTorch has the first one only",
                     try_="the same in JAX, which has any order; or differences of gradients")
        )  # fmt: skip
