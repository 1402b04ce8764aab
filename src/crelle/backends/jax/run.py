"""Running a method in JAX: seeds through a linearisation, all at once or in chunks. Works under every transformation.

``g`` is a function of the active leaves that returns ``(outputs, aux)``, both flat lists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex

from crelle._arrays import ArrayType, total_size

Leaves = list[Any]
Flat = Callable[..., tuple[Leaves, Leaves]]
Linear = Callable[..., Leaves]

#: Below this many bytes in one batch of tangents, XLA may recompute coefficients inside a fusion; above it, they are
#: kept apart. Recomputing a sine for each of 2,000 seeds made an element-wise Jacobian five times slower (CPU, f64).
BARRIER_BYTES = 1 << 18


def linear_program(linear: Linear, types: Sequence[ArrayType]) -> jex.ClosedJaxpr:
    """The jaxpr of a linear function; its constants are the coefficients."""
    return jax.make_jaxpr(linear)(*[jax.ShapeDtypeStruct(t.shape, t.dtype) for t in types])


def _kept_apart(linear: Linear, types: Sequence[ArrayType], seeds: int) -> Linear:
    """The same linear function, with its coefficients computed once rather than once per seed."""
    program = linear_program(linear, types)
    widest = max((v.aval.size * v.aval.dtype.itemsize for e in program.jaxpr.eqns for v in e.outvars), default=0)
    if widest * seeds < BARRIER_BYTES or not program.consts:
        return linear
    consts = lax.optimization_barrier(program.consts)
    return jex.jaxpr_as_fun(jex.ClosedJaxpr(program.jaxpr, consts))  # type: ignore[no-any-return]


def unit_seeds(ids: Any, types: Sequence[ArrayType]) -> Leaves:
    """For flat indices ``ids`` [k]: the k unit vectors, as leaves [k, *shape]."""
    leaves, offset = [], 0
    for t in types:
        hot = lax.broadcasted_iota(np.int32, (1, t.size), 1) == (ids - offset)[:, None]
        leaves.append(hot.astype(t.dtype).reshape(ids.shape[0], *t.shape))
        offset += t.size
    return leaves


def in_batches(apply: Callable[[Any], Leaves], ids: Any, chunk: int | None, axis: int) -> Leaves:
    """``apply`` on all seeds; in chunks, each written into the result where it belongs (the last overlaps)."""
    count = ids.shape[0]
    if chunk is None or chunk >= count:
        return apply(jnp.asarray(ids))
    parts = jax.eval_shape(apply, jax.ShapeDtypeStruct((chunk,), np.int32))

    def grown(part: Any) -> Any:
        shape = list(part.shape)
        shape[axis] = count
        return jnp.zeros(shape, part.dtype)

    table = None if isinstance(ids, np.ndarray) and np.array_equal(ids, np.arange(ids[0], ids[0] + count)) else ids

    def body(i: Any, buffers: Leaves) -> Leaves:
        start = jnp.minimum(i * chunk, count - chunk).astype(np.int32)
        if table is None:
            some = start + int(ids[0]) + lax.iota(np.int32, chunk)
        else:
            some = lax.dynamic_slice_in_dim(jnp.asarray(table), start, chunk)
        return [
            lax.dynamic_update_slice_in_dim(buffer, part, start, axis % buffer.ndim)
            for buffer, part in zip(buffers, apply(some), strict=True)
        ]

    return list(lax.fori_loop(0, -(-count // chunk), body, [grown(p) for p in parts]))


def _index(indices: Any, count: int) -> np.ndarray[Any, Any]:
    return np.arange(count, dtype=np.int32) if indices is None else np.asarray(indices, np.int32)


def linearise(g: Flat, active: Leaves, mode: str) -> tuple[Leaves, Leaves, Linear]:
    """Value, aux, and the linear map of ``mode``: ``forward`` v ↦ Jv, ``reverse`` u ↦ Jᵀu."""
    if mode == "forward":
        outputs, push, aux = jax.linearize(g, *active, has_aux=True)
        return outputs, aux, push
    outputs, pull, aux = jax.vjp(g, *active, has_aux=True)
    return outputs, aux, lambda *u: list(pull(list(u)))


def linearise_gradient(g: Flat, active: Leaves, mode: str, holomorphic: bool) -> tuple[Leaves, Leaves, Linear]:
    """Value, aux, and v ↦ Hv for a scalar g, in one of three nestings."""

    def value(*leaves: Any) -> tuple[Any, tuple[Leaves, Leaves]]:
        outputs, aux = g(*leaves)
        return outputs[0], (outputs, aux)

    positions = tuple(range(len(active)))
    if mode == "reverse-over-forward":
        outputs, aux = g(*active)

        def product(*v: Any) -> Leaves:
            def slope(*leaves: Any) -> Any:
                return jax.jvp(lambda *a: value(*a)[0], leaves, v)[1]

            return list(jax.grad(slope, positions, holomorphic=holomorphic)(*active))

        return outputs, aux, product

    gradient = jax.grad(value, positions, has_aux=True, holomorphic=holomorphic)
    if mode == "forward-over-reverse":
        _, push, (outputs, aux) = jax.linearize(gradient, *active, has_aux=True)
        return outputs, aux, lambda *v: list(push(*v))
    _, pull, (outputs, aux) = jax.vjp(gradient, *active, has_aux=True)
    return outputs, aux, lambda *u: list(pull(u))


def second_forward(g: Flat, active: Leaves) -> Callable[[Leaves, Leaves], Any]:
    """(v, w) ↦ vᵀHw by two nested forward passes."""

    def slope(leaves: Leaves, v: Leaves) -> Any:
        return jax.jvp(lambda *a: g(*a)[0][0], tuple(leaves), tuple(v))[1]

    return lambda v, w: jax.jvp(lambda *a: slope(list(a), v), tuple(active), tuple(w))[1]


class Blocks:
    """The answer before it takes the user's shape: blocks[i][j] of shape outer_i.shape + inner_j.shape."""

    def __init__(self, outer: Sequence[ArrayType], inner: Sequence[ArrayType]) -> None:
        self.outer, self.inner = outer, inner

    def split(self, leaves: Leaves, side: str) -> list[Leaves]:
        """Cut leaves with a seed axis into blocks: seeds last for columns, first for rows."""
        seeded, other = (self.inner, self.outer) if side == "cols" else (self.outer, self.inner)
        axis = -1 if side == "cols" else 0
        cuts = np.cumsum([t.size for t in seeded])[:-1]
        grid = []
        for leaf, t in zip(leaves, other, strict=True):
            parts = jnp.split(leaf, cuts, axis) if len(seeded) > 1 else [leaf]
            shapes = [t.shape + s.shape if side == "cols" else s.shape + t.shape for s in seeded]
            grid.append([part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)])
        return grid if side == "cols" else [list(row) for row in zip(*grid, strict=True)]

    def matrix(self, leaves: Leaves, side: str) -> Any:
        """The flat matrix, rows first, of leaves with a seed axis."""
        if side == "cols":
            flat = [leaf.reshape(-1, leaf.shape[-1]) for leaf in leaves]
            return flat[0] if len(flat) == 1 else jnp.concatenate(flat, 0)
        flat = [leaf.reshape(leaf.shape[0], -1) for leaf in leaves]
        return flat[0] if len(flat) == 1 else jnp.concatenate(flat, 1)


