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
from jax.extend.core.primitives import convert_element_type_p

from crelle._arrays import ArrayType, total_size
from crelle._request import Request
from crelle.backends._protocol import Method
from crelle.backends.jax import fusion
from crelle.backends.jax.seeds import (
    Leaves,
    Linear,
    Part,
    colored_products,
    in_batches,
    push_all,
    push_each,
    small_ints,
    unit_seeds,
)

Flat = Callable[..., tuple[Leaves, Leaves]]


def linear_program(linear: Linear, types: Sequence[ArrayType]) -> jex.ClosedJaxpr:
    """The jaxpr of a linear function; its constants are the coefficients."""
    return jax.make_jaxpr(linear)(*[jax.ShapeDtypeStruct(t.shape, t.dtype) for t in types])


def linearise(g: Flat, active: Leaves, mode: str) -> tuple[Leaves, Leaves, Linear]:
    """Value, aux, and the linear map of ``mode``: ``forward`` v ↦ Jv, ``reverse`` u ↦ Jᵀu."""
    if mode == "forward":
        try:
            outputs, push, aux = jax.linearize(g, *active, has_aux=True)
        except ValueError as error:  # a rule that mixes values and tangents (custom_vmap): they go through f together
            if "Linearization failed" not in str(error):
                raise
            outputs, aux = g(*active)
            return outputs, aux, lambda *v: list(jax.jvp(lambda *leaves: g(*leaves)[0], tuple(active), v)[1])
        return outputs, aux, push
    outputs, pull, aux = jax.vjp(g, *active, has_aux=True)
    return outputs, aux, lambda *u: list(pull(list(u)))


def linearise_gradient(
    g: Flat, active: Leaves, mode: str, holomorphic: bool, looped: bool = False
) -> tuple[Leaves, Leaves, Linear]:
    """Value, aux, and v ↦ Hv for a scalar g, in one of three nestings; ``looped`` if it is to run chunk after chunk."""

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
        _, push, (outputs, aux) = jax.linearize(gradient if looped else _one_row(value), *active, has_aux=True)
        return outputs, aux, lambda *v: list(push(*v))
    _, pull, (outputs, aux) = jax.vjp(gradient, *active, has_aux=True)
    return outputs, aux, lambda *u: list(pull(u))


def _one_row(value: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Leaves, Any]]:
    """The gradient as the only row of a Jacobian, as ``jax.hessian`` forms it: a batch of one seed.

    XLA fuses that much better than a plain gradient where f is a long chain of scalars (24 times faster on a robot arm,
    CPU), except inside a loop (1.6 times slower on a pair energy).
    """

    def gradient(*leaves: Any) -> tuple[Leaves, Any]:
        output, pull, aux = jax.vjp(value, *leaves, has_aux=True)
        rows = jax.vmap(pull)(jnp.ones((1,), output.dtype))
        return [row.reshape(leaf.shape) for row, leaf in zip(rows, leaves, strict=True)], aux

    return gradient


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


