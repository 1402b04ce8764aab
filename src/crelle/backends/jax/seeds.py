"""Unit vectors through a linear map, all at once or in chunks, and the part of the flat matrix that was asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from crelle._arrays import ArrayType
from crelle._select import Selected

Leaves = list[Any]
Linear = Callable[..., Leaves]
Index = np.ndarray[Any, Any]


def unit_seeds(ids: Any, types: Sequence[ArrayType]) -> Leaves:
    """For flat indices ``ids`` [k]: the k unit vectors, as leaves [k, *shape]."""
    leaves, offset = [], 0
    for t in types:
        hot = lax.broadcasted_iota(np.int32, (1, t.size), 1) == (ids - offset)[:, None]
        leaves.append(hot.astype(t.dtype).reshape(ids.shape[0], *t.shape))
        offset += t.size
    return leaves


def in_batches(apply: Callable[[Any], Leaves], count: int, chunk: int | None, axis: int, turn: int = 0) -> Leaves:
    """``apply`` on the numbers 0 to ``count``; in chunks, each written where it belongs (the last overlaps).

    Args:
        turn: how many other loops come before, in the same computation. Buffers of a loop are filled with a number of
            their own: XLA would make equal ones once, and copy them.
    """
    if chunk is None or chunk >= count:
        return apply(np.arange(count, dtype=np.int32))
    parts = jax.eval_shape(apply, jax.ShapeDtypeStruct((chunk,), np.int32))

    def grown(part: Any, fill: int) -> Any:
        shape = list(part.shape)
        shape[axis] = count
        return lax.full(shape, fill, part.dtype, sharding=getattr(part, "sharding", None))

    def body(i: Any, buffers: Leaves) -> Leaves:
        start = jnp.minimum(i * chunk, count - chunk).astype(np.int32)
        return [
            lax.dynamic_update_slice_in_dim(buffer, part, start, axis % buffer.ndim)
            for buffer, part in zip(buffers, apply(start + lax.iota(np.int32, chunk)), strict=True)
        ]

    buffers = [grown(part, turn * len(parts) + k) for k, part in enumerate(parts)]
    return list(lax.fori_loop(0, -(-count // chunk), body, buffers))


def batched(linear: Linear, axis: int) -> Callable[[Leaves], Leaves]:
    """A linear map on many seeds; the axis of seeds comes first in its arguments, and at ``axis`` in its results."""
    mapped: Callable[[Leaves], Leaves] = jax.vmap(lambda leaves: linear(*leaves), out_axes=axis)
    return mapped


def push_all(linear: Linear, seeded: Sequence[ArrayType], axis: int, chunk: int | None, turn: int = 0) -> Leaves:
    """The linear map on every unit vector."""
    mapped, count = batched(linear, axis), sum(t.size for t in seeded)
    return in_batches(lambda ids: mapped(unit_seeds(ids, seeded)), count, chunk, axis, turn)


def push_each(linear: Linear, seeded: Sequence[ArrayType], axis: int, chunk: int) -> list[Leaves]:
    """As :func:`push_all`, one seeded leaf at a time, so that no large result is cut up and copied."""
    results = []
    for j, t in enumerate(seeded):

        def only(leaf: Any, j: int = j) -> Leaves:
            return linear(*[leaf if i == j else jnp.zeros(s.shape, s.dtype) for i, s in enumerate(seeded)])

        results.append(push_all(only, [t], axis, chunk, turn=j))
    return results


def small_ints(colors: Index) -> Index:
    """Colours as the smallest integers that hold them."""
    return colors.astype(np.int8) if colors.max(initial=0) < 128 else colors


def colored_products(linear: Linear, colors: Any, count: int, types: Sequence[ArrayType], last: bool = False) -> Any:
    """The products with the seeds of all colours, raveled: product by product, or element by element if ``last``.

    Side by side, the products of an element-wise function or a stencil lie where they will be read together.
    """
    ids = jnp.arange(count, dtype=colors.dtype)
    if not last:
        return _of_colors(linear, colors, ids, types).reshape(-1)
    hot, start, leaves = colors[:, None] == ids, 0, []
    for t in types:
        leaves.append(hot[start : start + t.size].astype(t.dtype).reshape(*t.shape, count))
        start += t.size
    results = jax.vmap(lambda *leaves: linear(*leaves), in_axes=-1, out_axes=-1)(*leaves)
    parts = [r.reshape(-1, count) for r in results]
    return (parts[0] if len(parts) == 1 else jnp.concatenate(parts)).reshape(-1)


def colored_diagonal(linear: Linear, colors: Any, count: int, types: Sequence[ArrayType], chunk: int) -> Any:
    """What the product of each colour holds at the places of this colour, [size]; ``chunk`` products at a time."""

    def some(start: Any) -> Any:
        ids = start + jnp.arange(chunk, dtype=np.int32)
        found = _of_colors(linear, colors, ids, types)
        size = min(found.shape[1], len(colors))
        return jnp.where(colors[:size] == ids[:, None], found[:, :size], 0).sum(0)

    zeros = jnp.zeros_like(jax.eval_shape(some, jax.ShapeDtypeStruct((), np.int32)))
    return lax.fori_loop(0, -(-count // chunk), lambda i, diagonal: diagonal + some(i * chunk), zeros)


def _of_colors(linear: Linear, colors: Any, ids: Any, types: Sequence[ArrayType]) -> Any:
    """The products with the seeds of some colours, [k, size]."""

    def seeds(color: Any) -> Leaves:
        hot, start, leaves = colors == color, 0, []
        for t in types:
            leaves.append(hot[start : start + t.size].astype(t.dtype).reshape(t.shape))
            start += t.size
        return leaves

    def product(color: Any) -> Any:
        results = [r.reshape(-1) for r in linear(*seeds(color))]
        return results[0] if len(results) == 1 else jnp.concatenate(results)

    return jax.vmap(product)(ids)


class Part:
    """The part of a flat m × n matrix that was asked for, cut out batch by batch so that no more is ever kept.

    Args:
        side: whether seeds are the rows or the columns of the matrix.
        axis: whether they come first (0) or last (-1) in what is computed; a symmetric matrix allows for both.
    """

    def __init__(self, selected: Selected, side: str, axis: int, count: int) -> None:
        self.selected, self.side, self.axis = selected, side, axis
        seeds = selected.seeds(side, count)
        self.ids: Index = np.arange(count) if seeds is None else seeds
        self.other = selected.cols if side == "rows" else selected.rows
        self.table: Index | None = None
        if selected.entries is not None:  # for each seed the entries that are wanted of it, filled up with the first
            mine, others = selected.entries if side == "rows" else selected.entries[::-1]
            self.place = np.searchsorted(self.ids, mine)
            order = np.argsort(self.place, kind="stable")
            counts = np.bincount(self.place, minlength=len(self.ids))
            self.slot = np.empty_like(self.place)
            self.slot[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
            self.table = np.zeros((len(self.ids), max(counts, default=0)), np.int32)
            self.table[self.place, self.slot] = others

    def push(self, linear: Linear, seeded: Sequence[ArrayType], chunk: int | None, cast: Callable[[Any], Any]) -> Any:
        """The part, from the linear map."""
        mapped = batched(linear, self.axis)
        straight = np.array_equal(self.ids, np.arange(len(self.ids)))

        def apply(places: Any) -> Leaves:
            ids = places if straight else jnp.asarray(self.ids.astype(np.int32))[places]
            return [cast(self._cut(self._matrix(mapped(unit_seeds(ids, seeded))), places))]

        (matrix,) = in_batches(apply, len(self.ids), chunk, self.axis)
        return self._finished(matrix)

    def _matrix(self, leaves: Leaves) -> Any:
        flat = []
        for leaf in leaves:
            seeds, size = leaf.shape[self.axis], math.prod(leaf.shape[1:] if self.axis == 0 else leaf.shape[:-1])
            flat.append(leaf.reshape((seeds, size) if self.axis == 0 else (size, seeds)))
        return flat[0] if len(flat) == 1 else jnp.concatenate(flat, -1 - self.axis)

    def _cut(self, batch: Any, places: Any) -> Any:
        """What is wanted of some seeds."""
        if self.table is not None:
            wanted = jnp.asarray(self.table)[places]
            return jnp.take_along_axis(batch, wanted if self.axis == 0 else wanted.T, -1 - self.axis)
        if self.other is not None:
            return batch[:, self.other] if self.axis == 0 else batch[self.other]
        return batch

    def _finished(self, matrix: Any) -> Any:
        """Seeds in the order in which they were asked for, and single rows and columns without their axis."""
        selected = self.selected
        if self.table is not None:
            entries = matrix[(self.place, self.slot) if self.axis == 0 else (self.slot, self.place)]
            return entries[0] if selected.drop_row else entries
        wanted = selected.rows if self.side == "rows" else selected.cols
        if wanted is not None and not np.array_equal(wanted, self.ids):
            local = np.searchsorted(self.ids, wanted)
            matrix = matrix[local] if self.axis == 0 else matrix[:, local]
        if (self.side == "rows") != (self.axis == 0):
            matrix = matrix.T
        if selected.drop_col:
            matrix = matrix[:, 0]
        return matrix[0] if selected.drop_row else matrix
