"""Index arrays of a pattern: what makes them valid, and how they are made from triplets and unsorted rows."""

from __future__ import annotations

import operator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from crelle._errors import CrelleError, CrelleShapeError, CrelleTypeError, CrelleValueError, describe

Shape: TypeAlias = tuple[int, int]
Ints: TypeAlias = npt.NDArray[Any]

_SORTS = "SparsityPattern.from_triplets(rows, cols, shape), which sorts and drops duplicates"


def index_dtype(shape: Shape, nnz: int) -> np.dtype[Any]:
    """int32 while all indices and offsets fit, int64 otherwise: equal patterns then have equal bytes."""
    return np.dtype(np.int32 if max(*shape, nnz) <= np.iinfo(np.int32).max else np.int64)


def read_shape(shape: Any) -> Shape:
    """Two numbers of rows and columns, or an error that says what came instead."""
    try:
        m, n = (operator.index(size) for size in shape)
    except (TypeError, ValueError):
        raise CrelleShapeError(
            describe(f"shape={shape!r} is not the shape of a matrix", expected="(rows, columns), two integers")
        ) from None
    if m < 0 or n < 0:
        raise CrelleShapeError(describe(f"shape={(m, n)} is negative", expected="(rows, columns), none below zero"))
    return m, n


def read_ints(values: Any, name: str) -> Ints:
    """A vector of integers, not copied if it is one."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise CrelleShapeError(
            describe(f"{name} has shape {array.shape}", expected="a vector", try_=f"pass {name}.ravel() if it is one")
        )
    if array.dtype.kind not in "iu" and array.size:
        raise CrelleTypeError(
            describe(
                f"{name} holds {array.dtype}", expected="integers", try_=f"pass {name}.astype(int) if they are whole"
            )
        )
    return array if array.dtype.kind in "iu" else array.astype(np.int32)


def check_csr(shape: Shape, indptr: Ints, indices: Ints, *, in_order: bool = True) -> None:
    """Raise unless this is CSR: offsets from 0 to nnz, columns in range and, if `in_order`, rising in each row."""
    called = f"SparsityPattern({shape}, indptr[{indptr.size:,}], indices[{indices.size:,}])"
    m, n = shape

    def wrong(kind: type[CrelleError], headline: str, expected: str, try_: str | None = None) -> CrelleError:
        return kind(describe(headline, called=called, expected=expected, try_=try_))

    if indptr.size != m + 1:
        likely = (
            "transpose the shape, or pass the arrays of a CSR matrix (.tocsr()), not of a CSC matrix"
            if indptr.size == n + 1
            else f"pass rows instead of offsets to {_SORTS}"
            if indptr.size == indices.size
            else None
        )
        raise wrong(
            CrelleShapeError, f"indptr has {indptr.size:,} entries", f"{m + 1:,}: one more than there are rows", likely
        )
    if indptr[0] != 0:
        raise wrong(CrelleValueError, f"indptr begins with {indptr[0]:,}", "0, where row 0 begins in indices")
    falls = indptr[1:] < indptr[:-1]
    if falls.any():
        row = int(falls.argmax())
        raise wrong(
            CrelleValueError,
            f"indptr falls from {indptr[row]:,} to {indptr[row + 1]:,} at row {row:,}",
            "offsets that never fall: row i is indices[indptr[i]:indptr[i + 1]]",
            f"if these are row numbers and not offsets, use {_SORTS}",
        )
    if indptr[-1] != indices.size:
        raise wrong(
            CrelleShapeError,
            f"indptr ends with {indptr[-1]:,}, and indices has {indices.size:,} entries",
            "the same number in both",
        )
    if not indices.size:
        return
    if indices.min() < 0 or indices.max() >= n:
        place = int(((indices < 0) | (indices >= n)).argmax())
        raise wrong(
            CrelleValueError,
            f"row {_row_of(indptr, place):,} holds column {indices[place]:,}",
            f"columns from 0 to {n - 1:,}" if n else "no entries: there are no columns",
            "subtract 1 if the indices count from 1" if indices.min() == 1 and indices.max() == n else None,
        )
    if in_order:
        stays = indices[1:] <= indices[:-1]
        stays[indptr[1:-1][(indptr[1:-1] > 0) & (indptr[1:-1] < indices.size)] - 1] = False
        if stays.any():
            place = int(stays.argmax()) + 1
            row, column, before = _row_of(indptr, place), indices[place], indices[place - 1]
            what = f"column {column:,} twice" if column == before else f"column {column:,} after column {before:,}"
            raise wrong(
                CrelleValueError, f"row {row:,} holds {what}", "columns that rise within each row", f"use {_SORTS}"
            )


def in_order(shape: Shape, indptr: Ints, indices: Ints) -> tuple[Ints, Ints]:
    """The same pattern with sorted rows and no duplicates. The arrays are those of valid CSR but for the order."""
    from scipy.sparse import csr_array

    dtype = index_dtype(shape, indices.size)
    # Sorting is in place, so the indices are copied.
    matrix = csr_array((np.ones(indices.size, bool), indices.astype(dtype), indptr.astype(dtype)), shape=shape)
    matrix.sum_duplicates()
    return matrix.indptr, matrix.indices


def csr_of_triplets(rows: Ints, cols: Ints, shape: Shape) -> tuple[Ints, Ints]:
    """CSR of entries (rows[k], cols[k]) in any order, repeated or not."""
    called = f"SparsityPattern.from_triplets(rows[{rows.size:,}], cols[{cols.size:,}], {shape})"
    if rows.size != cols.size:
        raise CrelleShapeError(
            describe("rows and cols differ in length", called=called, expected="one row and one column for each entry")
        )
    for name, values, size in (("row", rows, shape[0]), ("column", cols, shape[1])):
        if values.size and (values.min() < 0 or values.max() >= size):
            place = int(((values < 0) | (values >= size)).argmax())
            one = values.min() == 1 and values.max() == size
            raise CrelleValueError(
                describe(
                    f"entry {place:,} is in row {rows[place]:,}, column {cols[place]:,}",
                    called=called,
                    expected=f"{name}s from 0 to {size - 1:,}" if size else f"no entries: there are no {name}s",
                    try_="subtract 1 if the indices count from 1" if one else None,
                )
            )
    from scipy.sparse import coo_array

    dtype = index_dtype(shape, rows.size)
    entries = (rows.astype(dtype, copy=False), cols.astype(dtype, copy=False))
    matrix = coo_array((np.ones(rows.size, bool), entries), shape=shape).tocsr()
    matrix.sum_duplicates()
    return matrix.indptr, matrix.indices


def _row_of(indptr: Ints, place: int) -> int:
    """The row that holds the entry at this place of indices."""
    return int(np.searchsorted(indptr, place, side="right")) - 1
