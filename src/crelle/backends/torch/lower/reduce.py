"""Rules for sums: over axes, segments and windows, along an axis, and into places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from crelle.backends.torch.lower.known import on_ids
from crelle.backends.torch.lower.op import Arg, Op
from crelle.backends.torch.lower.walk import Lowering, Results, rule
from crelle.tangent.program import Dependence, Ids, Lanes, Reduce
from crelle.tangent.stencils import from_pairs, triangle

CONSTANT, VARYING = Dependence.CONSTANT, Dependence.VARYING


def axes_of(dim: Any, rank: int) -> tuple[int, ...]:
    """Axes from an argument ``dim``: a number, a list, or nothing for all."""
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return tuple(range(rank))
    dims = dim if isinstance(dim, (list, tuple)) else [dim]
    return tuple(sorted({d % rank for d in dims})) if rank else ()


@rule("sum mean nansum")
def _sum(low: Lowering, op: Op) -> int:
    (a,) = op.linear
    axes = axes_of(op.get("dim"), len(a.shape))
    kind = VARYING if op.name == "nansum" else CONSTANT
    if not axes:
        return a.value
    value = low.lanes(Reduce, a.value, axes, [1 if k in axes else s for k, s in enumerate(a.shape)], kind)
    return low.reshaped(value, op.shape)


@rule("trace")
def _trace(low: Lowering, op: Op) -> int:
    (a,) = op.linear
    count = min(a.shape)
    diagonal = low.moved(a.value, lambda ids: ids[np.arange(count), np.arange(count)], (count,))
    return low.reshaped(low.lanes(Reduce, diagonal, (0,), (1,), CONSTANT), ())


@rule("cumsum cumprod logcumsumexp cummax cummin cummaxmin_backward logcumsumexp_backward cumprod_backward")
def _cumulative(low: Lowering, op: Op) -> Results:
    if op.name == "cumsum":
        a = op["self"]
        return _along(low, a, op["dim"], CONSTANT)
    parts = [low.scaled(_along(low, a, op["dim"], VARYING), VARYING) for a in op.linear]
    value = low.added(parts)
    return [value, None] if op.several else value


def _along(low: Lowering, a: Arg, dim: int, kind: Dependence) -> int:
    if not a.shape:
        return a.value
    axis = dim % len(a.shape)
    return low.mixed(Reduce, a.value, axis, triangle(a.shape[axis], False), a.shape[axis], kind)


@rule("prod amax amin max min norm linalg_vector_norm std var logsumexp")
def _over(low: Lowering, op: Op) -> Results:
    """Not linear: what is read is all that a rule can say."""
    (a,) = op.linear
    axes = axes_of(op.get("dim"), len(a.shape))
    shape = op.specs[0].shape if op.specs[0] else ()
    value = low.lanes(Lanes, a.value, axes, [1 if k in axes else s for k, s in enumerate(a.shape)], VARYING)
    value = low.reshaped(value, shape)
    return [value, *[None] * (len(op.specs) - 1)] if op.several else value


# -- into places


@rule("scatter_add index_add index_reduce scatter_reduce")
def _into(low: Lowering, op: Op) -> Results:
    indices = [a for a in op.tensors if not _carries(a)]
    if any(i.tensor() is None for i in indices):
        return written_anywhere(low, op)
    return accumulated(low, op)


def _carries(a: Arg) -> bool:
    return a.spec.dtype.is_floating_point or a.spec.dtype.is_complex


def _source(op: Op) -> Any:
    for name in ("src", "source", "values", "value", "tensor"):
        found = op.get(name)
        if isinstance(found, Arg):
            return found
    return None


def accumulated(low: Lowering, op: Op, over: bool = False) -> int | None:
    """self + what is added at known places; ``over``: it is written there instead, which reads no more than that."""
    target, source = op["self"], _source(op)
    varies = str(op.get("reduce") or "sum") not in ("sum", "add", "mean")
    kind = VARYING if varies else CONSTANT
    parts: list[int | None] = []
    if target.linear:
        parts.append(target.value)
    if isinstance(source, Arg) and source.linear:
        rows, columns = _places(op, source)
        parts.append(low.by_pattern(Reduce, source.value, from_pairs(rows, columns, target.size), op.shape, kind))
    return low.added(parts)


def _places(op: Op, source: Arg) -> tuple[Ids, Ids]:
    """(flat places in the result, flat places in the source) of all that is added."""
    target = op["self"]
    ids = torch.arange(target.size).reshape(target.shape)
    of = torch.arange(source.size).reshape(source.shape)
    if op.name in ("scatter_add", "scatter_reduce", "scatter"):
        index = op["index"].tensor()
        read = of[tuple(slice(0, s) for s in index.shape)] if index.ndim else of
        return ids.gather(op["dim"], index).reshape(-1).numpy(), read.reshape(-1).numpy()
    if op.name in ("index_add", "index_copy", "index_reduce"):
        index = op["index"].tensor()
        to = ids.index_select(op["dim"], index) if ids.ndim else ids
        return to.reshape(-1).numpy(), of.reshape(-1).numpy()
    if op.name == "put":
        return op["index"].tensor().reshape(-1).numpy() % target.size, of.reshape(-1).numpy()
    indices = [None if i is None else i.tensor() for i in op["indices"]]
    to = torch.ops.aten.index.Tensor(ids, indices)
    return to.reshape(-1).numpy(), of.expand(to.shape).reshape(-1).numpy()


def written_anywhere(low: Lowering, op: Op) -> Results:
    """Places that are not known: anything along the axes of the index."""
    target, source = op["self"], _source(op)
    kind = VARYING
    parts: list[int | None] = []
    if target.linear:
        parts.append(low.scaled(target.value, kind))
    if not isinstance(source, Arg) or not source.linear:
        return low.added(parts)
    if not target.shape:
        parts.append(low.scaled(low.reshaped(source.value, ()), kind))
    elif op.name in ("scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_reduce"):
        axis = op["dim"] % len(target.shape)
        shape = [target.shape[axis] if a == axis else s for a, s in enumerate(source.shape)]
        value = low.lanes(Lanes, source.value, (axis,), shape, kind)
        parts.append(_padded(low, value, target.shape))
    else:
        parts.append(_put_anywhere(low, op, target, source, kind))
    return low.added(parts)


def _padded(low: Lowering, value: int, shape: Sequence[int]) -> int:
    """A value in the corner of a larger one, or cut to it."""
    old = low.type_of(value).shape
    if tuple(old) == tuple(shape):
        return value
    inside = tuple(slice(0, min(a, b)) for a, b in zip(old, shape, strict=True))

    def move(ids: Ids) -> Ids:
        whole = np.zeros(tuple(shape), ids.dtype)
        whole[inside] = ids[inside]
        return whole

    return low.moved(value, move, shape)


def _put_anywhere(low: Lowering, op: Op, target: Arg, source: Arg, kind: Dependence) -> int:
    """``index_put`` with indices of which some are not known: dense over the axes that they index."""
    if op.get("indices") is None:
        return low.by_pattern(Lanes, source.value, None, op.shape, kind)
    taken = [k for k, i in enumerate(op["indices"]) if i is not None]
    count = len(np.broadcast_shapes(*[i.shape for i in op["indices"] if i is not None]))
    together = taken == list(range(taken[0], taken[-1] + 1))
    start = taken[0] if together else 0
    rest = [a for a in range(len(target.shape)) if a not in taken]
    full = tuple(target.shape[a] for a in rest)
    index_shape = tuple(np.broadcast_shapes(*[i.shape for i in op["indices"] if i is not None]))
    whole = full[:start] + index_shape + full[start:]
    value = low.broadcast(source.value, whole)
    axes = tuple(range(start, start + count))
    if axes:
        value = low.lanes(Lanes, value, axes, [1 if a in axes else s for a, s in enumerate(whole)], kind)
    value = low.reshaped(value, [s if a in rest else 1 for a, s in enumerate(target.shape)])
    return low.scaled(value, kind, None, target.shape)


# -- transposes of moves


@rule("reflection_pad1d_backward reflection_pad2d_backward reflection_pad3d_backward replication_pad1d_backward "
      "replication_pad2d_backward replication_pad3d_backward")  # fmt: skip
def _pad_backward(low: Lowering, op: Op) -> int:
    forward = getattr(torch.ops.aten, op.name.removesuffix("_backward"))
    return _transposed_move(low, op, op["grad_output"], op["self"].shape, lambda t: forward(t, op["padding"]))


@rule("unfold_backward")
def _unfold_backward(low: Lowering, op: Op) -> int:
    return _transposed_move(
        low, op, op["grad_in"], tuple(op["input_sizes"]), lambda t: t.unfold(op["dim"], op["size"], op["step"])
    )


@rule("col2im")
def _col2im(low: Lowering, op: Op) -> int:
    a = op["self"]
    sizes = (*op.shape[:-2], *op["output_size"])
    rest = (op["kernel_size"], op["dilation"], op["padding"], op["stride"])
    return _transposed_move(low, op, a, sizes, lambda t: torch.ops.aten.im2col(t, *rest))


@rule("upsample_nearest1d_backward upsample_nearest2d_backward upsample_nearest3d_backward "
      "_upsample_nearest_exact1d_backward _upsample_nearest_exact2d_backward "
      "_upsample_nearest_exact3d_backward")  # fmt: skip
def _nearest_backward(low: Lowering, op: Op) -> int:
    forward = getattr(torch.ops.aten, op.name.removesuffix("_backward"))
    scales = [op.get(n) for n in ("scales", "scales_d", "scales_h", "scales_w") if op.get(n) is not None]
    return _transposed_move(
        low, op, op["grad_output"], tuple(op["input_size"]), lambda t: forward(t, op["output_size"], *scales)
    )


@rule("embedding_dense_backward")
def _embedding_backward(low: Lowering, op: Op) -> int:
    grad, index, rows = op["grad_output"], op["indices"].tensor(), op["num_weights"]
    width = grad.shape[-1]
    value = low.reshaped(grad.value, (grad.size // width if width else 0, width))
    if index is None:
        return low.lanes(Lanes, value, (0,), (rows, width), VARYING)
    flat = index.reshape(-1).numpy()
    used = np.flatnonzero(flat != op["padding_idx"]) if op["padding_idx"] >= 0 else np.arange(len(flat))
    kind = op["indices"].kind
    return low.mixed(Reduce, value, 0, from_pairs(flat[used], used, rows), rows, kind)


def _transposed_move(low: Lowering, op: Op, grad: Arg, shape: tuple[int, ...], forward: Any) -> int:
    """Where a move takes an element from several places, its transpose adds them up."""
    size = int(np.prod(shape, dtype=np.int64))
    found = on_ids(forward, np.arange(1, size + 1).reshape(shape)).reshape(-1)
    rows = np.flatnonzero(found)
    pattern = from_pairs(found[rows] - 1, rows, size)
    return low.by_pattern(Reduce, grad.value, pattern, shape, CONSTANT)
