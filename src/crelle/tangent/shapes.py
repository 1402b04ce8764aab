"""Index arithmetic that backends share when they lower contractions, windows and bands to maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crelle.tangent.program import Move

Array = np.ndarray[Any, Any]
Csr = tuple[Array, Array]


def csr(matrix: Array) -> Csr:
    """(indptr, indices) of a boolean matrix."""
    at = np.nonzero(matrix)
    return np.append(0, np.cumsum(matrix.sum(1))), at[1].astype(np.int32)


def triangle(size: int, upper: bool) -> Csr:
    """The CSR pattern of a full triangle: row i reads up to i, or from i on."""
    rows = np.arange(size)
    grid = np.broadcast_to(rows, (size, size))
    inside = grid >= rows[:, None] if upper else grid <= rows[:, None]
    lengths = size - rows if upper else rows + 1
    return np.append(0, np.cumsum(lengths)), grid[inside].astype(np.int32)


def transposed(pattern: Csr, columns: int) -> Csr:
    """The CSR pattern of the transposed matrix."""
    indptr, indices = pattern
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    order = np.argsort(indices, kind="stable")
    return np.append(0, np.cumsum(np.bincount(indices, minlength=columns))), rows[order].astype(np.int32)


def axis_reads(
    size: int, window: int, stride: int, padding: tuple[int, int], base: int = 1, dilation: int = 1,
    length: int | None = None,
) -> Array:  # fmt: skip
    """What each window reads along one axis, [results, window], -1 outside; operand and window may be dilated."""
    span = (size - 1) * base + 1 if size else 0
    if length is None:
        length = max(0, (padding[0] + span + padding[1] - ((window - 1) * dilation + 1)) // stride + 1)
    at = np.arange(length)[:, None] * stride - padding[0] + np.arange(window) * dilation
    return np.where((at >= 0) & (at < span) & (at % base == 0), at // base, -1)


def window_reads(axes: Sequence[tuple[int, Array]]) -> Array:
    """For every result and tap the raveled place in space that is read, -1 outside: [S, T].

    Args:
        axes: of every axis its size, and what windows read along it.
    """
    place: Array = np.zeros((1, 1), np.int64)
    valid: Array = np.ones((1, 1), bool)
    for size, reads in axes:
        place = place[:, None, :, None] * size + np.maximum(reads, 0)[None, :, None, :]
        valid = valid[:, None, :, None] & (reads >= 0)[None, :, None, :]
        place, valid = (x.reshape(x.shape[0] * x.shape[1], -1) for x in (place, valid))
    return np.where(valid, place, -1)


def listed(reads: Array) -> Csr:
    """CSR of what each row reads, -1 left out."""
    return np.append(0, np.cumsum((reads >= 0).sum(1))), np.sort(reads, 1)[np.sort(reads >= 0, 1)]


def picking(index: Array, arrange: Move | None = None) -> Move:
    """out[i] = in[index[i]] over raveled elements, 0 where the index is -1; ``arrange`` comes first, if given."""

    def move(a: Any) -> Any:
        flat = (a if arrange is None else arrange(a)).reshape(-1)
        picked = flat[np.maximum(index, 0)] if flat.size else np.zeros(index.shape, a.dtype)
        return np.where(index < 0, np.zeros((), a.dtype), picked)

    return move


@dataclass(frozen=True, slots=True)
class Product:
    """A contraction as a mix: see :class:`crelle.tangent.program.Mix`."""

    into: Move
    out: Move
    pattern: Csr | None
    detail: str


def product(
    shape: Sequence[int], other: Sequence[int], keep: Array | None, contract: tuple[Sequence[int], Sequence[int]],
    batch: tuple[Sequence[int], Sequence[int]], first: bool, out_shape: tuple[int, ...],
) -> Product:  # fmt: skip
    """The contraction of a tangent with a coefficient.

    Args:
        shape, other: of the tangent and of the coefficient.
        keep: where the coefficient is not zero, if something is known of that.
        contract, batch: axes of the tangent, and of the coefficient.
        first: the tangent's free axes come before the coefficient's in the result; batch axes before both.
    """
    (c_mine, c_other), (b_mine, b_other) = contract, batch
    free = [a for a in range(len(shape)) if a not in (*c_mine, *b_mine)]
    free_o = [a for a in range(len(other)) if a not in (*c_other, *b_other)]
    b, k, f, fo = (
        [shape[a] for a in b_mine], [shape[a] for a in c_mine], [shape[a] for a in free], [other[a] for a in free_o],
    )  # fmt: skip
    nb, nk, nf, nfo = (int(np.prod(s, dtype=np.int64)) for s in (b, k, f, fo))
    pattern, per_batch = None, False
    if keep is not None:
        coefficient = keep.transpose((*b_other, *free_o, *c_other)).reshape(nb, nfo, nk)
        per_batch = nb > 1 and not bool((coefficient == coefficient[:1]).all())
        if per_batch:
            at = np.nonzero(coefficient)
            pattern = (np.append(0, np.cumsum(coefficient.sum(2).reshape(-1))), (at[0] * nk + at[2]).astype(np.int64))
        elif nb:
            pattern = csr(coefficient[0])

    def into(a: Any) -> Any:
        if per_batch:
            return a.transpose((*b_mine, *c_mine, *free)).reshape(nb * nk, nf)
        return a.transpose((*c_mine, *b_mine, *free)).reshape(nk, nb * nf)

    def out(a: Any) -> Any:
        if per_batch:
            whole = a.reshape(nb, nfo, nf)
        elif pattern is None:
            whole = np.broadcast_to(a.reshape(1, nb, nf), (nfo, nb, nf)).transpose(1, 0, 2)
        else:
            whole = a.reshape(nfo, nb, nf).transpose(1, 0, 2)
        whole = whole.reshape((*b, *fo, *f))
        if first:
            lead = len(b)
            order = (*range(lead), *range(lead + len(fo), whole.ndim), *range(lead, lead + len(fo)))
            whole = whole.transpose(order)
        return whole.reshape(out_shape)

    cells = nfo * nk * (nb if per_batch else 1)
    return Product(into, out, pattern, "" if pattern is None else f"{len(pattern[1]):,} of {cells:,} nonzero")


def band(rows: int, columns: int, low: int, high: int) -> Csr:
    """CSR of [rows, columns] with row i reading i + low ... i + high."""
    grid = np.arange(rows)[:, None] + np.arange(low, high + 1)
    inside = (grid >= 0) & (grid < columns)
    return np.append(0, np.cumsum(inside.sum(1))), grid[inside].astype(np.int32)


def band_columns(rows: int, columns: int, low: int, high: int) -> Csr:
    """CSR of [rows, columns] with column j read by rows j + low ... j + high."""
    return band(rows, columns, -high, -low)
