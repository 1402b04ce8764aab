"""Golub-Kahan-Lanczos bidiagonalisation: a pair of spaces for singular values, with thick restarts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from crelle.estimators._basis import Basis
from crelle.estimators._krylov import _ROUNDING, Floats, Growing

if TYPE_CHECKING:
    from crelle.operators._operator import Operator


class Bidiagonal(Growing):
    """A Vᵀ = Uᵀ B and Aᵀ Uᵀ = Vᵀ Bᵀ + Pᵀ C, for orthonormal rows of U, and of V and P together; A [m, n] with n ≤ m.

    One starting vector makes B bidiagonal (Golub and Kahan 1965); replacing V and U by singular vectors of B is the
    thick restart of Baglama and Reichel (2005). Another starting vector opens a chain of its own. A chain also ends
    where A v adds nothing to U: B then has a column more than rows, and A a null vector.

    Attributes:
        projected: B [rows of U, rows of V], on the host.
        left: U; ``basis`` is V.
    """

    cost = 2

    def __init__(self, operator: Operator, what: str) -> None:
        super().__init__(operator, what)
        self.left = Basis(self._vectors)
        self.projected: Floats = np.zeros((0, 0))
        self._known: tuple[Floats, Floats, tuple[Floats, Floats]] | None = None

    @property
    def scale(self) -> float:
        """A lower bound of ‖A‖ of its size."""
        both = np.concatenate([self.projected.T, self.coupling])
        return float(np.sqrt((both**2).sum(0).max(initial=0.0)))

    def extend(self, steps: int, chain: int = -1) -> bool:
        """Take a direction v into V, A v into U, and so on: ``steps`` pairs of products, and numbers looked at once.

        Returns:
            Whether the chain goes on.

        Raises:
            CrelleValueError: a product is NaN or infinite.
            KeyboardInterrupt: what was done until then is kept.
        """
        chain %= self.open
        others, records = self._others(chain), []
        coupled = np.flatnonzero(self.coupling[chain])
        before = (
            (self.left.row(int(coupled[0])), float(self.coupling[chain, coupled[0]])) if len(coupled) == 1 else None
        )
        twice = len(coupled) > 1
        v, size, rows = self._directions[chain], self.size, self.left.count
        try:
            with np.errstate(all="ignore"):  # what is not finite is named below
                for _ in range(min(steps, self._operator.shape[1] - size - len(others))):
                    w = self._operator._products(v[None])[0]
                    if before is not None:
                        w = w - before[1] * before[0]
                    for _ in range(1 + twice):
                        w = self.left.project_out(w)
                    u, alpha = self._normalised(w)
                    z = self._operator._adjoint_products(u[None])[0] - alpha * v
                    self.products += 2
                    self.basis.append(v)
                    self.left.append(u)
                    overlaps = [other @ z for other in others]
                    direction, beta = self._normalised(self.basis.project_out(self._outside(z, others)))
                    records.append((alpha, beta, *overlaps))
                    before, v, twice = (u, beta), direction, False
                    self._directions[chain] = direction
        finally:
            alive = self._record(records, chain, size, rows)
        return alive

    def _record(self, records: list[tuple[Any, ...]], chain: int, size: int, rows: int) -> bool:
        """Take the numbers of some steps into B and C; what came after the end of a chain is dropped."""
        self.basis.truncate(size + len(records))
        self.left.truncate(rows + len(records))
        if not records:
            return True
        numbers = self._numbers(records)
        scale, ended, null = self.scale, False, False
        entering = np.linalg.norm(self.coupling[chain])
        for count, (alpha, beta, *_) in enumerate(numbers, 1):
            scale = max(scale, float(np.hypot(alpha, entering)), float(np.hypot(alpha, beta)))
            null = alpha <= _ROUNDING * self.epsilon * scale or rows + count > self._operator.shape[0]
            ended = null or beta <= _ROUNDING * self.epsilon * scale
            ended = ended or size + count + self.open > self._operator.shape[1]
            if ended:
                break
            entering = beta
        numbers, added = numbers[:count], count - int(null)
        projected = np.zeros((rows + added, size + count))
        projected[:rows, :size] = self.projected
        projected[:rows, size] = self.coupling[chain]
        at = np.arange(added)
        projected[rows + at, size + at] = numbers[:added, 0]
        projected[rows + at[: count - 1], size + 1 + at[: count - 1]] = numbers[: count - 1, 1]
        self.projected, self._known = projected, None
        self._couple(chain, numbers[:added, 1:], ended)
        self.basis.truncate(size + count)
        self.left.truncate(rows + added)
        return not ended

    def ritz(self) -> tuple[Floats, Floats, tuple[Floats, Floats]]:
        """(values falling, residuals, (coefficients of left vectors, of right ones)); null vectors last, value 0."""
        if self._known is None:
            left, values, right = np.linalg.svd(self.projected)
            residuals = np.zeros(self.size)
            residuals[: len(values)] = np.linalg.norm(self.coupling @ left, axis=0)
            self._known = np.pad(values, (0, self.size - len(values))), residuals, (left, right.T)
        return self._known

    def leading(self, index: int) -> int:
        """The direction with the largest share in the residual of a pair."""
        return int(np.argmax(np.abs(self.coupling @ self.ritz()[2][0][:, index])))

    def restart(self, kept: Any) -> None:
        """Keep the singular vectors at some positions only."""
        values, _, (left, right) = self.ritz()
        kept = np.sort(kept)
        pairs = kept[kept < len(left)]
        self.basis.replace(right[:, kept].T)
        self.left.replace(left[:, pairs].T)
        self.projected = np.eye(len(pairs), len(kept)) * values[kept]
        self.coupling, self._known = self.coupling @ left[:, pairs], None

    def vectors(self, places: Any) -> tuple[Any, Any]:
        """(left [k, m], right [k, n]): singular vectors; those of U are fewer where A has null vectors, or ``None``."""
        left, right = self.ritz()[2]
        pairs = places[places < len(left)]
        return self.left.combine(left[:, pairs].T), self.basis.combine(right[:, places].T)
