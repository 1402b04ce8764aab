"""A⁻¹ as an operator: its products solve."""

from __future__ import annotations

from typing import Any

from crelle.operators._operator import Operator
from crelle.operators.solve._precondition import transposed_of
from crelle.operators.solve._solve import Solver


class InverseOperator(Operator):
    """b ↦ A⁻¹ b, or the least-squares solution A⁺ b for a rectangular A; made by ``A.inverse()``.

    Attributes:
        of: A.
        method: how systems are solved.
    """

    def __init__(self, of: Operator, **settings: Any) -> None:
        self._solver = Solver(of, what="inverse", **settings)
        self._settings = settings
        self._adjoint: Solver | None = self._solver if of.is_symmetric else None
        super().__init__(of.codomain, of.domain, of.tags)
        self.of, self.method = of, self._solver.method

    @property
    def products(self) -> int:
        """Products with A and Aᵀ that all solves took so far."""
        both = {id(s): s for s in (self._solver, self._adjoint) if s is not None}
        return sum(s.products for s in both.values())

    def _products(self, block: Any) -> Any:
        return self._solver.differentiable(block, self._transposed)

    def _adjoint_products(self, block: Any) -> Any:
        return self._transposed().differentiable(block, lambda: self._solver)

    def _transposed(self) -> Solver:
        if self._adjoint is None:
            given = self._settings["preconditioner"]
            made = transposed_of(self.of, given, self._solver.what, self.method)
            self._adjoint = Solver(self.of.T, what="inverse", **{**self._settings, "preconditioner": made})
        return self._adjoint

    @property
    def T(self) -> Operator:
        """(A⁻¹)ᵀ."""
        return super().T

    @property
    def notes(self) -> tuple[str, ...]:
        """As for A."""
        return self.of.notes

    @property
    def _title(self) -> str:
        return f"inverse of {self.of._title} by {self.method}"
