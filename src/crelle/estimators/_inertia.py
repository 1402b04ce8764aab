"""How many eigenvalues are negative, near zero, and positive: counted by factorisations, not estimated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crelle._errors import CrelleError, CrelleValueError, describe
from crelle.estimators._coloured import pattern_of
from crelle.estimators._krylov import precision
from crelle.estimators._pairs import dense_matrix, verify_real

if TYPE_CHECKING:
    from crelle.operators._operator import Operator

Floats = np.ndarray[Any, np.dtype[np.float64]]

#: Larger matrices are not made dense.
DENSE = 2048
#: Entries that a sparse factorisation may fill in.
_FILLED = 2 * 10**7
#: Share of entries from which a matrix is not taken as sparse.
_SPARSE = 0.2
_EPS = float(np.finfo(float).eps)


@dataclass(frozen=True)
class Inertia:
    """Counts of the eigenvalues of a symmetric matrix.

    Attributes:
        negative, zero, positive: eigenvalues below -t, from -t to t, and above t.
        tolerance: t.
        products: products with the operator that it took.
        method: how they were counted.
        notes: what a user should know.
    """

    negative: int
    zero: int
    positive: int
    tolerance: float
    products: int
    method: str
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """All of them."""
        return self.negative + self.zero + self.positive

    def __str__(self) -> str:
        return (
            f"{self.negative:,} negative, {self.zero:,} near zero (|λ| ≤ {self.tolerance:.2g}), "
            f"{self.positive:,} positive  ({self.method})"
        )


def inertia(operator: Operator, tolerance: float | None) -> Inertia:
    """See :meth:`crelle.Operator.inertia`."""
    operator._verify_symmetric("inertia")
    verify_real(operator, "inertia")
    if tolerance is not None and not tolerance >= 0:
        raise CrelleValueError(
            describe(f"{operator!r}.inertia: tolerance={tolerance!r}", expected="a size of eigenvalues, 0 or more")
        )
    n = operator.shape[0]
    if n <= DENSE:
        return _dense(operator, tolerance)
    matrix = sparse_matrix(operator)
    found = None if matrix is None else _sparse(matrix, tolerance, precision(operator))
    if found is None:
        raise CrelleValueError(
            describe(
                f"{operator!r}.inertia: {n:,} eigenvalues are too many for a dense factorisation (at most {DENSE:,}), "
                "and the matrix has no sparse one that fits",
                try_="A.spectral_density(), whose share(low, high) estimates these counts with an error; "
                "A.eigsh(k) for the ends of the spectrum",
            )
        )
    return found


def _dense(operator: Operator, tolerance: float | None) -> Inertia:
    n = operator.shape[0]
    matrix = dense_matrix(operator, "inertia")
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    if tolerance is None:
        tolerance = n * precision(operator) * float(np.abs(values).max(initial=0.0))
    negative, positive = int((values < -tolerance).sum()), int((values > tolerance).sum())
    return Inertia(negative, n - negative - positive, positive, tolerance, n, "dense eigenvalues")


# -- sparse


def sparse_matrix(operator: Operator) -> Any:
    """A symmetric operator's matrix in SciPy's CSC format; ``None`` where it is not known to be sparse."""
    from crelle.operators import _algebra
    from crelle.operators._derivatives import HessianOperator

    if isinstance(operator, HessianOperator):
        return _sparse_hessian(operator)
    if isinstance(operator, _algebra.Tagged):
        return sparse_matrix(operator.of)
    if isinstance(operator, _algebra.Scaled) and isinstance(operator.factor, (int, float)):
        inner = sparse_matrix(operator.of)
        return None if inner is None else operator.factor * inner
    if isinstance(operator, _algebra.Identity):
        from scipy.sparse import eye_array

        return eye_array(operator.shape[0], format="csc")
    if isinstance(operator, _algebra.Sum):
        terms = [sparse_matrix(term) for term in operator.terms]
        return None if any(t is None for t in terms) else sum(terms[1:], terms[0])
    return None


def _sparse_hessian(operator: Any) -> Any:
    from crelle._transforms import hessian

    call = operator._call
    options = {"argnums": call.request.argnums, "has_aux": call.request.has_aux}
    n = operator.shape[0]
    pattern = pattern_of(operator)
    if pattern is None or pattern.nnz > _SPARSE * n * n:
        return None
    try:
        with np.errstate(all="ignore"):
            found = hessian(call.f, format="csc", flatten=True, **options)(*call.args, **call.kwargs)
    except CrelleError:  # it cannot be traced, or is too large: products are what there is
        return None
    matrix = (found[0] if call.request.has_aux else found).astype(float)
    if not np.isfinite(matrix.data).all():
        raise CrelleValueError(
            describe(
                f"{operator!r}: the matrix holds NaN or infinity",
                likely="the function or its derivative overflows or is undefined at this point",
                try_="another point, or float64",
            )
        )
    return matrix


class _Unsafe(Exception):
    """A pivot is too small for what follows to be right."""


def _sparse(matrix: Any, tolerance: float | None, rounding: float) -> Inertia | None:
    from scipy.sparse import eye_array
    from scipy.sparse.linalg import norm

    n = matrix.shape[0]
    scale = float(norm(matrix, 1)) or 1.0
    order, width = _banded_order(matrix)
    if n * width > _FILLED:
        return None
    given = tolerance
    at = n * max(rounding, _EPS) * scale if tolerance is None else max(tolerance, n * _EPS * scale)
    matrix = matrix[order][:, order].tocsr()
    notes: tuple[str, ...] = ()
    for _ in range(8):
        try:
            below, above = (
                sum(int((s < 0).sum()) for s in schur_eigenvalues(matrix + sign * at * eye_array(n), width, at))
                for sign in (1.0, -1.0)
            )
        except _Unsafe:
            at *= 10
            continue
        if given is not None and at > given:
            notes = (f"near zero means |λ| ≤ {at:.2g}: less cannot be told from rounding",)
        return Inertia(below, above - below, n - above, at, 0, "sparse block LDLᵀ at two shifts", notes)
    return None


def _banded_order(matrix: Any) -> tuple[Any, int]:
    """(an order of rows and columns, the half bandwidth it leaves) (Cuthill and McKee 1969)."""
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    order = reverse_cuthill_mckee(matrix.tocsr(), symmetric_mode=True)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    entries = matrix.tocoo()
    rows, cols = entries.coords
    return order, max(1, int(np.abs(place[rows] - place[cols]).max(initial=0)))


def schur_eigenvalues(matrix: Any, width: int, smallest: float = 0.0) -> Any:
    """The eigenvalues of each diagonal block of a block LDLᵀ factorisation of a banded matrix.

    Their signs are those of the eigenvalues of the matrix, and their product is its determinant (Haynsworth 1968).
    A pivot so small that rounding may move eigenvalues by ``smallest`` is refused.
    """
    n = matrix.shape[0]
    size = max(width, 32)
    scale = float(np.abs(matrix.data).max(initial=0.0)) or 1.0
    before: Any = None
    for start in range(0, n, size):
        stop = min(start + size, n)
        block = matrix[start:stop, start:stop].toarray()
        if before is not None:
            last, values, vectors = before
            beside = matrix[start:stop, last:start].toarray() @ vectors
            block = block - (beside / values) @ beside.T
        values, vectors = np.linalg.eigh((block + block.T) / 2)
        least = float(np.abs(values).min())
        if least == 0 or (smallest and 10 * _EPS * max(scale, float(np.abs(values).max())) ** 2 > smallest * least):
            raise _Unsafe
        yield values
        before = start, values, vectors


def sparse_slogdet(matrix: Any) -> tuple[float, float] | None:
    """(sign, log|det|) of a sparse symmetric matrix by SuperLU; ``None`` where it does not fit."""
    from scipy.sparse.linalg import splu

    n = matrix.shape[0]
    if n * _banded_order(matrix)[1] > _FILLED:
        return None
    try:
        factors = splu(matrix.tocsc())
    except RuntimeError:  # exactly singular
        return 0.0, -np.inf
    pivots = factors.U.diagonal()
    if not pivots.all():
        return 0.0, -np.inf
    sign = float(np.prod(np.sign(pivots))) * _parity(factors.perm_r) * _parity(factors.perm_c)
    return sign, float(np.log(np.abs(pivots)).sum())


def _parity(order: Any) -> float:
    """The sign of a permutation: (-1)^(size - cycles)."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    n = len(order)
    graph = csr_array((np.ones(n, np.int8), (np.arange(n), order)), shape=(n, n))
    cycles = connected_components(graph, directed=False)[0]
    return -1.0 if (n - cycles) % 2 else 1.0
