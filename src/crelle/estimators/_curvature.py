"""The ends of a spectrum: how sharp a minimum is, and which way leads down from a saddle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crelle._errors import CrelleValueError, describe
from crelle.estimators._eigenpairs import eigsh

if TYPE_CHECKING:
    from crelle.operators._operator import Operator


@dataclass(frozen=True, eq=False)
class Curvature:
    """The eigenvalue at one end of the spectrum of a symmetric operator.

    Attributes:
        value: the eigenvalue.
        residual: ‖A v - λ v‖: there is an eigenvalue at most this far from the value.
        direction: v, of norm 1, as a tree like the input.
        products: with A, that it took.
        converged: whether the residual is as small as was asked for.
        partial: it was interrupted.
        notes: what a user should know.
    """

    value: float
    residual: float
    direction: Any
    products: int
    converged: bool
    partial: bool = False
    notes: tuple[str, ...] = ()

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        return f"Curvature({self})"

    def __str__(self) -> str:
        more = "" if self.converged else ", not converged"
        stopped = ", interrupted" if self.partial else ""
        return f"{self.value:.6g}   residual {self.residual:.1e}{more}  ({self.products:,} products{stopped})"


def end_of_spectrum(
    operator: Operator, which: str, rtol: float | None, budget: int | None, seed: int | None, key: Any, generator: Any
) -> Curvature:
    """The largest ("LA") or smallest ("SA") eigenvalue with its vector."""
    if not operator.shape[0]:
        raise CrelleValueError(describe(f"{operator!r}: the matrix is empty, and has no eigenvalues"))
    found = eigsh(operator, 1, which, rtol, budget, seed, key, generator, True)
    return Curvature(
        float(found.values[0]), float(found.residuals[0]), found.vectors[0], found.products, bool(found.converged[0]),
        found.partial, found.notes,
    )  # fmt: skip
