"""CSR arrays of matrices of other libraries. Frameworks are recognised by their types and never imported."""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

import numpy as np

from crelle._errors import CrelleShapeError, CrelleTypeError, describe
from crelle.pattern._csr import Ints, Shape, check_csr, csr_of_triplets, in_order, read_shape

Csr: TypeAlias = tuple[Shape, Ints, Ints]

_ACCEPTED = (
    "a SparsityPattern, a SciPy sparse matrix or array, a JAX BCOO or BCSR, a PyTorch tensor (dense, COO, CSR or CSC), "
    "a dense array, or a list of rows"
)


def csr_of(thing: Any) -> Csr:
    """Shape, indptr and indices of whatever kind of matrix this is; of sparse ones, everything that is stored."""
    scipy_sparse, torch = sys.modules.get("scipy.sparse"), sys.modules.get("torch")
    if scipy_sparse is not None and scipy_sparse.issparse(thing):
        return _of_scipy(thing)
    if torch is not None and isinstance(thing, torch.Tensor):
        return _of_torch(thing, torch)
    if (kind := _jax_kind(thing)) is not None:
        return _of_jax(thing, kind)
    return csr_of_dense(thing)


def csr_of_dense(matrix: Any) -> Csr:
    """Shape, indptr and indices of what is not zero."""
    try:
        array = np.asarray(matrix)
    except ValueError as error:
        raise CrelleShapeError(
            describe("the rows are not of one length", expected="a matrix", likely=str(error).partition(".")[0])
        ) from None
    if array.dtype.kind not in "biufc" and "float" not in array.dtype.name:  # JAX's bfloat16 and float8 are of kind V
        raise CrelleTypeError(describe(f"{_type_name(matrix)} is not a matrix of numbers", expected=_ACCEPTED))
    _two_dimensions(array.shape, matrix)
    offsets = np.zeros(array.shape[0] + 1, np.int64)
    np.cumsum(np.count_nonzero(array, axis=1), out=offsets[1:])
    return (array.shape[0], array.shape[1]), offsets, np.nonzero(array)[1]


def _of_scipy(matrix: Any) -> Csr:
    _two_dimensions(matrix.shape, matrix)
    if matrix.format in ("csr", "csc"):
        return _compressed(matrix.shape, matrix.indptr, matrix.indices, by_column=matrix.format == "csc")
    if matrix.format == "dia":
        # The conversion of diagonals leaves out zeros, which are stored like any other value.
        matrix = type(matrix)((np.ones(matrix.data.shape, bool), matrix.offsets), shape=matrix.shape)
    entries = matrix.tocoo()
    return _triplets(entries.row, entries.col, matrix.shape)


def _of_torch(tensor: Any, torch: Any) -> Csr:
    _two_dimensions(tensor.shape, tensor)
    layout = tensor.layout
    if layout is torch.strided:
        # The comparison is PyTorch's own because NumPy has no bfloat16.
        return csr_of_dense((tensor.detach() != 0).cpu().numpy())
    if getattr(tensor, "dense_dim", int)() == 0:
        if layout is torch.sparse_coo:
            rows, cols = tensor._indices().cpu().numpy()  # also of tensors that are not coalesced
            return _triplets(rows, cols, tensor.shape)
        if layout is torch.sparse_csr:
            return _compressed(tensor.shape, tensor.crow_indices().cpu().numpy(), tensor.col_indices().cpu().numpy())
        if layout is torch.sparse_csc:
            offsets, rows = tensor.ccol_indices().cpu().numpy(), tensor.row_indices().cpu().numpy()
            return _compressed(tensor.shape, offsets, rows, by_column=True)
    raise CrelleTypeError(
        describe(
            f"{_type_name(tensor)} of layout {layout} with {tensor.dense_dim()} dense dimensions is not supported",
            expected=_ACCEPTED,
            try_="tensor.to_dense() where it is small",
        )
    )


def _jax_kind(thing: Any) -> str | None:
    """BCOO or BCSR, or None if it is neither."""
    for cls in type(thing).__mro__:
        if cls.__module__.startswith("jax.experimental.sparse") and cls.__name__ in ("BCOO", "BCSR"):
            return cls.__name__
    return None


def _of_jax(matrix: Any, kind: str) -> Csr:
    _two_dimensions(matrix.shape, matrix)
    if matrix.n_batch or matrix.n_dense:
        raise CrelleTypeError(
            describe(
                f"a {kind} with n_batch={matrix.n_batch} and n_dense={matrix.n_dense} is not supported",
                expected="n_batch=0 and n_dense=0",
                try_="jax.experimental.sparse.bcoo_update_layout(matrix, n_batch=0, n_dense=0)",
            )
        )
    if any(cls.__name__ == "Tracer" for cls in type(matrix.indices).__mro__):
        raise CrelleTypeError(
            describe(
                f"the indices of this {kind} are not known while jax.jit or another transformation traces",
                try_="make the pattern outside, and capture it",
            )
        )
    indices = np.asarray(matrix.indices)
    if kind == "BCSR":
        indptr = np.asarray(matrix.indptr)
        return _compressed(matrix.shape, indptr, indices[: indptr[-1]])
    # What lies beyond the shape is padding, which JAX leaves there where the number of entries has to stay.
    inside = (indices < np.array(matrix.shape)).all(axis=1)
    return _triplets(indices[inside, 0], indices[inside, 1], matrix.shape)


def _triplets(rows: Ints, cols: Ints, shape: Any) -> Csr:
    size = read_shape(shape)
    return size, *csr_of_triplets(rows, cols, size)


def _compressed(shape: Any, indptr: Ints, indices: Ints, *, by_column: bool = False) -> Csr:
    """Checked, sorted, without duplicates; nothing is shared with the matrix, which may change."""
    m, n = read_shape(shape)
    size = (n, m) if by_column else (m, n)
    indices = indices[: indptr[-1]]  # SciPy allows room at the end
    check_csr(size, indptr, indices, in_order=False)
    indptr, indices = in_order(size, indptr, indices)
    if by_column:
        from scipy.sparse import csc_array

        matrix = csc_array((np.ones(indices.size, bool), indices, indptr), shape=(m, n)).tocsr()
        indptr, indices = matrix.indptr, matrix.indices
    return (m, n), indptr, indices


def _two_dimensions(shape: Any, thing: Any) -> None:
    if len(shape) != 2:
        raise CrelleShapeError(
            describe(
                f"{_type_name(thing)} has shape {tuple(shape)}",
                expected="two dimensions: a pattern is one of a matrix",
                try_="reshape it, a vector to (1, n) or (n, 1)" if len(shape) == 1 else None,
            )
        )


def _type_name(thing: Any) -> str:
    module, name = type(thing).__module__.partition(".")[0], type(thing).__qualname__
    return name if module == "builtins" else f"{module}.{name}"
