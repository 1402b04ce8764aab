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
_ROUNDING = 32.0
#: Relative error of products with derivatives of NumPy functions, which are differences.
_DIFFERENCES = 1e-7


class Growing:
    """What spaces have in common: orthonormal vectors on the device, and directions that lead out of them.

    Attributes:
        basis: the space, orthonormal rows [size, n].
        coupling: C, numbers on the host: the share of each direction in the products.
        products: with A and Aᵀ, so far; ``cost`` of them in a step.
        epsilon: the relative error of a product, about.
    """

    cost = 1

    def __init__(self, operator: Operator, what: str, basis: Basis | None = None) -> None:
        self._operator, self._what = operator, what
        self._vectors = vectors_of(operator.backend)
        self._normalised = self._vectors.compiled(_normalised)
        self.basis = Basis(self._vectors) if basis is None else basis
        self.basis.truncate(0)
        self._directions: list[Any] = []
        self.coupling: Floats = np.zeros((0, 0))
        self.products = 0
        self.epsilon = precision(operator)

    @property
    def size(self) -> int:
        """Number of vectors."""
        return self.basis.count

    @property
    def open(self) -> int:
        """Number of directions: none is left where the space is invariant."""
        return len(self._directions)

    @property
    def complete(self) -> bool:
        """Whether there is no room for another direction."""
        return self.size + self.open >= self._operator.shape[1]

    def seed(self, vector: Any) -> bool:
        """Add a direction: what of a vector is orthogonal to all that is there. False if nothing is."""
        if self.complete:
            return False
        before = float(self._host([self._normalised(vector)[1]])[0])
        for _ in range(2):
            vector = self._outside(self.basis.project_out(vector), self._directions)
        direction, norm = self._normalised(vector)
        if not float(self._host([norm])[0]) > _ROUNDING * self.epsilon * before:
            return False
        self._directions.append(direction)
        self.coupling = np.concatenate([self.coupling, np.zeros((1, self.coupling.shape[1]))])
        return True

    def _outside(self, vector: Any, directions: list[Any]) -> Any:
        for direction in directions:
            vector = vector - (direction @ vector) * direction
        return vector

    def _others(self, chain: int) -> list[Any]:
        return [direction for index, direction in enumerate(self._directions) if index != chain]

    def _couple(self, chain: int, numbers: Floats, ended: bool) -> None:
        """New columns of C: ``numbers`` [steps, 1 + others], the way on and the shares of the other directions."""
        others = [index for index in range(self.open) if index != chain]
        size = self.coupling.shape[1]
        coupling = np.zeros((self.open, size + len(numbers)))
        coupling[:, :size] = self.coupling
        coupling[others, size:] = numbers[:, 1:].T
        if len(numbers):
            coupling[chain] = 0
            coupling[chain, -1] = numbers[-1, 0]
        if ended:
            coupling = np.delete(coupling, chain, 0)
            del self._directions[chain]
        self.coupling = coupling

    def _numbers(self, records: list[tuple[Any, ...]]) -> Floats:
        """Numbers of some steps [steps, ...], on the host."""
        numbers = self._host([number for record in records for number in record]).reshape(len(records), -1)
        bad = np.flatnonzero(~np.isfinite(numbers).all(1))
        if len(bad):
            raise not_finite(self._operator, self._what, self.products - self.cost * (len(records) - int(bad[0])) + 1)
        return numbers

    def _host(self, numbers: list[Any]) -> Floats:
        if self._operator.backend.is_abstract(numbers):
            raise CrelleTypeError(
                describe(
                    f"{self._operator!r}.{self._what} depends on numbers, which JAX does not have while it traces",
                    try_="ask outside of jax.jit, jax.vmap and jax.grad",
                )
            )
        return np.asarray(self._operator.backend.to_host(self._vectors.stack(numbers)), float)


