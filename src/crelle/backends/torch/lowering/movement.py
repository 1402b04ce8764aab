"""Rules for operations that move elements: the operation itself is run on the row ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from crelle.backends.torch.lowering.pointwise import arguments
from crelle.backends.torch.lowering.walk import Lowering, Tangent, args_of, rule, type_of
from crelle.backends.torch.rewrite.values import Spec, map_nodes
from crelle.tangent.program import Dependence, Gather, Lanes
from crelle.tangent.shapes import triangle

Array = np.ndarray[Any, Any]
Csr = tuple[Array, Array]


def _as_ids(tensor: torch.Tensor, dtype: Any) -> Array:
    return np.array(tensor.detach().numpy(), dtype)


def run_on_ids(
    low: Lowering, node: fx.Node, replace: dict[fx.Node, Any] | None = None, kind: Dependence | None = None
) -> Any:
    """The operation applied to ids in the place of its tangents; other tensors are zeros, or what ``replace`` says."""
    nodes = list(dict.fromkeys(n for n in node.all_input_nodes))
    moving = [n for n in nodes if low.tangent(n) is not None]
    fixed: dict[fx.Node, Any] = dict(replace or {})
    for n in nodes:
        if n in moving or n in fixed:
            continue
        spec = low.spec(n)
        if spec.dtype.is_floating_point or spec.dtype.is_complex:  # what moves beside tangents is zero
            fixed[n] = torch.zeros(spec.shape, dtype=torch.float64)
        else:
            fixed[n] = low.known(n)
    target: Any = node.target
    args, kwargs = node.args, {k: v for k, v in node.kwargs.items() if k not in ("device", "dtype", "layout")}

    def move(*ids: Any) -> Any:
        given = {n: torch.from_numpy(np.array(a, np.float64)) for n, a in zip(moving, ids, strict=True)}
        given.update(fixed)
        with torch.no_grad():
            found = target(*map_nodes(args, lambda n: given[n]), **map_nodes(kwargs, lambda n: given[n]))
        if isinstance(found, torch.Tensor):
            return _as_ids(found, ids[0].dtype)
        return tuple(_as_ids(f, ids[0].dtype) for f in found)

    specs = low_specs(node)
    kind = low.kind(*arguments(node)) if kind is None else kind
    operands = [low.tangent(n) for n in moving]
    if isinstance(specs, Spec):
        return low.emit(Gather, operands, type_of(specs), move=move, dependence=kind)
    results: list[int | None] = []
    for i, spec in enumerate(specs):
        results.append(low.emit(Gather, operands, type_of(spec), move=lambda *ids, i=i: move(*ids)[i], dependence=kind))
    return results


def low_specs(node: fx.Node) -> Any:
    """The specs of the results."""
    from crelle.backends.torch.cost import spec_of_node

    return spec_of_node(node)


@rule(
    "view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "flatten", "t", "transpose", "permute",
    "expand", "select", "slice", "narrow", "diagonal", "split", "split_with_sizes", "chunk", "unbind", "unfold", "cat",
    "stack", "flip", "roll", "rot90", "repeat", "tril", "triu", "constant_pad_nd", "reflection_pad1d",
    "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d", "diag_embed",
    "block_diag", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "narrow_copy", "select_backward",
    "slice_backward", "diagonal_backward", "select_scatter", "slice_scatter", "diagonal_scatter", "upsample_nearest1d",
    "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
    "view_copy", "expand_copy", "permute_copy", "slice_copy", "select_copy", "unsqueeze_copy", "squeeze_copy",
    "transpose_copy", "t_copy", "diagonal_copy", "movedim", "swapaxes", "im2col", "repeat_interleave", "unsafe_split",
    "unsafe_chunk", "tile", "hstack", "vstack", "atleast_1d", "atleast_2d", "linalg_diagonal", "diag", "pad",
)  # fmt: skip
def _moves(low: Lowering, node: fx.Node) -> Any:
    return run_on_ids(low, node, kind=Dependence.CONSTANT)


# -- by index


def _settle(low: Lowering, node: fx.Node, source: fx.Node, axes: Sequence[int], unknown: Sequence[fx.Node]) -> Any:
    """Indices that are not known: elements along these axes become alike first, and any index will do."""
    value, kind = low.tangent(source), low.kind(*unknown)
    assert value is not None
    shape = low.shape(source)
    pattern = _pool_windows(low, unknown, shape, axes)
    if pattern is not None:
        return _by_window(low, node, value, axes[0], pattern, kind)
    alike = low.lanes(Lanes, value, axes, shape, kind)
    replace = {n: torch.zeros(low.shape(n), dtype=torch.int64) for n in unknown}
    before = low.env[source]
    low.env[source] = Tangent(alike)
    try:
        return run_on_ids(low, node, replace, Dependence.CONSTANT)
    finally:
        low.env[source] = before


def _unknown(low: Lowering, *indices: Any) -> list[fx.Node]:
    return [i for i in indices if isinstance(i, fx.Node) and low.known(i) is None]


@rule("gather", "index_select", "take_along_dim")
def _gather(low: Lowering, node: fx.Node) -> Any:
    source, axis, index = args_of(node)[:3]
    unknown = _unknown(low, index)
    if not unknown:
        return run_on_ids(low, node)
    return _settle(low, node, source, [axis], unknown)


@rule("take")
def _take(low: Lowering, node: fx.Node) -> Any:
    source, index = args_of(node)[:2]
    unknown = _unknown(low, index)
    if not unknown:
        return run_on_ids(low, node)
    return _settle(low, node, source, range(len(low.shape(source))), unknown)


@rule("embedding")
def _embedding(low: Lowering, node: fx.Node) -> Any:
    source, index = args_of(node)[:2]
    unknown = _unknown(low, index)
    if not unknown:
        return run_on_ids(low, node)
    return _settle(low, node, source, [0], unknown)


@rule("index", "_unsafe_index")
def _index(low: Lowering, node: fx.Node) -> Any:
    source, indices = args_of(node)[:2]
    unknown = _unknown(low, *indices)
    if not unknown:
        return run_on_ids(low, node)
    if any(low.spec(n).dtype in (torch.bool, torch.uint8) for n in unknown):
        return low.opaque(node, "a mask that is not known")
    axes = [k for k, i in enumerate(indices) if i in unknown]
    return _settle(low, node, source, axes, unknown)


def _pool_windows(low: Lowering, unknown: Sequence[fx.Node], shape: Sequence[int], axes: Sequence[int]) -> Csr | None:
    """What results read, where the index is that of a maximum over windows of a flattened image, or over what came."""
    if len(unknown) != 1 or len(axes) != 1 or not shape:
        return None
    node: Any = unknown[0]
    while isinstance(node, fx.Node) and any(word in str(node.target) for word in ("view", "reshape", "contiguous")):
        node = args_of(node)[0]
    source: Any = args_of(node)[0] if isinstance(node, fx.Node) and args_of(node) else None
    name = str(source.target) if isinstance(source, fx.Node) else ""
    axis = axes[0] % len(shape)
    if name.startswith(("aten.cummax", "aten.cummin")) and node is unknown[0]:
        same = low.shape(node) == tuple(shape) and int(source.args[1]) % len(shape) == axis
        return triangle(shape[axis], False) if same else None
    if "max_pool2d_with_indices" not in name or axis != len(shape) - 1:
        return None
    from crelle.backends.torch.lowering.windows import pool_pattern

    return pool_pattern(low, source, low.shape(unknown[0])[-1], shape[-1])


def _by_window(low: Lowering, node: fx.Node, value: int, axis: int, pattern: Csr, kind: Dependence) -> int:
    mixed = low.mixed(Lanes, value, axis, pattern, len(pattern[0]) - 1, kind, detail="windows of a maximum")
    shape = low.spec(node).shape
    return low.moved(mixed, lambda a: a.reshape(shape), shape)


def _destinations(shape: Sequence[int], pick: Any) -> Array:
    """For every element of a source where it goes: the operation's own adjoint run on places."""
    places = torch.arange(int(np.prod(shape, dtype=np.int64))).reshape(tuple(shape))
    found: Array = pick(places).numpy()
    return found


