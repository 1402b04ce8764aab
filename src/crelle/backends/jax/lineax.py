"""A linear solver for lineax, and with it for optimistix and diffrax: coloured products and a sparse factorisation."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import lineax.internal as lxi
import numpy as np
from jax import Array
from jax.custom_batching import sequential_vmap
from jax.experimental.sparse.linalg import spsolve
from jax.flatten_util import ravel_pytree

from crelle._errors import CrelleShapeError, describe
from crelle._transforms import jacobian

#: (entries, columns, row pointers) of a matrix in CSR form.
Csr = tuple[Array, Array, Array]
#: The matrix, its transpose, and what lineax notes of the trees on both sides.
State = tuple[Csr, Csr, Any]


class ColouredLU(lx.AbstractLinearSolver[State]):  # type: ignore[misc]  # lineax has no types
    """See :func:`crelle.interop.lineax_solver`."""

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> State:
        """The entries of the operator, from as many products with it as it has colours."""
        m, n = operator.out_size(), operator.in_size()
        if m != n:
            raise CrelleShapeError(
                describe(
                    f"crelle.interop.lineax_solver: the operator is {m:,} × {n:,}",
                    expected="a square one",
                    try_="lineax.LSMR() or lineax.QR() for least squares",
                )
            )
        zeros, shaped = ravel_pytree(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), operator.in_structure()))
        # arrays that the operator holds may be traced: as arguments they are no part of the pattern
        arrays, rest = eqx.partition(operator, eqx.is_array)

        def product(v: Array, arrays: Any) -> Array:
            return ravel_pytree(eqx.combine(arrays, rest).mv(shaped(v)))[0]

        rows, cols, values = jacobian(product, format="triplets", flatten=True)(zeros, arrays)
        order = np.lexsort((rows, cols))
        matrix = values, jnp.asarray(cols), _pointers(rows, n)
        transposed = values[order], jnp.asarray(rows[order]), _pointers(cols[order], n)
        return matrix, transposed, lxi.pack_structures(operator)

    def compute(self, state: State, vector: Any, options: dict[str, Any]) -> tuple[Any, lx.RESULTS, dict[str, Any]]:
        """A⁻¹ b for a matrix A, in trees of arrays."""
        (values, indices, indptr), _, packed = state
        found = _solved(values, indices, indptr, lxi.ravel_vector(vector, packed).astype(values.dtype))
        return lxi.unravel_solution(found, packed), lx.RESULTS.successful, {}

    def transpose(self, state: State, options: dict[str, Any]) -> tuple[State, dict[str, Any]]:
        """The state of Aᵀ: the two matrices change places."""
        matrix, transposed, packed = state
        return (transposed, matrix, lxi.transpose_packed_structures(packed)), options

    def conj(self, state: State, options: dict[str, Any]) -> tuple[State, dict[str, Any]]:
        """The state of the conjugate, which for a real matrix is the matrix."""
        matrix, transposed, packed = state
        return ((matrix[0].conj(), *matrix[1:]), (transposed[0].conj(), *transposed[1:]), packed), options

    def assume_full_rank(self) -> bool:
        """The matrix is taken to be regular."""
        return True


@sequential_vmap  # type: ignore[untyped-decorator]
def _solved(values: Array, indices: Array, indptr: Array, vector: Array) -> Array:
    """The solution of one system; of a batch of them, one after the other, since ``spsolve`` has no rule for it."""
    return spsolve(values, indices, indptr, vector)  # type: ignore[no-any-return]


def _pointers(rows: Any, count: int) -> Array:
    """Where each row begins among sorted rows."""
    return jnp.asarray(np.searchsorted(rows, np.arange(count + 1)).astype(np.int32))