class Krylov(Growing):
    """A Qᵀ = Qᵀ H + Pᵀ C, for orthonormal rows of Q and P together: Q [m, n] the space, P the directions that lead out.

    One starting vector and one direction make the Lanczos process: H is tridiagonal. Replacing Q by Ritz vectors is the
    thick restart of Wu and Simon (2000): H becomes diagonal with an arrow. Another starting vector, orthogonal to all,
    opens a chain of its own, which finds what the first one cannot see: further vectors of a multiple eigenvalue.
    The equation holds to rounding whatever was done, so that ‖C y‖ is the residual of a Ritz vector Qᵀ y.

    Attributes:
        projected: H [m, m], on the host.
    """

    def __init__(self, operator: Operator, what: str, basis: Basis | None = None) -> None:
        super().__init__(operator, what, basis)
        self.projected: Floats = np.zeros((0, 0))
        self._known: tuple[Floats, Floats, Floats] | None = None

    @property
    def scale(self) -> float:
        """A lower bound of ‖A‖ of its size: the largest norm of a column of H and C."""
        both = np.concatenate([self.projected, self.coupling])
        return float(np.sqrt((both**2).sum(0).max(initial=0.0)))

    def extend(self, steps: int, chain: int = -1) -> bool:
        """Take a direction into Q, multiply it by A, and so on: ``steps`` products, and numbers looked at once.

        Returns:
            Whether the chain goes on: False where it ended in an invariant subspace, after fewer steps maybe.

        Raises:
            CrelleValueError: a product is NaN or infinite.
            KeyboardInterrupt: what was done until then is kept.
        """
        chain %= self.open
        others, records = self._others(chain), []
        coupled = np.flatnonzero(self.coupling[chain])
        before = (
            (self.basis.row(int(coupled[0])), float(self.coupling[chain, coupled[0]])) if len(coupled) == 1 else None
        )
        twice = len(coupled) > 1
        q, size = self._directions[chain], self.size
        try:
            with np.errstate(all="ignore"):  # what is not finite is named below
                for _ in range(min(steps, self._operator.shape[0] - size - len(others))):
                    w = self._operator._products(q[None])[0]
                    self.products += 1
                    alpha = q @ w
                    w = w - alpha * q
                    if before is not None:
                        w = w - before[1] * before[0]
                    self.basis.append(q)
                    overlaps = [other @ w for other in others]
                    for _ in range(1 + twice):
                        w = self.basis.project_out(self._outside(w, others))
                    direction, beta = self._normalised(w)
                    records.append((alpha, beta, *overlaps))
                    before, q, twice = (q, beta), direction, False
                    self._directions[chain] = direction
        finally:
            alive = self._record(records, chain, size)
        return alive

    def _record(self, records: list[tuple[Any, ...]], chain: int, size: int) -> bool:
        """Take the numbers of some steps into H and C; what came after an invariant subspace is dropped."""
        self.basis.truncate(size + len(records))
        if not records:
            return True
        numbers = self._numbers(records)
        scale, ended = self.scale, False
        for count, (alpha, beta, *_) in enumerate(numbers, 1):
            scale = max(scale, float(np.hypot(alpha, beta)))
            ended = beta <= _ROUNDING * self.epsilon * scale or size + count + self.open > self._operator.shape[0]
            if ended:
                break
        numbers = numbers[:count]
        projected = np.zeros((size + count, size + count))
        projected[:size, :size] = self.projected
        projected[size, :size] = projected[:size, size] = self.coupling[chain]
        inner = np.arange(size, size + count)
        projected[inner, inner] = numbers[:, 0]
        projected[inner[:-1], inner[1:]] = projected[inner[1:], inner[:-1]] = numbers[:-1, 1]
        self.projected, self._known = projected, None
        self._couple(chain, numbers[:, 1:], ended)
        self.basis.truncate(size + count)
        return not ended

    def ritz(self) -> tuple[Floats, Floats, Floats]:
        """(values rising [m], residuals [m], coefficients [m, m] with a vector in each column)."""
        if self._known is None:
            values, coefficients = np.linalg.eigh(self.projected)
            self._known = values, np.linalg.norm(self.coupling @ coefficients, axis=0), coefficients
        return self._known

    def leading(self, index: int) -> int:
        """The direction with the largest share in the residual of a Ritz pair."""
        return int(np.argmax(np.abs(self.coupling @ self.ritz()[2][:, index])))

    def restart(self, kept: Any) -> None:
        """Keep the Ritz vectors at some positions only."""
        values, _, coefficients = self.ritz()
        coefficients = coefficients[:, kept]
        self.basis.replace(coefficients.T)
        self.projected, self.coupling, self._known = np.diag(values[kept]), self.coupling @ coefficients, None

    def vectors(self, places: Any) -> Any:
        """[k, n]: Ritz vectors."""
        return self.basis.combine(self.ritz()[2][:, places].T)


def not_finite(operator: Operator, what: str, product: int) -> CrelleValueError:
    """The error for a product that is not finite, by its number."""
    return CrelleValueError(
        describe(
            f"{operator!r}.{what}: product {product:,} with the matrix is NaN or infinite",
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
