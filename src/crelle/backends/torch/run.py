"""Running a method in PyTorch: seeds through ``torch.func`` transforms. Run as it is, or once under ``make_fx``.

``g`` is a function of the active leaves that returns ``(outputs, aux)``, both flat lists of tensors.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vmap

from crelle._arrays import ArrayType, total_size
from crelle._errors import CrelleShapeError, describe
from crelle._reorder import Reorder
from crelle.backends._protocol import Method

# typed as if has_aux= did not exist
jvp: Any = torch.func.jvp
vjp: Any = torch.func.vjp

Leaves = list[Any]
Flat = Callable[..., tuple[Leaves, Leaves]]
Linear = Callable[..., Leaves]


def dtype_of(name: str) -> torch.dtype:
    """``"float64"`` -> ``torch.float64``."""
    return getattr(torch, name)  # type: ignore[no-any-return]


_NAMES: dict[torch.dtype, str] = {}


def type_of(tensor: Tensor) -> ArrayType:
    """Type of a tensor."""
    dtype = tensor.dtype
    name = _NAMES.get(dtype) or _NAMES.setdefault(dtype, str(dtype).removeprefix("torch."))
    return ArrayType(name, tuple(tensor.shape), str(tensor.device))


@torch.inference_mode(False)
def plain_leaves(leaves: Sequence[Tensor]) -> list[Tensor]:
    """The same values, apart from the caller's autograd graph and inference mode."""
    return [leaf.clone() if leaf.is_inference() else leaf.detach() for leaf in leaves]


def unit_matrix(start: int, stop: int, types: Sequence[ArrayType], ids: Any, device: Any) -> Tensor:
    """Unit vectors ``ids[start:stop]`` (all indices where ``ids`` is None) as rows [k, entries]."""
    count = stop - start
    flat = torch.zeros(count, total_size(tuple(types)), dtype=dtype_of(types[0].dtype), device=device)
    if ids is None:
        flat.diagonal(start).fill_(1)
    else:
        flat[torch.arange(count, device=device), torch.as_tensor(ids[start:stop], device=device)] = 1
    return flat


def seed_leaves(flat: Tensor, types: Sequence[ArrayType]) -> Leaves:
    """Rows [k, entries] as leaves [k, *shape]."""
    parts = torch.split(flat, [t.size for t in types], 1) if len(types) > 1 else [flat]
    return [p.to(dtype_of(t.dtype)).reshape(p.shape[0], *t.shape) for p, t in zip(parts, types, strict=True)]


def unit_seeds(start: int, stop: int, types: Sequence[ArrayType], ids: Any, device: Any) -> Leaves:
    """:func:`unit_matrix` as leaves."""
    return seed_leaves(unit_matrix(start, stop, types, ids, device), types)


class Values:
    """f(x) and aux, filled by the linearisation, or by the first forward pass (no second evaluation of f)."""

    outputs: Leaves
    aux: Leaves

    def keep(self, result: tuple[Leaves, Leaves]) -> Leaves:
        """Record a result of g; give its outputs."""
        self.outputs, self.aux = result
        return self.outputs


def linearise(g: Flat, active: Leaves, mode: str, tape: bool = False) -> tuple[Values, Linear]:
    """Values, and the linear map of ``mode``: ``forward`` v ↦ Jv, ``reverse`` u ↦ Jᵀu.

    PyTorch's pullback of a complex function is u ↦ Jᴴu; the conjugate of the result for real u is a row of J. ``tape``
    records with ``torch.autograd`` instead of ``torch.func``, which refuses some functions.
    """
    values = Values()
    if tape:
        return _linearise_on_tape(g, active, second=False)
    if mode == "forward":

        def push(*v: Any) -> Leaves:
            primal, tangents, aux = jvp(_pair_of_tuples(g), tuple(active), v, has_aux=True)
            values.keep((list(primal), aux))
            return list(tangents)

        return values, push
    outputs, pull, aux = vjp(lambda *a: g(*a), *active, has_aux=True)
    values.keep((outputs, aux))

    def back(*u: Any) -> Leaves:
        rows = pull(list(u))
        return [r.conj() for r in rows] if u[0].is_complex() else list(rows)

    return values, back


