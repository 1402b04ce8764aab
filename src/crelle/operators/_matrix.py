"""Operators of what the user has: a matrix, or a function that multiplies by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crelle._arrays import ArrayType
from crelle._errors import CrelleShapeError, CrelleTypeError, describe
from crelle.backends import framework_of, get_backend
from crelle.backends._protocol import Backend
from crelle.operators._operator import Operator
from crelle.operators._spaces import Space


class MatrixOperator(Operator):
    """A matrix [m, n] as an operator."""

    def __init__(self, matrix: Any, backend: Backend, tags: frozenset[str]) -> None:
        kind = backend.array_type(matrix)
        leaf = backend.flatten(matrix)[1]
        sides = [Space.of(backend, leaf, (ArrayType(kind.dtype, (size,), kind.device),)) for size in kind.shape]
        super().__init__(sides[1], sides[0], tags)
        self.matrix = matrix

    def _products(self, block: Any) -> Any:
        return block @ self.matrix.T

    def _adjoint_products(self, block: Any) -> Any:
        return block @ self.matrix


class FunctionOperator(Operator):
    """A user's products, for one flat vector at a time."""

    def __init__(
        self, push: Callable[[Any], Any], pull: Callable[[Any], Any], sides: tuple[Space, Space], tags: frozenset[str]
    ) -> None:
        super().__init__(*sides, tags)
        self._push, self._pull = push, pull

    def _products(self, block: Any) -> Any:
        return self._each(self._push, block, self.codomain)

    def _adjoint_products(self, block: Any) -> Any:
        return self._each(self._pull, block, self.domain)

    def _each(self, product: Callable[[Any], Any], block: Any, made: Space) -> Any:
        from crelle.operators._vectors import vectors_of

        vectors = vectors_of(self.backend)
        rows = [product(block[i]) for i in range(len(block))]
        for row in rows:
            if tuple(row.shape) != (made.size,):
                raise CrelleShapeError(
                    describe(f"{self!r}: a product returned {self.backend.array_type(row)}",
                             expected=str(ArrayType(made.dtype, (made.size,))))
                )  # fmt: skip
        return vectors.stack(rows) if rows else vectors.zeros(0, made.size, block)


def operator(
    matrix: Any,
    shape: tuple[int, int] | None = None,
    *,
    adjoint: Callable[[Any], Any] | None = None,
    like: Any = None,
    symmetric: bool = False,
    psd: bool = False,
) -> Operator:
    """y = A v for a matrix A of yours, or for a function that multiplies by it; with all that operators can do.

    Args:
        matrix: a 2-D array; an operator, to say that it is symmetric; or a function v [n] -> A v [m].
        shape: (m, n), for a function.
        adjoint: u [m] -> Aᵀ u [n], for a function that is not symmetric.
        like: an array of the framework, with the dtype and device of the vectors, for a function.
        symmetric, psd: A = Aᵀ; and vᵀAv ≥ 0 for all v. Taken at your word.

    Raises:
        CrelleTypeError: neither matrix nor function; a function without ``shape=`` and ``like=``.
        CrelleShapeError: an array that is no matrix.

    >>> import numpy as np
    >>> A = operator(np.array([[2.0, 1.0], [1.0, 3.0]]), symmetric=True)
    >>> A @ np.array([1.0, 1.0])
    array([3., 4.])
    """
    tags = frozenset(name for name, holds in (("symmetric", symmetric or psd), ("psd", psd)) if holds)
    if isinstance(matrix, Operator):
        from crelle.operators._algebra import Tagged

        if tags:
            matrix._verify_square("symmetric")
        return Tagged(matrix, matrix.tags | tags)
    framework = framework_of(matrix)
    if framework:
        backend = get_backend(framework)
        kind = backend.array_type(matrix)
        if len(kind.shape) != 2 or (tags and kind.shape[0] != kind.shape[1]):
            expected = "a square matrix" if tags else "a matrix"
            raise CrelleShapeError(describe(f"crelle.operator({kind})", expected=expected))
        if not (kind.is_float or kind.is_complex):
            matrix = matrix * 1.0
        return MatrixOperator(matrix, backend, tags)
    if not callable(matrix) or shape is None or like is None or not framework_of(like):
        raise CrelleTypeError(
            describe(
                f"crelle.operator({type(matrix).__name__}): not enough to make an operator of",
                expected="a 2-D array, or a function with shape=(m, n) and like= an array of the vectors' framework",
            )
        )
    if adjoint is None and not tags:
        raise CrelleTypeError(
            describe("crelle.operator(function): no products with the transposed matrix",
                     try_="adjoint= a function u -> Aᵀu, or symmetric=True")
        )  # fmt: skip
    backend = get_backend(framework_of(like) or "")
    kind = backend.array_type(like)
    m, n = (
        Space.of(backend, backend.flatten(like)[1], (ArrayType(kind.dtype, (size,), kind.device),)) for size in shape
    )
    return FunctionOperator(matrix, adjoint or matrix, (n, m), tags)