@rule("scatter_add", "scatter", "index_add", "index_put", "_index_put_impl", "index_copy", "_unsafe_index_put")
def _scatter(low: Lowering, node: fx.Node) -> Any:
    name = str(node.target).split(".")[1]
    shape = low.spec(node).shape
    base: Any = args_of(node)[0]
    if "index_put" in name:
        indices, source = args_of(node)[1], args_of(node)[2]
        adds = bool(args_of(node)[3]) if len(args_of(node)) > 3 else False
    else:
        indices, source = args_of(node)[2], args_of(node)[3] if len(args_of(node)) > 3 else None
        adds = name in ("scatter_add", "index_add")
    if name == "scatter" and "reduce" in str(node.target):
        return low.opaque(node, "no rule")
    listed = indices if isinstance(indices, (tuple, list)) else (indices,)
    unknown = _unknown(low, *listed)
    kind = low.kind(*listed)
    value, into = low.tangent(base), low.tangent(source)
    if unknown:
        return _scattered_anywhere(low, node, name, value, into, source, unknown, kind)
    axis: Any = args_of(node)[1]

    def pick(places: torch.Tensor) -> torch.Tensor:
        if "index_put" in name:
            known = tuple(slice(None) if i is None else low.known(i).cpu() for i in listed)
            return places[known]
        index = low.known(indices).cpu()
        return places.gather(axis, index) if name.startswith("scatter") else places.index_select(axis, index)

    where = _destinations(shape, pick)
    parts: list[int | None] = []
    if value is not None:
        keep = None
        if not adds:
            keep = np.ones(int(np.prod(shape, dtype=np.int64)), bool)
            keep[where.reshape(-1)] = False
            keep = keep.reshape(shape)
        parts.append(low.scaled(value, kind, keep))
    if into is not None:
        if "index_put" in name or not low.shape(source):
            into = low.spread(into, where.shape)
        elif low.shape(source) != where.shape:  # only a corner of the source is read
            corner = tuple(slice(0, s) for s in where.shape)
            into = low.moved(into, lambda a: a[corner], where.shape)
        parts.append(low.placed(into, where, shape, kind))
    return low.added(parts)