def _linearise_on_tape(g: Flat, active: Leaves, second: bool) -> tuple[Values, Linear]:
    """The pullback of g, or of its gradient, by ``torch.autograd``: for functions that torch.func cannot transform."""
    values = Values()
    again = torch.is_grad_enabled()  # the caller may differentiate the result
    with torch.enable_grad():
        leaves = [a.view_as(a) if a.requires_grad else a.detach().requires_grad_() for a in active]
        heads = values.keep(g(*leaves))
        if second:
            heads = list(_tape_products(heads, leaves, [torch.ones_like(h) for h in heads], keep=True))

    def back(*u: Any) -> Leaves:
        rows = _tape_products(heads, leaves, list(u), keep=again)
        return [r.conj() for r in rows] if u[0].is_complex() else list(rows)

    return values, back


def _tape_products(heads: Leaves, leaves: Leaves, seeds: Leaves, keep: bool) -> Sequence[Tensor]:
    pairs = [(h, s) for h, s in zip(heads, seeds, strict=True) if h.requires_grad]
    if not pairs:
        return [torch.zeros_like(leaf) for leaf in leaves]
    outputs, cotangents = zip(*pairs, strict=True)
    return torch.autograd.grad(
        outputs, leaves, cotangents, retain_graph=True, create_graph=keep, allow_unused=True, materialize_grads=True
    )


def _pair_of_tuples(g: Flat) -> Callable[..., Any]:
    def paired(*leaves: Any) -> Any:
        outputs, aux = g(*leaves)
        return tuple(outputs), aux

    return paired


def linearise_gradient(g: Flat, active: Leaves, mode: str, tape: bool = False) -> tuple[Values, Linear]:
    """Values, and v ↦ Hv for a scalar g, in one of three nestings."""
    if tape:
        return _linearise_on_tape(g, active, second=True)
    positions = tuple(range(len(active)))
    values = Values()

    def scalar(*leaves: Any) -> tuple[Any, tuple[Leaves, Leaves]]:
        outputs, aux = g(*leaves)
        return outputs[0], (outputs, aux)

    if mode == "reverse-over-forward":

        def product(*v: Any) -> Leaves:
            def slope(*leaves: Any) -> Any:
                _, tangent, aux = jvp(scalar, leaves, v, has_aux=True)
                return tangent, aux

            rows, kept = grad(slope, positions, has_aux=True)(*active)
            values.keep(kept)
            return list(rows)

        return values, product
    gradient = grad(scalar, positions, has_aux=True)
    if mode == "forward-over-reverse":

        def push(*v: Any) -> Leaves:
            _, tangents, kept = jvp(gradient, tuple(active), v, has_aux=True)
            values.keep(kept)
            return list(tangents)

        return values, push
    _, pull, kept = vjp(gradient, *active, has_aux=True)
    values.keep(kept)
    return values, lambda *u: list(pull(tuple(u)))


def second_forward(g: Flat, active: Leaves) -> Callable[[Leaves, Leaves], Any]:
    """(v, w) ↦ vᵀHw by two nested forward passes."""

    def slope(leaves: Leaves, v: Leaves) -> Any:
        return jvp(lambda *a: g(*a)[0][0], tuple(leaves), tuple(v))[1]

    return lambda v, w: jvp(lambda *a: slope(list(a), v), tuple(active), tuple(w))[1]


def linear_map(
    g: Flat,
    active: Leaves,
    inputs: Sequence[ArrayType],
    outputs: Sequence[ArrayType],
    mode: str,
    *,
    hessian: bool,
    tape: bool,
) -> tuple[Values, Linear, Sequence[ArrayType]]:
    """(values, linear map, types of its seeds) of a mode."""
    if hessian:
        return (*linearise_gradient(g, active, mode, tape), inputs)
    return (*linearise(g, active, mode, tape), inputs if mode == "forward" else outputs)