def answer(
    g: Flat,
    active: Leaves,
    inputs: Sequence[ArrayType],
    planned: Sequence[ArrayType],
    method: Method,
    request: Request,
    by_output: bool,
    keep: bool = False,
) -> tuple[Any, Leaves, Leaves]:
    """(blocks or flat matrix, value, aux) by one method.

    Args:
        planned: the types of the outputs when the plan was made.
        by_output: entries have the dtype of the output, as with ``jax.jacfwd``; else of the input, as with ``jacrev``.
        keep: see that coefficients are computed once and not for every seed.
    """
    hessian, flat = request.kind == "hessian", request.flat
    linear: Linear | None = None
    if method.mode == "forward-over-forward" or not total_size(tuple(inputs)):
        values, aux = g(*active)
    else:

        def linearised(*leaves: Any) -> tuple[Leaves, Leaves, Linear]:
            if hessian:
                looped = method.chunk is not None
                return linearise_gradient(g, list(leaves), method.mode, request.holomorphic, looped)
            return linearise(g, list(leaves), method.mode)

        def program(values: Leaves, linear: Linear) -> jex.ClosedJaxpr:
            seeded = values if method.mode == "reverse" else active
            return linear_program(linear, [ArrayType(str(v.dtype), tuple(v.shape)) for v in seeded])

        seeds = method.chunk or total_size(tuple(planned if method.mode == "reverse" else inputs))
        values, aux, linear = (
            fusion.keep_coefficients(linearised, active, program, seeds) if keep else linearised(*active)
        )
    outputs = tuple(ArrayType(str(v.dtype), tuple(v.shape)) for v in values)
    outer, outer_leaves = (tuple(inputs), active) if hessian else (outputs, values)
    m, n = total_size(outer), total_size(tuple(inputs))
    kinds = Kinds(outer_leaves, active, hessian or by_output)
    selected = method.selected
    if outputs != tuple(planned):  # f is run anew each time, and may return something else by now
        selected = request.selection.resolve(m, n)
    blocks = Blocks(outer, inputs)
    if not (m and n):
        empty = [[jnp.zeros(o.shape + i.shape) for i in inputs] for o in outer]
        answer = selected.apply(kinds.matrix(jnp.zeros((m, n))), "rows", m) if flat else kinds.blocks(empty)
        return answer, values, aux
    if linear is None:
        matrix = _triangle(g, active, inputs, method.chunk)
        if flat:
            return kinds.matrix(matrix), values, aux
        return kinds.blocks(blocks.split(_columns(matrix, inputs), "rows")), values, aux
    side, seeded = ("cols", inputs) if method.mode.startswith("forward") else ("rows", inputs if hessian else outputs)
    if hessian and method.chunk is not None:  # symmetric: what comes as columns can be written as rows, without strides
        side = "rows"
    axis = 0 if side == "rows" else -1
    if flat:
        part = Part(selected, method.side, axis, total_size(tuple(seeded)))
        return part.push(linear, seeded, method.chunk, kinds.matrix), values, aux
    if method.chunk is None or len(seeded) == 1:
        leaves = push_all(linear, seeded, axis, method.chunk)
        return kinds.blocks(blocks.split(leaves, side)), values, aux
    pieces = push_each(linear, seeded, axis, method.chunk)
    parts = [Blocks([s], inputs) if side == "rows" else Blocks(outer, [s]) for s in seeded]
    grids = [b.split(piece, side) for b, piece in zip(parts, pieces, strict=True)]
    grid = [g[0] for g in grids] if side == "rows" else [[g[i][0] for g in grids] for i in range(len(outer))]
    return kinds.blocks(grid), values, aux


