"""Rules for operations that move elements: the operation itself is run on the ids of the elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crelle.backends.torch.lower.known import on_ids
from crelle.backends.torch.lower.op import Arg, Op, type_of
from crelle.backends.torch.lower.walk import Lowering, Results, rule
from crelle.tangent.program import Dependence, Gather, Ids, Lanes
from crelle.tangent.stencils import from_pairs

#: Every element of the result is one of an operand, or zero; other tensors among the arguments are indices.
MOVES = """
    view _unsafe_view reshape _reshape_alias unsqueeze squeeze flatten unflatten t transpose permute swapaxes swapdims
    movedim moveaxis expand expand_as select slice narrow diagonal split split_with_sizes unsafe_split
    unsafe_split_with_sizes chunk unsafe_chunk tensor_split unbind unfold cat stack hstack vstack dstack flip fliplr
    flipud roll rot90 repeat tile repeat_interleave constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d diag_embed block_diag pixel_shuffle pixel_unshuffle
    channel_shuffle narrow_copy select_scatter slice_scatter diagonal_scatter as_strided_scatter select_backward
    slice_backward diagonal_backward tril triu im2col upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d view_copy expand_copy select_copy
    slice_copy permute_copy transpose_copy t_copy squeeze_copy unsqueeze_copy diagonal_copy unbind_copy split_copy
    split_with_sizes_copy unfold_copy as_strided_copy concatenate native_channel_shuffle unsafe_index
    """
#: The same, by indices, which may not be known.
INDEXED = "index_select gather index _unsafe_index take embedding take_along_dim masked_select"


def move_of(op: Op) -> Callable[..., Any]:
    """The operation as a function of the tensors that carry elements, in order; indices are filled in now."""
    moved = [a for a in op.tensors if _carries(a)]
    values: dict[int, Tensor] = {}
    for a in op.tensors:
        if not _carries(a):
            index = a.tensor()
            if index is None:
                raise ValueError("an index is not known")
            values[id(a)] = index

    def apply(*tensors: Tensor) -> Any:
        given = {id(a): t for a, t in zip(moved, tensors, strict=True)}
        return op.run(lambda a: given[id(a)] if id(a) in given else values[id(a)])

    return apply


def _carries(a: Arg) -> bool:
    return a.spec.dtype.is_floating_point or a.spec.dtype.is_complex


def emit_move(low: Lowering, op: Op, apply: Callable[..., Any]) -> int | list[int | None]:
    """Append the move; the cost of several results is paid once."""
    moved = [a for a in op.tensors if _carries(a)]
    operands = [a.tangent for a in moved]
    shapes = tuple(a.shape for a in moved)
    specs = op.specs
    if not op.several:
        return low.emit(Gather, operands, type_of(op.spec), move=lambda *ids: on_ids(apply, *ids), shapes=shapes)
    results = [None if s is None else low.program.value(type_of(s)) for s in specs]
    name, flops, nbytes = low.operation
    low.program.maps.append(
        Gather(
            name=name, operands=tuple(operands), results=tuple(results), flops=flops, bytes=nbytes, shapes=shapes,
            move=lambda *ids: on_ids(apply, *ids),
        )
    )  # fmt: skip
    return results


@rule(MOVES)
def _move(low: Lowering, op: Op) -> Results:
    if op.name in ("constant_pad_nd",):
        return emit_move(low, _zero_padded(op), move_of(_zero_padded(op)))
    return emit_move(low, op, move_of(op))


def _zero_padded(op: Op) -> Op:
    return Op(op.target, [op["self"], op["pad"], 0], {}, op.spec)


@rule("view_as_real")
def _numbers(low: Lowering, op: Op) -> int:
    (a,) = op.linear
    shape = op.shape
    value = low.moved(a.value, lambda ids: np.broadcast_to(ids[..., None], shape), shape)
    low.program.types[value] = type_of(op.spec)
    return value


@rule("view_as_complex")
def _complex(low: Lowering, op: Op) -> int:
    (a,) = op.linear
    parts = [low.moved(a.value, lambda ids, k=k: ids[..., k], op.shape) for k in (0, 1)]
    value = low.added(parts)
    assert value is not None
    low.program.types[value] = type_of(op.spec)
    return value


@rule("as_strided")
def _as_strided(low: Lowering, op: Op) -> int:
    """Places in memory as the traced run had them."""
    (a,) = op.linear
    assert op.layout is not None
    places = _places(a.shape, *op.layout)
    offset = op["storage_offset"]
    wanted = _places(tuple(op["size"]), tuple(op["stride"]), op.layout[1] if offset is None else offset)
    order = np.argsort(places, axis=None, kind="stable")
    flat = places.reshape(-1)[order]
    at = np.searchsorted(flat, wanted)
    inside = (at < len(flat)) & (flat[np.minimum(at, len(flat) - 1)] == wanted)
    if not inside.all():
        raise ValueError("as_strided beyond the tensor that it is given")
    index = order[at]
    return low.moved(a.value, lambda ids: ids.reshape(-1)[index], op.shape)


def _places(shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Ids:
    places: Ids = np.full((1,) * len(shape), offset, np.int64)
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        along = np.arange(size) * stride
        places = places + along.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return places


@rule(INDEXED)
def _index(low: Lowering, op: Op) -> Results:
    indices = [a for a in op.tensors if not _carries(a)]
    if all(a.tensor() is not None for a in indices):
        return emit_move(low, op, move_of(op))
    (source,) = op.linear
    kind = max(Dependence.VARYING, op.kind()) if any(a.kind == Dependence.VARYING for a in indices) else op.kind()
    if op.name in ("gather", "take_along_dim") and indices[0].choices() is not None:
        return _gather_choices(low, op, source, indices[0], kind)
    if op.name in ("gather", "index_select", "take_along_dim"):
        if not source.shape:
            return low.scaled(source.value, kind, None, op.shape)
        axis = op["dim"] % len(source.shape)
        if op.name == "gather":  # a gather reads the leading part of the other axes
            value = low.moved(source.value, _leading(axis, op.shape), _ended(source.shape, op.shape, axis))
            shape = op.shape
        else:
            value, shape = source.value, op.shape
        return low.lanes(Lanes, value, (axis,), shape, kind)
    if op.name == "embedding":
        summed = low.lanes(Lanes, source.value, (0,), (1, source.shape[1]), kind)
        return low.broadcast(low.reshaped(summed, (source.shape[1],)), op.shape)
    if op.name == "take":
        return low.by_pattern(Lanes, source.value, None, op.shape, kind)
    return _index_unknown(low, op, source, kind)


def _leading(axis: int, shape: tuple[int, ...]) -> Callable[[Ids], Ids]:
    cut = tuple(slice(None) if a == axis else slice(0, s) for a, s in enumerate(shape))
    return lambda ids: ids[cut]


def _ended(source: tuple[int, ...], shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return tuple(s if a == axis else min(s, o) for a, (s, o) in enumerate(zip(source, shape, strict=True)))


def _gather_choices(low: Lowering, op: Op, source: Arg, index: Arg, kind: Dependence) -> int:
    """Every index is one of a few: the windows of a pooling."""
    indptr, values = index.choices()
    axis = op["dim"] % len(source.shape)
    at = list(np.indices(index.shape).reshape(len(index.shape), -1))
    counts = np.diff(indptr)
    places = [values if a == axis else np.repeat(x, counts) for a, x in enumerate(at)]
    columns = np.ravel_multi_index(tuple(places), source.shape) if places else values
    rows = np.repeat(np.arange(index.size), counts)
    return low.by_pattern(Lanes, source.value, from_pairs(rows, columns, index.size), op.shape, kind)


def _index_unknown(low: Lowering, op: Op, source: Arg, kind: Dependence) -> int:
    """``x[i, :, j]`` with indices of which some are not known: dense over the axes that they index."""
    taken = [k for k, i in enumerate(op["indices"]) if i is not None]
    lead = _result_axes(op, taken)
    rest = [a for a in range(len(source.shape)) if a not in taken]
    summed = low.lanes(Lanes, source.value, taken, [1 if a in taken else s for a, s in enumerate(source.shape)], kind)
    start, count = lead

    def spread(ids: Ids) -> Ids:
        kept = ids.reshape([source.shape[a] for a in rest])
        before = start
        shaped = kept.reshape(kept.shape[:before] + (1,) * count + kept.shape[before:])
        return np.broadcast_to(shaped, op.shape)

    return low.moved(summed, spread, op.shape)


def _result_axes(op: Op, taken: list[int]) -> tuple[int, int]:
    """(place, number) of the axes of the indices in the result."""
    shapes = [i.shape for i in op["indices"] if i is not None]
    count = len(np.broadcast_shapes(*shapes))
    together = taken == list(range(taken[0], taken[-1] + 1))
    return (taken[0] if together else 0), count


@rule("scatter index_copy index_put _index_put_impl index_fill masked_scatter put _unsafe_index_put")
def _overwrite(low: Lowering, op: Op) -> Results:
    """Elements are written over others; indices that occur twice, or are not known, keep all that may be there."""
    from crelle.backends.torch.lower.reduce import accumulated, written_anywhere

    if op.get("accumulate") or op.get("reduce"):
        return accumulated(low, op)
    indices = [a for a in op.tensors if not _carries(a)]
    if any(a.tensor() is None for a in indices):
        return written_anywhere(low, op)
    apply = move_of(op)
    if (op.name == "index_fill" and not isinstance(op["value"], Arg)) or (
        op.name == "scatter" and op.get("src") is None
    ):
        apply = move_of(Op(op.target, [op["self"], op["dim"], op["index"], 0], {}, op.spec))
    source = op.get("src") or op.get("source") or op.get("values")
    if isinstance(source, Arg) and source.linear and not _unique(apply, op, source):
        return accumulated(low, op, over=True)
    return emit_move(low, op, apply)


def _unique(apply: Callable[..., Any], op: Op, source: Arg) -> bool:
    """Whether no place is written twice."""
    if op.name == "masked_scatter":
        return True
    if op.name in ("index_copy", "index_fill"):
        expected = source.size
    elif op.name in ("scatter", "put"):
        expected = op["index"].size
    else:
        base = torch.empty(op["self"].shape, device="meta")
        indices = [None if i is None else i.tensor() for i in op["indices"]]
        if any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices):
            return all(i is None or i.dtype in (torch.bool, torch.uint8) for i in indices)
        expected = base[tuple(slice(None) if i is None else i.to("meta") for i in indices)].numel()
    moved = [a for a in op.tensors if _carries(a)]
    ids = [np.full(a.shape, a is source, np.int64) for a in moved]
    return int(on_ids(apply, *ids).sum()) == expected