def batch(linear: Linear, seeds: Leaves) -> Leaves:
    """The linear map on a batch of seeds [k, *shape]; one seed needs no batching rules at all."""
    if seeds[0].shape[0] == 1:
        return [leaf.unsqueeze(0) for leaf in linear(*[s.squeeze(0) for s in seeds])]
    return list(vmap(lambda leaves: tuple(linear(*leaves)), randomness="same")(list(seeds)))


def chunks(count: int, chunk: int | None) -> Iterator[tuple[int, int]]:
    """(start, stop) of each batch."""
    step = max(1, chunk or count)
    for start in range(0, count, step):
        yield start, min(start + step, count)


def gather(parts: Iterator[Leaves], count: int, chunk: int | None) -> Leaves:
    """Batches joined along the seed axis: written into place, or concatenated where autograd follows."""
    if chunk is None or chunk >= count:
        return next(parts)
    buffers: Leaves = []
    kept: list[Leaves] = []
    start = 0
    for part in parts:
        if any(p.requires_grad for p in part) or torch._C._functorch.maybe_current_level() is not None:
            kept.append(part)
            continue
        if not buffers:
            buffers = [p.new_empty(count, *p.shape[1:]) for p in part]
        for buffer, p in zip(buffers, part, strict=True):
            buffer[start : start + p.shape[0]] = p
        start += part[0].shape[0]
    return buffers or [torch.cat(leaf) for leaf in zip(*kept, strict=True)]


def wanted_seeds(method: Method, count: int, flat: bool) -> Any:
    """Flat indices of the seeds to push, or None for all."""
    return method.selected.seeds(method.side, count) if flat else None


def shape_answer(
    leaves: Leaves,
    method: Method,
    inputs: Sequence[ArrayType],
    outputs: Sequence[ArrayType],
    *,
    flat: bool,
    hessian: bool,
) -> Any:
    """Leaves with a leading seed axis -> blocks[i][j], or the flat matrix (or its part), as views where possible."""
    outer = inputs if hessian else outputs
    by_columns = not hessian and method.mode == "forward"
    if flat:
        rows = [leaf.reshape(leaf.shape[0], math.prod(leaf.shape[1:])) for leaf in leaves]
        matrix = rows[0] if len(rows) == 1 else torch.cat(rows, 1)
        if by_columns or (hessian and method.side == "cols"):
            matrix = matrix.T
        m, n = total_size(tuple(outer)), total_size(tuple(inputs))
        return _apply(method, matrix, m if method.side == "rows" else n)
    seeded, other = (inputs, outer) if by_columns else (outer, inputs)
    sizes = [t.size for t in seeded]
    grid = []
    for leaf, t in zip(leaves, other, strict=True):
        parts = torch.split(leaf, sizes) if len(seeded) > 1 else (leaf,)
        shaped = [part.reshape((*s.shape, *t.shape)) for part, s in zip(parts, seeded, strict=True)]
        if by_columns:
            shaped = [
                part.permute((*range(len(s.shape), part.ndim), *range(len(s.shape))))
                for part, s in zip(shaped, seeded, strict=True)
            ]
        grid.append(shaped)
    return grid if by_columns else [list(row) for row in zip(*grid, strict=True)]


def _apply(method: Method, matrix: Tensor, count: int) -> Any:
    """``Selected.apply`` with NumPy index arrays turned into tensors."""

    class _Indexed:
        def __init__(self, value: Tensor) -> None:
            self.value = value

        def __getitem__(self, key: Any) -> Any:
            out = self.value[_tensor_key(key, self.value.device)]
            return _Indexed(out)

    out = method.selected.apply(_Indexed(matrix), method.side, count)
    return out.value