def push_seeds(
    linear: Linear,
    seeded: Sequence[ArrayType],
    ids: Any,
    side: str,
    chunk: int | None,
) -> Leaves:
    """The linear map on unit seeds; the seed axis of the results is last for columns and first for rows."""
    axis = -1 if side == "cols" else 0
    count = ids.shape[0]
    steady = _kept_apart(linear, seeded, min(chunk or count, count))
    mapped = jax.vmap(lambda leaves: steady(*leaves), out_axes=axis)
    return in_batches(lambda some: mapped(unit_seeds(some, seeded)), ids, chunk, axis)


def per_leaf(
    linear: Linear, seeded: Sequence[ArrayType], side: str, chunk: int
) -> list[Leaves]:
    """As :func:`push_seeds`, one seeded leaf at a time, so that no large result is cut up and copied."""
    results = []
    for j, t in enumerate(seeded):

        def only(leaf: Any, j: int = j) -> Leaves:
            return linear(*[leaf if i == j else jnp.zeros(s.shape, s.dtype) for i, s in enumerate(seeded)])

        results.append(push_seeds(only, [t], _index(None, t.size), side, chunk))
    return results


def answer(
    g: Flat,
    active: Leaves,
    inputs: Sequence[ArrayType],
    outputs: Sequence[ArrayType],
    method: Any,
    *,
    flat: bool,
    hessian: bool,
    holomorphic: bool,
) -> tuple[Any, Leaves, Leaves]:
    """(blocks or flat matrix, value, aux) by one method."""
    outer = inputs if hessian else outputs
    blocks = Blocks(outer, inputs)
    m, n = total_size(tuple(outer)), total_size(tuple(inputs))
    if not m or not n:
        values, aux = g(*active)
        empty = [[jnp.zeros(o.shape + i.shape, jnp.result_type(o.dtype, i.dtype)) for i in inputs] for o in outer]
        kind = jnp.result_type(*[t.dtype for t in (*outer, *inputs)])
        return (method.selected.apply(jnp.zeros((m, n), kind), "rows", m) if flat else empty), values, aux
    if method.mode == "forward-over-forward":
        return _symmetric(g, active, inputs, method, flat, blocks)
    if hessian:
        values, aux, linear = linearise_gradient(g, active, method.mode, holomorphic)
        side, seeded = "rows", inputs  # a row is a column: seeds first needs no transposition
    else:
        values, aux, linear = linearise(g, active, method.mode)
        side, seeded = ("cols", inputs) if method.mode == "forward" else ("rows", outputs)
    if not flat and method.chunk is not None and len(seeded) > 1:
        pieces = per_leaf(linear, seeded, side, method.chunk)
        one = [
            Blocks([s], inputs) if side == "rows" else Blocks(outer, [s]) for s in seeded
        ]
        grids = [b.split(piece, side) for b, piece in zip(one, pieces, strict=True)]
        if side == "rows":
            return [grid[0] for grid in grids], values, aux
        return [[grid[i][0] for grid in grids] for i in range(len(outer))], values, aux
    count = total_size(tuple(seeded))
    wanted = method.selected.seeds(method.side, count) if flat else None
    leaves = push_seeds(linear, seeded, _index(wanted, count), side, method.chunk)
    if not flat:
        return blocks.split(leaves, side), values, aux
    matrix = blocks.matrix(leaves, side)
    if hessian and method.side == "cols":
        matrix = matrix.T
    return method.selected.apply(matrix, method.side, count), values, aux


