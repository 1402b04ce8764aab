"""What a solve returns: the solution, and how good it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Solution:
    """x with A x ≈ b, and how close it came.

    Attributes:
        value: x, in the form of b: flat, a block with a vector in each column, or a tree.
        residual: ‖b - A x‖ / ‖b‖, computed anew at the end; the largest of all columns.
        residuals: the same for each column of b.
        optimality: for least squares ‖Aᵀr - λ x‖ / (‖A‖ ‖r‖) with r = b - A x, the largest of all columns: zero at the
            minimum, whatever remains of b. NaN where A x = b is solved.
        products: products with A and Aᵀ, each with one vector.
        converged: whether it is as exact as was asked for.
        method: ``"cg"``, ``"minres"``, ``"gmres"``, ``"lsmr"`` or ``"dense"``.
        partial: it was interrupted, and is what was known by then.
        notes: what was assumed, or went wrong.

    Inside ``jax.jit``, ``grad`` and ``vmap`` numbers are arrays of JAX, and ``products`` is not known: ``None``.
    """

    value: Any
    residual: Any
    residuals: Any
    optimality: Any
    products: Any
    converged: Any
    method: str
    partial: bool = False
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.products is None:
            return f"inside a transformation of JAX  ({self.method})"
        state = "interrupted" if self.partial else "converged" if self.converged else "not converged"
        work = f"{self.products:,} product{'' if self.products == 1 else 's'}"
        return f"{state}: relative residual {self.residual:.1e}  ({self.method}, {work})"