def _tensor_key(key: Any, device: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(_tensor_key(k, device) for k in key)
    return torch.as_tensor(key, device=device) if isinstance(key, np.ndarray) else key


def empty_answer(
    inputs: Sequence[ArrayType], outer: Sequence[ArrayType], method: Method, *, flat: bool, device: Any
) -> Any:
    """The answer for a matrix without entries."""
    kinds = [dtype_of(t.dtype) for t in (*outer, *inputs)]
    kind = kinds[0]
    for other in kinds[1:]:
        kind = torch.promote_types(kind, other)
    if not flat:
        return [[torch.zeros(*o.shape, *i.shape, dtype=kind, device=device) for i in inputs] for o in outer]
    m, n = total_size(tuple(outer)), total_size(tuple(inputs))
    rows = method.selected.passes("rows", m) if method.side == "rows" else m
    cols = method.selected.passes("cols", n) if method.side == "cols" else n
    return _apply(method, torch.zeros(rows, cols, dtype=kind, device=device), m if method.side == "rows" else n)


def symmetric(g: Flat, active: Leaves, inputs: Sequence[ArrayType], chunk: int | None) -> tuple[Tensor, Leaves, Leaves]:
    """The Hessian's lower triangle, entry by entry, mirrored: (flat matrix, values, aux)."""
    n = total_size(tuple(inputs))
    values, aux = g(*active)
    product = second_forward(g, active)
    i, j = np.tril_indices(n)
    device = active[0].device

    def parts() -> Iterator[Leaves]:
        for start, stop in chunks(len(i), chunk):
            v = unit_seeds(start, stop, inputs, i, device)
            w = unit_seeds(start, stop, inputs, j, device)
            yield [vmap(product)(v, w)]

    (triangle,) = gather(parts(), len(i), chunk)
    place = np.zeros((n, n), np.int64)
    place[i, j] = place[j, i] = np.arange(len(i))
    return triangle[torch.as_tensor(place, device=device)], values, aux


def answer(
    g: Flat,
    active: Leaves,
    inputs: Sequence[ArrayType],
    outputs: Sequence[ArrayType],
    method: Method,
    *,
    flat: bool,
    hessian: bool,
    tape: bool,
    seeds: Tensor | None = None,
) -> tuple[Any, Leaves, Leaves]:
    """(blocks or flat matrix, values, aux) by one method; ``seeds`` are its unit vectors, where they are given."""
    outer = inputs if hessian else outputs
    m, n = total_size(tuple(outer)), total_size(tuple(inputs))
    device = active[0].device
    if not m or not n:
        found, aux = g(*active)
        return empty_answer(inputs, outer, method, flat=flat, device=device), found, aux
    if method.mode == "forward-over-forward":
        matrix, found, aux = symmetric(g, active, inputs, method.chunk)
        leaves = list(torch.split(matrix, [t.size for t in inputs], 1))
        return shape_answer(leaves, method, inputs, outputs, flat=flat, hessian=True), found, aux
    values, linear, seeded = linear_map(g, active, inputs, outputs, method.mode, hessian=hessian, tape=tape)
    if method.mode == "reverse":
        outputs = seeded = tuple(type_of(value) for value in values.outputs)
        _same_size(outputs, m, method)
    total = total_size(tuple(seeded))
    ids = wanted_seeds(method, total, flat)
    count = total if ids is None else len(ids)
    if count == 0:  # rows=[] or the like
        found, aux = g(*active)
        rest = outputs if method.mode == "forward" else inputs
        leaves = [torch.zeros(0, *t.shape, dtype=dtype_of(t.dtype), device=device) for t in rest]
        return shape_answer(leaves, method, inputs, outputs, flat=flat, hessian=hessian), found, aux
    if seeds is not None:
        leaves = batch(linear, seed_leaves(seeds, seeded))
    else:
        pieces = (batch(linear, unit_seeds(a, b, seeded, ids, device)) for a, b in chunks(count, method.chunk))
        leaves = gather(pieces, count, method.chunk)
    blocks = shape_answer(leaves, method, inputs, outputs, flat=flat, hessian=hessian)
    return blocks, values.outputs, values.aux


def coloured_entries(
    g: Flat,
    active: Leaves,
    inputs: Sequence[ArrayType],
    outputs: Sequence[ArrayType],
    method: Method,
    *,
    hessian: bool,
    tape: bool,
) -> tuple[Tensor, Leaves, Leaves]:
    """(entries of the pattern, values, aux) by products with sums of unit vectors."""
    ways, device = method.ways, active[0].device
    assert ways is not None
    pieces: Leaves = []
    found: Values | None = None
    if (coloring := ways.coloring) is not None:
        columns = (method.base if hessian else "forward", coloring.column_colors)
        for mode, colors in (columns, ("reverse", coloring.row_colors)):
            if colors is not None:
                found, linear, seeded = linear_map(g, active, inputs, outputs, mode, hessian=hessian, tape=tape)
                leaves = batch(linear, color_seeds(colors, seeded, device))
                rows = [leaf.reshape(leaf.shape[0], -1) for leaf in leaves]
                pieces.append((rows[0] if len(rows) == 1 else torch.cat(rows, 1)).reshape(-1))
    values, aux = (found.outputs, found.aux) if found is not None else g(*active)
    if not pieces:
        return torch.zeros(0, dtype=(active if hessian else values)[0].dtype, device=device), values, aux
    products = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return taken(ways.place, device)(products), values, aux


def written(
    entries: Tensor,
    method: Method,
    inputs: Sequence[ArrayType],
    outputs: Sequence[ArrayType],
    *,
    flat: bool,
    hessian: bool,
) -> Any:
    """Blocks or the flat matrix that holds entries of a pattern, and zeros."""
    ways = method.ways
    assert ways is not None
    m, n = ways.pattern.shape
    index = torch.as_tensor(ways.flat, device=entries.device)
    matrix = torch.zeros(m * n, dtype=entries.dtype, device=entries.device).index_put_((index,), entries)
    parts = list(torch.split(matrix.reshape(m, n), [t.size for t in inputs], 1))
    return shape_answer(parts, method, inputs, outputs, flat=flat, hessian=hessian)


def permuted(reorder: Reorder, flat: Tensor) -> Tensor:
    """A reordering by reshapes, applied to a flat tensor."""
    return flat[reorder.start : reorder.stop].reshape(reorder.shape).permute(reorder.axes).reshape(-1)


def taken(place: Any, device: Any) -> Callable[[Tensor], Tensor]:
    """What takes elements of a flat tensor at these places; by reshapes where they are enough."""
    if (reorder := Reorder.of(place)) is not None:
        return lambda flat: permuted(reorder, flat)
    table = torch.as_tensor(place.astype(np.int64), device=device)
    return lambda flat: flat[table]


def color_seeds(colors: np.ndarray[Any, Any], types: Sequence[ArrayType], device: Any) -> Leaves:
    """For every colour the sum of its unit vectors, as leaves [k, *shape]."""
    count = int(colors.max(initial=-1)) + 1
    hot = torch.from_numpy(colors[None, :] == np.arange(count)[:, None]).to(device)
    parts = torch.split(hot, [t.size for t in types], 1)
    return [p.to(dtype_of(t.dtype)).reshape(count, *t.shape) for p, t in zip(parts, types, strict=True)]


def _same_size(outputs: Sequence[ArrayType], expected: int, method: Method) -> None:
    """A function that is run anew may return another number of entries; parts of the matrix are then undefined."""
    selected = method.selected
    if total_size(tuple(outputs)) != expected and (selected.rows is not None or selected.entries is not None):
        raise CrelleShapeError(
            describe(
                f"f returned {total_size(tuple(outputs)):,} entries, and {expected:,} when the plan was made",
                likely="the shape of the result depends on values, and rows= or entries= count from its start",
                try_="make the transform anew, or ask for the whole matrix",
            )
        )


@contextlib.contextmanager
def plain_kernels() -> Iterator[None]:
    """Run attention and recurrent layers on kernels that have forward-mode and second derivatives."""
    before = torch._C._get_mkldnn_enabled()  # torch.backends.mkldnn.flags also sets TF32, and warns
    torch._C._set_mkldnn_enabled(False)
    try:
        with (
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
            torch.backends.cudnn.flags(enabled=False),
        ):
            yield
    finally:
        torch._C._set_mkldnn_enabled(before)
