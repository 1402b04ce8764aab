"""Krylov spaces of symmetric operators, with thick restarts and more than one starting vector. No questions here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from crelle._errors import CrelleTypeError, CrelleValueError, describe
from crelle.estimators._basis import Basis
from crelle.operators._vectors import vectors_of

if TYPE_CHECKING:
    from crelle.operators._operator import Operator

Floats = np.ndarray[Any, np.dtype[np.float64]]

#: A direction is rounding, and the space invariant, if its norm is this many units of the largest entry.
_ROUNDING = 8.0
#: Relative error of products with derivatives of NumPy functions, which are differences.
_DIFFERENCES = 1e-7


class Krylov:
    """A Qᵀ = Qᵀ H + Pᵀ C, for orthonormal rows of Q and P together: Q [m, n] the space, P the directions that lead out.

    One starting vector and one direction make the Lanczos process: H is tridiagonal. Replacing Q by Ritz vectors is the
    thick restart of Wu and Simon (2000): H becomes diagonal with an arrow. Another starting vector, orthogonal to all,
    opens a chain of its own, which finds what the first one cannot see: further vectors of a multiple eigenvalue.
    The equation holds to rounding whatever was done, so that ‖C y‖ is the residual of a Ritz vector Qᵀ y.

    Attributes:
        projected: H [m, m], on the host.
        coupling: C [directions, m], on the host.
        products: with A, so far.
    """

    def __init__(self, operator: Operator, what: str, basis: Basis | None = None) -> None:
        self._operator, self._what = operator, what
        self._vectors = vectors_of(operator.backend)
        self._normalised = self._vectors.compiled(_normalised)
        self.basis = Basis(self._vectors) if basis is None else basis
        self.basis.truncate(0)
        self._directions: list[Any] = []
        self.projected: Floats = np.zeros((0, 0))
        self.coupling: Floats = np.zeros((0, 0))
        self.products = 0
        self.epsilon = precision(operator)

    @property
    def size(self) -> int:
        """m, the number of vectors in Q."""
        return len(self.projected)

    @property
    def open(self) -> int:
        """Number of directions: none is left where the space is invariant."""
        return len(self._directions)

    @property
    def scale(self) -> float:
        """A lower bound of ‖A‖ of its size: the largest norm of a row of H and C."""
        both = np.concatenate([self.projected, self.coupling])
        return float(np.sqrt((both**2).sum(0).max(initial=0.0)))

    def seed(self, vector: Any) -> bool:
        """Add a direction: what of a vector is orthogonal to all that is there. False if nothing is."""
        if self.size + self.open >= self._operator.shape[0]:
            return False
        before = float(self._host([_normalised(vector)[1]])[0])
        for _ in range(2):
            vector = self.basis.project_out(vector)
            for other in self._directions:
                vector = vector - (other @ vector) * other
        direction, norm = self._normalised(vector)
        if not float(self._host([norm])[0]) > _ROUNDING * self.epsilon * before:
            return False
        self._directions.append(direction)
        self.coupling = np.concatenate([self.coupling, np.zeros((1, self.size))])
        return True

    def extend(self, steps: int, chain: int = -1) -> bool:
        """Take a direction into Q, multiply it by A, and so on: ``steps`` products, and numbers looked at once.

        Returns:
            Whether the chain goes on: False where it ended in an invariant subspace, after fewer steps maybe.

        Raises:
            CrelleValueError: a product is NaN or infinite.
            KeyboardInterrupt: what was done until then is kept.
        """
        chain %= self.open
        others = [d for i, d in enumerate(self._directions) if i != chain]
        coupled = np.flatnonzero(self.coupling[chain])
        before: tuple[Any, Any] | None = None
        if len(coupled) == 1:
            before = self.basis.row(int(coupled[0])), float(self.coupling[chain, coupled[0]])
        twice = len(coupled) > 1
        q, records, size = self._directions[chain], [], self.size
        try:
            for _ in range(min(steps, self._operator.shape[0] - size - len(others))):
                w = self._operator._products(q[None])[0]
                self.products += 1
                alpha = q @ w
                w = w - alpha * q
                if before is not None:
                    w = w - before[1] * before[0]
                self.basis.append(q)
                overlaps = []
                for other in others:
                    overlaps.append(other @ w)
                    w = w - overlaps[-1] * other
                w = self.basis.project_out(w)
                if twice:
                    w = self.basis.project_out(w)
                for other in others:
                    w = w - (other @ w) * other
                direction, beta = self._normalised(w)
                records.append((alpha, beta, *overlaps))
                before, q, twice = (q, beta), direction, False
                self._directions[chain] = direction
        finally:
            alive = self._record(records, chain)
        return alive

    def _record(self, records: list[tuple[Any, ...]], chain: int) -> bool:
        """Take the numbers of some steps into H and C; what came after an invariant subspace is dropped."""
        size, others = self.size, [i for i in range(self.open) if i != chain]
        self.basis.truncate(size + len(records))
        if not records:
            return True
        numbers = self._host([number for record in records for number in record]).reshape(len(records), -1)
        bad = np.flatnonzero(~np.isfinite(numbers).all(1))
        if len(bad):
            raise self._not_finite(self.products - len(records) + int(bad[0]) + 1)
        scale, count, ended = self.scale, len(records), False
        for index, (alpha, beta, *_) in enumerate(numbers):
            scale = max(scale, float(np.hypot(alpha, beta)))
            last = size + index + 1 + len(others) == self._operator.shape[0]
            if beta <= _ROUNDING * self.epsilon * scale or last:
                count, ended = index + 1, True
                break
        m = size + count
        projected = np.zeros((m, m))
        projected[:size, :size] = self.projected
        projected[size, :size] = projected[:size, size] = self.coupling[chain]
        inner = np.arange(size, m)
        projected[inner, inner] = numbers[:count, 0]
        projected[inner[:-1], inner[1:]] = projected[inner[1:], inner[:-1]] = numbers[: count - 1, 1]
        coupling = np.zeros((self.open, m))
        coupling[:, :size] = self.coupling
        coupling[others, size:] = numbers[:count, 2:].T
        coupling[chain] = 0
        coupling[chain, -1] = numbers[count - 1, 1]
        if ended:
            coupling = np.delete(coupling, chain, 0)
            del self._directions[chain]
        self.projected, self.coupling = projected, coupling
        self.basis.truncate(m)
        return not ended

    def ritz(self) -> tuple[Floats, Floats, Floats]:
        """(values rising [m], residuals [m], coefficients [m, m] with a vector in each column)."""
        values, coefficients = np.linalg.eigh(self.projected)
        return values, np.linalg.norm(self.coupling @ coefficients, axis=0), coefficients

    def restart(self, values: Floats, coefficients: Floats) -> None:
        """Keep some Ritz vectors only: ``coefficients`` [m, kept]."""
        self.basis.replace(coefficients.T)
        self.projected, self.coupling = np.diag(values), self.coupling @ coefficients

    def _host(self, numbers: list[Any]) -> Floats:
        if self._operator.backend.is_abstract(numbers):
            raise CrelleTypeError(
                describe(
                    f"{self._operator!r}.{self._what}: its steps depend on numbers, and there are none while JAX traces",
                    try_="ask outside of jax.jit, jax.vmap and jax.grad",
                )
            )
        return np.asarray(self._operator.backend.to_host(self._vectors.stack(numbers)), float)

    def _not_finite(self, product: int) -> CrelleValueError:
        return CrelleValueError(
            describe(
                f"{self._operator!r}.{self._what}: product {product:,} with the matrix is NaN or infinite",
                likely="the function or its derivative overflows or is undefined at this point",
                try_="look at A @ v for a vector of ones; another point, or float64",
            )
        )


def precision(operator: Operator) -> float:
    """The relative error of products, about: of the least precise leaf, or of differences for NumPy functions."""
    epsilon = max((t.epsilon for t in operator.domain.types), default=0.0)
    by_differences = operator.backend.name == "numpy" and operator._from_derivatives
    return max(epsilon, _DIFFERENCES) if by_differences else epsilon


def _normalised(vector: Any) -> tuple[Any, Any]:
    """(v/‖v‖, ‖v‖), and (0, 0) for 0."""
    norm = (vector @ vector) ** 0.5
    return vector / (norm + (norm == 0)), norm