def _symmetric(
    g: Flat, active: Leaves, inputs: Sequence[ArrayType], method: Any, flat: bool, blocks: Blocks
) -> tuple[Any, Leaves, Leaves]:
    """The lower triangle, entry by entry, mirrored."""
    n = total_size(tuple(inputs))
    values, aux = g(*active)
    product = second_forward(g, active)
    i, j = np.tril_indices(n)
    pairs = np.arange(len(i), dtype=np.int32)
    rows, cols = jnp.asarray(i.astype(np.int32)), jnp.asarray(j.astype(np.int32))

    def apply(some: Any) -> Leaves:
        return [jax.vmap(product)(unit_seeds(rows[some], inputs), unit_seeds(cols[some], inputs))]

    (triangle,) = in_batches(apply, pairs, method.chunk, 0)
    place = np.zeros((n, n), np.int32)
    place[i, j] = place[j, i] = pairs
    matrix = triangle[place]
    if flat:
        return method.selected.apply(matrix, "rows" if method.side == "rows" else "cols", n), values, aux
    cut = np.cumsum([t.size for t in inputs])[:-1]
    leaves = jnp.split(matrix, cut, 1) if len(inputs) > 1 else [matrix]
    return blocks.split([leaf.reshape(n, *t.shape) for leaf, t in zip(leaves, inputs, strict=True)], "rows"), values, aux
