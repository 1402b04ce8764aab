"""Rules for operations of no common kind: losses, samplers, reductions into places, adjoints of pads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from crelle.backends.torch.lowering.movement import run_on_ids
from crelle.backends.torch.lowering.walk import Lowering, args_of, rule
from crelle.tangent.program import Contract, Dependence, Lanes
from crelle.tangent.shapes import csr


def _arg(node: fx.Node, name: str) -> Any:
    """An argument by the name of its schema."""
    target: Any = node.target
    for i, a in enumerate(target._schema.arguments):
        if a.name == name:
            default = a.default_value if a.has_default_value() else None
            return node.args[i] if i < len(node.args) else node.kwargs.get(name, default)
    return None


@rule("linalg_cross")
def _cross(low: Lowering, node: fx.Node) -> Any:
    """Along an axis of three, each element reads the two others of either side."""
    out = low.spec(node).shape
    axis = int(_arg(node, "dim") if _arg(node, "dim") is not None else -1) % len(out)
    parts: list[int | None] = []
    for mine, other in ((args_of(node)[0], args_of(node)[1]), (args_of(node)[1], args_of(node)[0])):
        value = low.tangent(mine)
        if value is not None:
            pattern = csr(~np.eye(3, dtype=bool))
            parts.append(low.mixed(Contract, low.spread(value, out), axis, pattern, 3, low.kind(other)))
    return low.added(parts)


@rule("reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward",
      "replication_pad1d_backward", "replication_pad2d_backward", "replication_pad3d_backward")  # fmt: skip
def _pad_backward(low: Lowering, node: fx.Node) -> Any:
    """The transpose of a move: elements that were taken several times are added up."""
    gradient, image, padding = args_of(node)[:3]
    value, shape = low.tangent(gradient), low.shape(image)
    if value is None:
        return None
    name = str(node.target).split(".")[1].removesuffix("_backward")
    places = torch.arange(int(np.prod(shape)), dtype=torch.float64).reshape(shape)
    where = getattr(torch.ops.aten, name)(places, padding).numpy().astype(np.int64)
    return low.placed(value, where, shape, Dependence.CONSTANT)


@rule("masked_scatter")
def _masked_scatter(low: Lowering, node: fx.Node) -> Any:
    if low.known(args_of(node)[1]) is None:
        return low.opaque(node, "a mask that is not known")
    return run_on_ids(low, node, kind=low.kind(args_of(node)[1]))


@rule("put", "index_fill")
def _put(low: Lowering, node: fx.Node) -> Any:
    name = str(node.target).split(".")[1]
    base, index = args_of(node)[0], args_of(node)[1 if name == "put" else 2]
    known = low.known(index)
    if known is None:
        return low.opaque(node, "an index that is not known")
    shape = low.spec(node).shape
    places = torch.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)
    where = places.reshape(-1)[known] if name == "put" else places.index_select(int(_arg(node, "dim")), known)
    source = _arg(node, "source" if name == "put" else "value")
    adds = name == "put" and bool(_arg(node, "accumulate"))
    parts: list[int | None] = []
    value, into = low.tangent(base), low.tangent(source)
    if value is not None:
        keep = np.ones(places.numel(), bool)
        if not adds:
            keep[where.reshape(-1).numpy()] = False
        parts.append(low.scaled(value, low.kind(index), keep.reshape(shape)))
    if into is not None:
        into = low.spread(into, tuple(where.shape))
        parts.append(low.placed(into, where.numpy(), shape, low.kind(index)))
    return low.added(parts)


@rule("nll_loss_forward", "nll_loss2d_forward")
def _nll(low: Lowering, node: fx.Node) -> Any:
    """Minus the element of each row that a target names, or their sum."""
    names = ("self", "target", "weight", "reduction", "ignore_index")
    source, target, weight, reduction, ignored = (_arg(node, name) for name in names)
    value, shape = low.tangent(source), low.shape(source)
    if value is None:
        return [None, None]
    known, kind = low.known(target), low.kind(target, weight)
    axis = 1 if len(shape) > 1 else 0
    rest = tuple(s for a, s in enumerate(shape) if a != axis)
    if known is None:
        lane = low.lanes(Lanes, value, [axis], tuple(1 if a == axis else s for a, s in enumerate(shape)), kind)
        picked = low.moved(lane, lambda a: a.reshape(rest), rest)
    else:
        index = np.expand_dims(known.numpy().reshape(rest), axis)
        inside = np.squeeze(index != ignored, axis)
        index = np.where(index == ignored, 0, index)
        picked = low.moved(value, lambda a: np.squeeze(np.take_along_axis(a, index, axis), axis), rest)
        picked = low.scaled(picked, kind, None if inside.all() else inside)
    if reduction != 0 and rest:
        lane = low.lanes(Lanes, picked, range(len(rest)), (1,) * len(rest), kind)
        picked = low.moved(lane, lambda a: a.reshape(()), ())
    return [picked, None]


@rule("grid_sampler_2d", "grid_sampler_3d")
def _sampler(low: Lowering, node: fx.Node) -> Any:
    """Linear in the image: a sample reads its plane."""
    image, grid = args_of(node)[:2]
    value = low.tangent(image)
    if value is None or low.tangent(grid) is not None:
        return low.opaque(node, "not linear in its operands")
    return low.lanes(Lanes, value, range(2, len(low.shape(image))), low.spec(node).shape, low.kind(grid))


@rule("grid_sampler_2d_backward", "grid_sampler_3d_backward")
def _sampler_backward(low: Lowering, node: fx.Node) -> Any:
    gradient, image, grid = args_of(node)[:3]
    value, shape = low.tangent(gradient), low.shape(gradient)
    if value is None or low.tangent(image) is not None or low.tangent(grid) is not None:
        return low.opaque(node, "not linear in its operands")
    mask: Any = _arg(node, "output_mask")
    kind = low.kind(image, grid)
    results: list[int | None] = [None, None]
    if mask[0]:
        results[0] = low.lanes(Lanes, value, range(2, len(shape)), low.shape(image), low.kind(grid))
    if mask[1]:
        lane = low.lanes(Lanes, value, [1], (shape[0], 1, *shape[2:]), kind)
        each = (shape[0], *shape[2:], 1)
        results[1] = low.spread(low.moved(lane, lambda a: a.reshape(each), each), low.shape(grid))
    return results


@rule("max_unpool2d", "max_unpool3d")
def _unpool(low: Lowering, node: fx.Node) -> Any:
    source, index = args_of(node)[:2]
    value, shape, out = low.tangent(source), low.shape(source), low.spec(node).shape
    rank = 2 if "2d" in str(node.target) else 3
    if value is None:
        return None
    lane = low.lanes(Lanes, value, range(len(shape) - rank, len(shape)), (*shape[:-rank], *[1] * rank), low.kind(index))
    return low.spread(lane, out)


@rule("scatter_reduce", "index_reduce")
def _scatter_reduce(low: Lowering, node: fx.Node) -> Any:
    """Sums and means into known places."""
    base, index, source = _arg(node, "self"), _arg(node, "index"), _arg(node, "src") or _arg(node, "source")
    how, known = str(_arg(node, "reduce")), low.known(index)
    value, into, shape = low.tangent(base), low.tangent(source), low.spec(node).shape
    if how not in ("sum", "mean") or known is None or "index_reduce" in str(node.target):
        return low.opaque(node, "no rule")
    places = torch.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)
    where = places.gather(int(_arg(node, "dim")), known).numpy()
    parts: list[int | None] = [value]
    if into is not None:
        if low.shape(source) != where.shape:
            corner = tuple(slice(0, s) for s in where.shape)
            into = low.moved(into, lambda a: a[corner], where.shape)
        parts.append(low.placed(into, where, shape, low.kind(index)))
    return low.added(parts)
