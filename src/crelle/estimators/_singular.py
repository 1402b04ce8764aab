"""Singular values and vectors of operators, with residuals and a look for those that were missed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from crelle._errors import CrelleValueError, describe
from crelle.estimators._bidiagonal import Bidiagonal
from crelle.estimators._estimate import source_for, verify_limits
from crelle.estimators._krylov import Floats
from crelle.estimators._pairs import dense_matrix, is_small, table, verify_count, verify_real, warn_of_none
from crelle.estimators._search import Indices, Search, rows_allowed
from crelle.operators._vectors import Source, vectors_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from crelle.operators._operator import Operator

RTOL = 3e-4


@dataclass(frozen=True, eq=False)
class SingularTriplets:
    """A v = σ u and Aᵀ u = σ v, for some singular values σ of A, the largest first.

    Attributes:
        values: σ [k].
        residuals: ‖(A v - σ u, Aᵀ u - σ v)‖ [k]: there is a singular value at most this far from each value.
        converged: which residuals are as small as was asked for [k].
        left, right: u and v as columns, [m, k] and [n, k]; ``None`` where they were not asked for.
        products: with A and Aᵀ together, that it took.
        method: how they were found.
        rtol: the accuracy asked for.
        partial: it was interrupted, and is what was known by then.
        notes: how others were looked for, restarts, limits of precision.
    """

    values: Floats
    residuals: Floats
    converged: np.ndarray[Any, np.dtype[np.bool_]]
    left: Any
    right: Any
    products: int
    method: str
    rtol: float
    partial: bool = False
    notes: tuple[str, ...] = ()
    _operator: Any = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def left_vectors(self) -> list[Any]:
        """u as trees like the output."""
        return self._trees(self.left, self._operator.codomain, "left_vectors")

    @property
    def right_vectors(self) -> list[Any]:
        """v as trees like the input."""
        return self._trees(self.right, self._operator.domain, "right_vectors")

    def _trees(self, columns: Any, space: Any, what: str) -> list[Any]:
        if columns is None:
            raise CrelleValueError(
                describe(f"SingularTriplets.{what}: the vectors were not kept", try_="A.svds(k) in place of svdvals")
            )
        trees: list[Any] = space.leave(columns.T)
        return trees

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw the singular values over their ranks, with their residuals as error bars.

        Raises:
            CrelleImportError: matplotlib is not installed.
        """
        from crelle.estimators._picture_pairs import draw_values

        return draw_values(self, ax, **kwargs)

    def __repr__(self) -> str:
        stopped = ", interrupted" if self.partial else ""
        done = int(self.converged.sum())
        return f"SingularTriplets({len(self)} largest, {done} converged, {self.products:,} products{stopped})"

    def __str__(self) -> str:
        stopped = ", interrupted" if self.partial else ""
        plural = "" if len(self) == 1 else "s"
        headline = f"{len(self)} singular value{plural}  ({self.method}, {self.products:,} products{stopped})"
        return table(headline, "singular value", self, self.notes)


def svds(
    operator: Operator,
    k: int | None,
    rtol: float | None,
    budget: int | None,
    seed: int | None,
    key: Any,
    generator: Any,
    vectors: bool,
    what: str = "svds",
) -> SingularTriplets:
    """See :meth:`crelle.operators.Operator.svds`."""
    verify_limits(operator, what, rtol, budget)
    k = min(operator.shape) if k is None else k
    verify_count(operator, what, k)
    verify_real(operator, what)
    accuracy = RTOL if rtol is None else rtol
    if k == 0 or is_small(operator, k, budget):
        return _dense(operator, what, k, accuracy, vectors)
    source = source_for(operator, what, seed, key, generator)
    m, n = operator.shape
    tall = operator if n <= m else operator.T
    space = Bidiagonal(tall, what)
    search = Search(space, source, min(m, n), _largest, k, accuracy)
    found = search.run(what, rows_allowed(operator, what, k, m + n), budget)
    values, residuals, places = found.values, found.residuals, found.places
    left = right = None
    if vectors:
        left, right = space.vectors(places)
        left = _filled(tall, left, len(places), source)
        left, right = (left.T, right.T) if n <= m else (right.T, left.T)
    if not found.converged.any() and not found.partial:
        warn_of_none(operator, what, space.products, accuracy)
    return SingularTriplets(
        values, residuals, found.converged, left, right, space.products, "Golub-Kahan-Lanczos", accuracy,
        found.partial, found.notes, operator,
    )  # fmt: skip


def _largest(values: Floats, k: int) -> Indices:
    return np.argsort(-values, kind="stable")[:k]


def _filled(tall: Operator, left: Any, count: int, source: Source) -> Any:
    """Left vectors for null vectors on the right: random ones, orthogonal to all others, which Aᵀ maps to zero too."""
    found = 0 if left is None else len(left)
    if found == count:
        return left
    vectors = vectors_of(tall.backend)
    fresh = source.normal(count - found, tall.shape[0])
    for _ in range(2 if found else 0):
        fresh = fresh - (fresh @ left.T) @ left
    fresh = vectors.orthonormal(fresh)[0]
    return vectors.concatenate([left, fresh]) if found else fresh


def _dense(operator: Operator, what: str, k: int, rtol: float, vectors: bool) -> SingularTriplets:
    """All of the dense matrix, on the host in double precision; k of them."""
    handle = vectors_of(operator.backend)
    m, n = operator.shape
    if k:
        matrix, products = dense_matrix(operator, what), min(m, n)
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        left, values, right = left[:, :k], values[:k], right[:k].T
        residuals = np.hypot(
            np.linalg.norm(matrix @ right - values * left, axis=0),
            np.linalg.norm(matrix.T @ left - values * right, axis=0),
        )
    else:
        left, values, right, residuals, products = np.zeros((m, 0)), np.zeros(0), np.zeros((n, 0)), np.zeros(0), 0
    ends: tuple[Any, Any] = (None, None)
    if vectors:
        ends = (
            handle.from_host(left, handle.empty(operator.codomain)),
            handle.from_host(right, handle.empty(operator.domain)),
        )
    return SingularTriplets(values, residuals, np.ones(k, bool), *ends, products, "dense", rtol, False, (), operator)
