"""Operators for SciPy: products of NumPy arrays on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from crelle.operators._vectors import vectors_of

if TYPE_CHECKING:
    from crelle.operators._operator import Operator


def to_scipy(operator: Operator) -> Any:
    """A ``LinearOperator`` whose products copy vectors to the device and back."""
    from scipy.sparse.linalg import LinearOperator

    backend, vectors = operator.backend, vectors_of(operator.backend)
    host = np.dtype("float32" if operator.dtype in ("bfloat16", "float16") else operator.dtype)
    like_in, like_out = (vectors.empty(space) for space in (operator.domain, operator.codomain))

    def product(block: Any) -> Any:
        found = operator._products(vectors.from_host(np.ascontiguousarray(block.T), like_in))
        return np.asarray(backend.to_host(found), host).T

    def adjoint(block: Any) -> Any:  # SciPy's is conjugated, too
        found = operator._adjoint_products(vectors.from_host(np.ascontiguousarray(block.conj().T), like_out))
        return np.asarray(backend.to_host(found), host).conj().T

    def vector(of: Any) -> Any:
        return lambda v: of(np.reshape(v, (-1, 1)))[:, 0]

    return LinearOperator(
        operator.shape, matvec=vector(product), rmatvec=vector(adjoint), matmat=product, rmatmat=adjoint, dtype=host
    )
