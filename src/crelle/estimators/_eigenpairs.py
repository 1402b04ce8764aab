"""Eigenvalues and eigenvectors of symmetric operators, with residuals and a look for those that were missed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from crelle._errors import CrelleTypeError, CrelleValueError, describe
from crelle.estimators._estimate import source_for, verify_limits
from crelle.estimators._krylov import Floats, Krylov
from crelle.estimators._pairs import dense_matrix, is_small, table, verify_count, verify_real, warn_of_none
from crelle.estimators._search import Indices, Search, rows_allowed
from crelle.operators._vectors import vectors_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from crelle.operators._operator import Operator

RTOL = 3e-4


def _ends(values: Floats, k: int) -> Indices:
    """Half from each end, one more from the upper; those from the upper end first."""
    order = np.argsort(-values, kind="stable")
    upper = min(-(-k // 2), len(values))
    lower = min(k - upper, len(values) - upper)
    return np.concatenate([order[:upper], order[len(order) - lower :][::-1]])


_WANTED: dict[str, tuple[str, Callable[[Floats, int], Indices]]] = {
    "LM": ("largest in size", lambda values, k: np.argsort(-np.abs(values), kind="stable")[:k]),
    "LA": ("largest", lambda values, k: np.argsort(-values, kind="stable")[:k]),
    "SA": ("smallest", lambda values, k: np.argsort(values, kind="stable")[:k]),
    "BE": ("from both ends", _ends),
    "SM": ("smallest in size", lambda values, k: np.argsort(np.abs(values), kind="stable")[:k]),
}


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """A v = λ v, for some eigenvalues λ of a symmetric A, the most wanted first.

    Attributes:
        values: λ [k].
        residuals: ‖A v - λ v‖ [k], for vectors of norm 1: there is an eigenvalue at most this far from each value.
            From the Lanczos process, whose bound is exact but for rounding, which is measured by one product.
        converged: which residuals are as small as was asked for [k].
        matrix: the vectors as columns [n, k], of the framework, on its device; ``None`` with ``vectors=False``.
        products: with A, that it took.
        which, method: what was asked for, and how it was found.
        rtol: the accuracy asked for.
        partial: it was interrupted, and is what was known by then.
        notes: how others were looked for, restarts, limits of precision.
    """

    values: Floats
    residuals: Floats
    converged: np.ndarray[Any, np.dtype[np.bool_]]
    matrix: Any
    products: int
    which: str
    method: str
    rtol: float
    partial: bool = False
    notes: tuple[str, ...] = ()
    _operator: Any = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def vectors(self) -> list[Any]:
        """The vectors as trees like the input, one for each value."""
        operator: Operator = self._operator
        trees: list[Any] = operator.domain.leave(self._columns("vectors").T)
        return trees

    def mass_by_leaf(self) -> tuple[Floats, tuple[str, ...]]:
        """(Σ v_i² over the elements of each leaf of the input [k, leaves], the names of the leaves).

        Rows sum to 1: the share of an eigenvector that lies in a layer.
        """
        operator: Operator = self._operator
        squares = self._columns("mass_by_leaf") ** 2
        leaves = operator.domain.slices
        columns = [operator.backend.to_host(squares[leaf].sum(0)) for leaf in leaves]
        names = operator.domain.names or tuple(str(i) for i in range(len(leaves)))
        return np.array(columns, float).reshape(len(leaves), len(self)).T, names

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw the eigenvalues over their ranks, with their residuals as error bars; ``kwargs`` go to the markers.

        Raises:
            CrelleImportError: matplotlib is not installed.
        """
        from crelle.estimators._picture_pairs import draw_values

        return draw_values(self, ax, **kwargs)

    def plot_mass(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw :meth:`mass_by_leaf`: a row for each leaf, a column for each vector; ``kwargs`` go to ``imshow``.

        Raises:
            CrelleImportError: matplotlib is not installed.
        """
        from crelle.estimators._picture_pairs import draw_mass

        return draw_mass(self, ax, **kwargs)

    def _columns(self, what: str) -> Any:
        if self.matrix is None:
            raise CrelleValueError(
                describe(f"Eigenpairs.{what}: the vectors were not kept", try_="A.eigsh(k) without vectors=False")
            )
        return self.matrix

    def __repr__(self) -> str:
        stopped = ", interrupted" if self.partial else ""
        done = int(self.converged.sum())
        return (
            f"Eigenpairs({len(self)} {_WANTED[self.which][0]}, {done} converged, {self.products:,} products{stopped})"
        )

    def __str__(self) -> str:
        stopped = ", interrupted" if self.partial else ""
        plural = "" if len(self) == 1 else "s"
        headline = f"{len(self)} eigenvalue{plural}, {_WANTED[self.which][0]}"
        headline += f"  ({self.method}, {self.products:,} products{stopped})"
        return table(headline, "eigenvalue", self, self.notes)


def eigsh(
    operator: Operator,
    k: int,
    which: str,
    rtol: float | None,
    budget: int | None,
    seed: int | None,
    key: Any,
    generator: Any,
    vectors: bool,
    what: str = "eigsh",
) -> Eigenpairs:
    """See :meth:`crelle.operators.Operator.eigsh`."""
    from crelle.operators._symmetry import verify_symmetry

    verify_symmetry(operator, what)
    verify_limits(operator, what, rtol, budget)
    verify_count(operator, what, k)
    verify_real(operator, what)
    if which not in _WANTED:
        raise CrelleValueError(
            describe(f"{operator!r}.{what}: which={which!r}", expected=", ".join(
                f'"{name}" ({text})' for name, (text, _) in _WANTED.items()))
        )  # fmt: skip
    accuracy = RTOL if rtol is None else rtol
    if k == 0 or is_small(operator, k, budget):
        return _dense(operator, what, k, which, accuracy, vectors)
    sought = which
    if which == "SM":
        if "psd" not in operator.tags:
            raise _inside(operator, what)
        sought = "SA"
    space, n = Krylov(operator, what), operator.shape[0]
    source, by = source_for(operator, what, seed, key, generator), np.abs if which == "LM" else np.asarray
    search = Search(space, source, n, _WANTED[sought][1], k, accuracy, by)
    found = search.run(what, rows_allowed(operator, what, k, n), budget)
    rows = space.vectors(found.places) if vectors else None
    values, notes = found.values, found.notes
    residuals, more = found.residuals, 0
    if len(values) and not found.partial and (budget is None or space.products < budget):
        first = space.vectors(found.places[:1]) if rows is None else rows[:1]
        residuals, more = _with_rounding(operator, first, values, residuals), 1
    if not found.converged.any() and not found.partial:
        warn_of_none(operator, what, space.products, accuracy)
    return Eigenpairs(
        values, residuals, found.converged, None if rows is None else rows.T, space.products + more, which, "Lanczos",
        accuracy, found.partial, notes, operator,
    )  # fmt: skip


def _with_rounding(operator: Operator, first: Any, values: Floats, residuals: Floats) -> Floats:
    """The residuals with what rounding adds, as seen at the first vector [1, n]: ‖A v - λ v‖ above its bound."""
    gap = (operator._products(first) - float(values[0]) * first)[0]
    seen = float(np.asarray(operator.backend.to_host((gap * gap).sum()), float)) ** 0.5
    together: Floats = np.hypot(residuals, max(seen**2 - float(residuals[0]) ** 2, 0.0) ** 0.5)
    return together


def _dense(operator: Operator, what: str, k: int, which: str, rtol: float, vectors: bool) -> Eigenpairs:
    """All eigenpairs of the dense matrix, on the host in double precision; k of them."""
    handle, n = vectors_of(operator.backend), operator.shape[0]
    like = handle.empty(operator.domain)
    if k == 0:
        rows, values, residuals, products = np.zeros((0, n)), np.zeros(0), np.zeros(0), 0
    else:
        matrix = dense_matrix(operator, what)
        everything, columns = np.linalg.eigh((matrix + matrix.T) / 2)
        places = _WANTED[which][1](everything, k)
        values, rows, products = everything[places], columns[:, places].T, n
        residuals = np.linalg.norm(matrix @ rows.T - values * rows.T, axis=0)
    kept = handle.from_host(rows, like).T if vectors else None
    return Eigenpairs(
        values, residuals, np.ones(k, bool), kept, products, which, "dense", rtol, False, (), operator
    )  # fmt: skip


def _inside(operator: Operator, what: str) -> CrelleTypeError:
    return CrelleTypeError(
        describe(
            f'{operator!r}.{what}(which="SM"): eigenvalues nearest to zero lie inside the spectrum, where '
            "products with the matrix alone do not reach",
            expected="a positive semidefinite matrix, or one with at most 200 rows",
            try_='which="BE" for both ends; scipy.sparse.linalg.eigsh(sigma=0) with a sparse Hessian; '
            "A.spectral_density() for how many are near zero",
        )
    )