def coloured_answer(
    g: Flat,
    active: Leaves,
    inputs: Sequence[ArrayType],
    planned: Sequence[ArrayType],
    method: Method,
    request: Request,
    by_output: bool,
    keep: bool = False,
) -> tuple[Any, Leaves, Leaves]:
    """As :func:`answer`, by products with sums of unit vectors: their entries are written into zeros."""
    hessian, ways = request.kind == "hessian", method.ways
    assert ways is not None
    coloring = ways.coloring
    values: Leaves = []
    aux: Leaves = []
    pieces: Leaves = []
    sides: list[tuple[str, Any, Sequence[ArrayType]]] = []
    if coloring is None:
        values, aux = g(*active)
    else:
        nested = method.base if hessian else "forward"
        sides = [(nested, coloring.column_colors, inputs), ("reverse", coloring.row_colors, planned)]
    for mode, colors, seeded in sides:
        if colors is not None:
            count = int(colors.max(initial=-1)) + 1

            def linearised(*leaves: Any, mode: str = mode) -> tuple[Leaves, Leaves, Linear]:
                if hessian:
                    return linearise_gradient(g, list(leaves), mode, request.holomorphic, looped=True)
                return linearise(g, list(leaves), mode)

            def program(values: Leaves, linear: Linear, seeded: Sequence[ArrayType] = seeded) -> jex.ClosedJaxpr:
                return linear_program(linear, seeded)

            values, aux, linear = (
                fusion.keep_coefficients(linearised, active, program, count) if keep else linearised(*active)
            )
            # a constant that XLA cannot see through: it would fold the seeds, and take long for it
            known = lax.optimization_barrier(jnp.asarray(small_ints(colors)))
            pieces.append(colored_products(linear, known, count, seeded))
    outer, outer_leaves = (tuple(inputs), active) if hessian else (tuple(planned), values)
    m, n = ways.pattern.shape
    kinds = Kinds(outer_leaves, active, hessian or by_output)
    dtype = jnp.result_type(*pieces) if pieces else jnp.result_type(*(active if hessian else values))
    matrix = jnp.zeros(m * n, dtype)
    if pieces:
        products = pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces)
        entries = products.at[jnp.asarray(ways.place)].get(mode="promise_in_bounds")
        matrix = matrix.at[ways.flat].set(
            entries, unique_indices=True, indices_are_sorted=True, mode="promise_in_bounds"
        )
    matrix = matrix.reshape(m, n)
    if request.flat:
        return kinds.matrix(matrix), values, aux
    return kinds.blocks(Blocks(outer, inputs).split(_columns(matrix, inputs), "rows")), values, aux


class Kinds:
    """The dtype and weak type that JAX's own transforms give to each block."""

    def __init__(self, outer: Leaves, inner: Leaves, by_outer: bool) -> None:
        self.outer, self.inner, self.by_outer = [*map(jax.typeof, outer)], [*map(jax.typeof, inner)], by_outer

    def blocks(self, grid: list[Leaves]) -> list[Leaves]:
        """Every block as it should be."""
        return [
            [_cast(block, o if self.by_outer else i) for block, i in zip(row, self.inner, strict=True)]
            for row, o in zip(grid, self.outer, strict=True)
        ]

    def matrix(self, matrix: Any) -> Any:
        """The flat matrix in the dtype that holds all blocks."""
        dtype = jnp.result_type(*(self.outer if self.by_outer else self.inner))
        return _cast(matrix, jax.ShapeDtypeStruct((), dtype))


def _cast(array: Any, like: Any) -> Any:
    weak = bool(getattr(like, "weak_type", False))
    if array.dtype == like.dtype and jax.typeof(array).weak_type == weak:
        return array
    if jnp.iscomplexobj(array) and not jnp.issubdtype(like.dtype, jnp.complexfloating):
        array = array.real
    return convert_element_type_p.bind(array, new_dtype=like.dtype, weak_type=weak, sharding=None)


def _triangle(g: Flat, active: Leaves, inputs: Sequence[ArrayType], chunk: int | None) -> Any:
    """The Hessian from its lower triangle, entry by entry, mirrored."""
    n = total_size(tuple(inputs))
    product = second_forward(g, active)
    i, j = np.tril_indices(n)
    rows, cols = jnp.asarray(i.astype(np.int32)), jnp.asarray(j.astype(np.int32))

    def apply(some: Any) -> Leaves:
        return [jax.vmap(product)(unit_seeds(rows[some], inputs), unit_seeds(cols[some], inputs))]

    (triangle,) = in_batches(apply, len(i), chunk, 0)
    place = np.zeros((n, n), np.int32)
    place[i, j] = place[j, i] = np.arange(len(i))
    return triangle[place]


def _columns(matrix: Any, inputs: Sequence[ArrayType]) -> Leaves:
    cut = np.cumsum([t.size for t in inputs])[:-1]
    parts = jnp.split(matrix, cut, 1) if len(inputs) > 1 else [matrix]
    return [part.reshape(len(matrix), *t.shape) for part, t in zip(parts, inputs, strict=True)]
