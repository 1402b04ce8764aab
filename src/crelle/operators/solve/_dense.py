"""Small systems: the matrix itself, factorised on the host."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from crelle.operators._operator import Operator
from crelle.operators._vectors import vectors_of
from crelle.operators.solve._rounds import NonFinite
from crelle.operators.solve._system import Traced


class Singular(Exception):
    """The matrix has no inverse, to rounding."""


class Factorised:
    """A matrix on the host with its factors: Cholesky, LDLᵀ, LU, or the singular values for least squares.

    Attributes:
        how: which factors.
    """

    def __init__(self, operator: Operator, damping: float) -> None:
        dense = operator.todense()
        if vectors_of(operator.backend).is_traced(dense):
            raise Traced
        matrix = np.asarray(operator.backend.to_host(dense))
        self.matrix = matrix.astype(np.result_type(matrix.dtype, np.float32))
        if not np.isfinite(self.matrix).all():
            raise NonFinite(min(operator.shape))
        self.damping = damping
        m, n = self.matrix.shape
        self.how, self._solve = self._square(operator) if m == n and not damping else self._rectangular()

    def solve(self, b: Any) -> Any:
        """x [k, n] of b [k, m].

        Raises:
            Singular: A has no inverse.
        """
        return self._solve(b.T).T

    def residual(self, x: Any, b: Any) -> Any:
        """b - A x, row by row."""
        return b - x @ self.matrix.T

    def optimality(self, x: Any, r: Any) -> Any:
        """‖Aᵀr - λ x‖ / (‖A‖ ‖r‖), row by row; ‖A‖ is the largest of entries' sums, and r has the damping below it."""
        gradient = r @ self.matrix.conj() - self.damping * x
        full = np.hypot(np.linalg.norm(r, axis=1), self.damping**0.5 * np.linalg.norm(x, axis=1))
        below = np.linalg.norm(self.matrix) * full
        return np.linalg.norm(gradient, axis=1) / np.where(below == 0, 1, below)

    def _square(self, operator: Operator) -> tuple[str, Callable[[Any], Any]]:
        from scipy import linalg

        if "psd" in operator.tags:
            try:
                factor = linalg.cho_factor(self.matrix, lower=True, check_finite=False)
                return "Cholesky", lambda b: linalg.cho_solve(factor, b)
            except linalg.LinAlgError:
                pass  # semidefinite: rounding decides
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", linalg.LinAlgWarning)
            lu, pivots = linalg.lu_factor(self.matrix, check_finite=False)
        size = np.linalg.norm(self.matrix, 1)
        (condition,) = linalg.get_lapack_funcs(("gecon",), (lu,))
        invertible = len(lu) == 0 or condition(lu, size)[0] > np.finfo(self.matrix.dtype).eps

        def solve(b: Any) -> Any:
            if not invertible:
                raise Singular
            return linalg.lu_solve((lu, pivots), b)

        return "LU", solve

    def _rectangular(self) -> tuple[str, Callable[[Any], Any]]:
        n = self.matrix.shape[1]
        below = n if self.damping else 0
        matrix = np.vstack([self.matrix, self.damping**0.5 * np.eye(below, n, dtype=self.matrix.dtype)])

        def solve(b: Any) -> Any:
            return np.linalg.lstsq(matrix, np.vstack([b, np.zeros((below, b.shape[1]), b.dtype)]), rcond=None)[0]

        return "least squares", solve
