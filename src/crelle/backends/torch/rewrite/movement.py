"""Rules for operations that make, move or sum elements."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from crelle.backends.torch.rewrite.builder import Builder
from crelle.backends.torch.rewrite.registry import RULES, apply, cast, plain, rule, zero
from crelle.backends.torch.rewrite.values import Slabs, Spec, aten, without_ones


@rule(
    aten.zeros.default, aten.ones.default, aten.new_zeros.default, aten.new_ones.default, aten.zeros_like.default,
    aten.ones_like.default, aten._efficientzerotensor.default, aten.scalar_tensor.default, aten.full.default,
    aten.full_like.default, aten.new_full.default, aten.fill.Scalar, aten.zero.default,
)  # fmt: skip
def _filled(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    if kwargs.get("layout") not in (None, torch.strided):
        return b.emit(target, args, kwargs, spec)
    name = target.overloadpacket
    if name in (aten.full, aten.full_like, aten.fill):
        value = args[1]
    elif name is aten.new_full:
        value = args[2]
    elif name is aten.scalar_tensor:
        value = args[0]
    else:
        value = 1 if name in (aten.ones, aten.new_ones, aten.ones_like) else 0
    if spec.dtype.is_floating_point and isinstance(value, (int, float)):
        value = float(value)
    return b.full(spec, value, name is aten._efficientzerotensor)


@rule(aten.fill.Tensor)
def _fill_tensor(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    return cast(b, args[1], spec)


@rule(aten.eye.default, aten.eye.m)
def _eye(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    if spec.shape[0] != spec.shape[1]:
        return b.emit(target, args, kwargs, spec)
    return b.diag(b.full(spec._replace(shape=spec.shape[:1]), 1.0, True), spec.shape[1:])


@rule(aten.diag_embed.default)
def _diag_embed(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    if len(args) == 1 and not kwargs and len(spec.shape) == 2:
        return b.diag(args[0], spec.shape[1:])
    return b.emit(target, args, kwargs, spec)


@rule(aten.cat.default)
def _cat(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    parts: list[fx.Node] = [p for p in args[0] if b.shape(p) != (0,)]
    axis = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % max(len(spec.shape), 1)
    if len(parts) == 1 and b.spec[parts[0]].dtype == spec.dtype:
        return parts[0]
    fills = [b.fill.get(p) for p in parts]
    if fills and None not in fills and len({f.value for f in fills}) == 1:  # type: ignore[union-attr]
        return b.full(spec, fills[0].value, all(f.structural for f in fills))  # type: ignore[union-attr]
    return b.emit(target, (tuple(parts or args[0]), axis), {}, spec)


@rule(aten.stack.default)
def _stack(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    parts = args[0]
    axis = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % len(spec.shape)
    if len(parts) == 1:
        return b.reshape(parts[0], spec.shape)
    fills = [b.fill.get(p) for p in parts]
    if None not in fills and len({f.value for f in fills}) == 1:  # type: ignore[union-attr]
        return b.full(spec, fills[0].value, all(f.structural for f in fills))  # type: ignore[union-attr]
    return b.emit(target, (tuple(parts), axis), {}, spec)


@rule(
    aten.gather.default, aten.index_select.default, aten.index.Tensor, aten.flip.default, aten.roll.default,
    aten.repeat.default,
)  # fmt: skip
def _moved(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    return b.full(spec, *b.fill[args[0]]) if args[0] in b.fill else b.emit(target, args, kwargs, spec)


@rule(
    aten.cumsum.default, aten.tril.default, aten.triu.default, aten.mean.default, aten.mean.dim,
    aten._softmax_backward_data.default, aten._log_softmax_backward_data.default,
)  # fmt: skip
def _linear(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    return b.full(spec, 0.0, True) if zero(b, args[0]) else b.emit(target, args, kwargs, spec)


@rule(aten.sum.dim_IntList, aten.sum.default)
def _sum(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    x = args[0]
    old = b.spec[x]
    if old.dtype != spec.dtype:
        return b.emit(target, args, kwargs, spec)
    given = args[1] if len(args) > 1 else None
    given = [given] if isinstance(given, int) else given
    dims = {d % max(len(old.shape), 1) for d in given} if given else set(range(len(old.shape)))
    return b.reshape(
        _sum_over(b, x, tuple(d for d in sorted(dims) if old.shape and old.shape[d] != 1), spec), spec.shape
    )


def _sum_over(b: Builder, x: fx.Node, dims: tuple[int, ...], spec: Spec) -> fx.Node:
    """Sum over axes longer than 1, before the views of x. Of the result, other axes of length 1 may be there or not."""
    if not dims:
        return x
    old = b.shape(x)
    count = math.prod(old[d] for d in dims)
    rest = tuple(s for d, s in enumerate(old) if d not in dims)
    if x in b.fill and plain(spec):
        return b.full(spec._replace(shape=rest), b.fill[x].value * count, b.fill[x].structural)
    if x in b.diagonal and dims == tuple(d for d in range(1, len(old)) if old[d] != 1):
        return b.diagonal[x].values
    if b.is_expand(x) and plain(spec):
        inner, _ = b.arguments(x)
        padded = (1,) * (len(old) - len(b.shape(inner))) + b.shape(inner)
        inner = b.reshape(inner, padded)
        repeated = math.prod(old[d] for d in dims if padded[d] == 1)
        if repeated > 1:
            kept = tuple(d for d in dims if padded[d] != 1)
            total = _sum_over(b, inner, kept, spec)
            shape = tuple(1 if d in kept else p for d, p in enumerate(padded))
            scaled = apply(
                b, aten.mul.Tensor, (b.reshape(total, shape), b.scalar(spec, repeated)), {}, spec._replace(shape=shape)
            )
            return b.expand(scaled, tuple(1 if d in dims else s for d, s in enumerate(old)))
    if b.is_reshape(x):
        inner, _ = b.arguments(x)
        if without_ones(b.shape(inner)) == without_ones(old):
            axes = [d for d, s in enumerate(b.shape(inner)) if s != 1]
            long = [d for d, s in enumerate(old) if s != 1]
            return _sum_over(b, inner, tuple(axes[long.index(d)] for d in dims), spec)
    if b.is_permute(x):
        inner, order = b.arguments(x)
        moved = tuple(sorted(order[d] for d in dims))
        total = _sum_over(b, inner, moved, spec)
        shape = tuple(s for d, s in enumerate(b.shape(inner)) if d not in moved)
        left = [a for a in order if a not in moved]
        return b.permute(b.reshape(total, shape), tuple(sorted(left).index(a) for a in left))
    shape = tuple(s for d, s in enumerate(old) if d not in dims)
    if len(dims) == len(old):
        return b.emit(aten.sum.default, (x,), {}, spec._replace(shape=()))
    return b.emit(aten.sum.dim_IntList, (x, dims), {}, spec._replace(shape=shape))


@rule(aten.select_backward.default)
def _select_backward(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    x, _, axis, index = args
    axis, index = axis % len(spec.shape), index % spec.shape[axis]
    kept = (*spec.shape[:axis], 1, *spec.shape[axis + 1 :])
    return b.slab(spec, Slabs(axis, ((index, index + 1, b.reshape(x, kept)),)))


@rule(aten.slice_backward.default)
def _slice_backward(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    x, _, axis, start, stop, step = args
    axis %= len(spec.shape)
    start, stop, step = slice(start, stop, step).indices(spec.shape[axis])
    if step != 1 or stop <= start:
        return b.emit(target, args, kwargs, spec)
    return b.slab(spec, Slabs(axis, ((start, stop, x),)))


@rule(aten.clone.default, aten.lift_fresh_copy.default, aten._conj_physical.default)
def _clone(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    if target is aten._conj_physical.default and spec.dtype.is_complex:
        return RULES[torch.Tag.pointwise](b, target, args, kwargs, spec)
    return args[0]  # type: ignore[no-any-return]


@rule(aten.copy.default)
def _copy(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    old, new = b.spec[args[0]], args[1]
    if b.spec[new].device != old.device:
        return b.emit(target, args[:2], {}, spec)
    return cast(b, new, old)