def _scattered_anywhere(
    low: Lowering, node: fx.Node, name: str, value: int | None, into: int | None, source: Any,
    unknown: Sequence[fx.Node], kind: Dependence,
) -> Any:  # fmt: skip
    shape = low.spec(node).shape
    parts: list[int | None] = [None if value is None else low.scaled(value, kind)]
    if into is not None:
        if "index_put" in name:
            axes: list[int] = list(range(len(low.shape(source))))
            spread = low.lanes(Lanes, into, axes, (1,) * len(axes), kind)
            parts.append(low.moved(spread, lambda a: np.broadcast_to(a.reshape(()), shape), shape))
        else:
            axis = int(args_of(node)[1]) % max(len(shape), 1)
            window = low.shape(unknown[0]) if name.startswith("scatter") else low.shape(source)
            if low.shape(source) != tuple(window):
                corner = tuple(slice(0, s) for s in window)
                into = low.moved(into, lambda a: a[corner], window) if low.shape(source) else low.spread(into, window)
            lane = low.lanes(Lanes, into, [axis], tuple(1 if a == axis else s for a, s in enumerate(window)), kind)

            def move(a: Any) -> Any:
                new = np.zeros(tuple(1 if k == axis else s for k, s in enumerate(shape)), a.dtype)
                new[tuple(slice(0, s) for s in a.shape)] = a
                return np.broadcast_to(new, shape)

            parts.append(low.moved(lane, move, shape))
    return low.added(parts)


@rule("embedding_dense_backward")
def _embedding_backward(low: Lowering, node: fx.Node) -> Any:
    gradient, index = args_of(node)[:2]
    value, shape = low.tangent(gradient), low.spec(node).shape
    assert value is not None
    known = low.known(index)
    if known is None:
        axes = range(len(low.shape(gradient)) - 1)
        lane = low.lanes(Lanes, value, axes, (*[1] * len(axes), shape[-1]), low.kind(index))
        return low.moved(lane, lambda a: np.broadcast_to(a.reshape(1, -1), shape), shape)
    where = known.cpu().numpy()[..., None] * shape[1] + np.arange(shape[1])
    return low.placed(value, where, shape, low.kind(index))
