"""What is simplified, operation by operation. A rule gets the new arguments of an operation and gives its value.

A rule must keep the primal value to rounding, keep derivatives of all orders, and hold under ``torch.func``. Zeros are
dropped from products only where they are structural: seeds, and tangents that the derivative rules made up.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from crelle.backends.torch.rewrite import Builder, Fill, Slabs, Spec, aten, tensors_in, without_ones

Rule = Callable[[Builder, Any, tuple[Any, ...], dict[str, Any], Any], Any]
RULES: dict[Any, Rule] = {}


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    """Register a rule for operations."""

    def register(function: Rule) -> Rule:
        for target in targets:
            RULES[target] = function
        return function

    return register


def apply(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Any) -> Any:
    """The value of an operation, simplified."""
    if target in RULES:
        return RULES[target](b, target, args, kwargs, spec)
    if torch.Tag.pointwise in target.tags and isinstance(spec, Spec):
        return pointwise(b, target, args, kwargs, spec)
    return b.emit(target, args, kwargs, spec)


# Element by element


#: Known to broadcast all their tensor arguments.
_BROADCASTS = frozenset(
    (
        aten.add, aten.sub, aten.rsub, aten.mul, aten.div, aten.where, aten.pow, aten.maximum, aten.minimum, aten.atan2,
        aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge, aten.logical_and, aten.logical_or, aten.bitwise_and,
        aten.bitwise_or, aten.tanh_backward, aten.sigmoid_backward, aten.threshold_backward, aten.gelu_backward,
        aten.silu_backward, aten.fmod, aten.remainder, aten.hypot, aten.xlogy, aten.addcmul, aten.addcdiv, aten.lerp,
    )
)  # fmt: skip
#: Linear in their first argument, and zero where it is.
_LINEAR_FIRST = frozenset(
    (
        aten.neg, aten.div, aten.tanh_backward, aten.sigmoid_backward, aten.threshold_backward, aten.gelu_backward,
        aten.silu_backward, aten.elu_backward, aten.leaky_relu_backward, aten.softplus_backward, aten.hardtanh_backward,
        aten.hardswish_backward, aten.hardsigmoid_backward, aten.log_sigmoid_backward, aten.mish_backward,
        aten.logit_backward, aten._conj_physical, aten.conj_physical, aten._to_copy,
    )
)  # fmt: skip


def pointwise(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    """An elementwise operation, computed on the smallest shape: before expansions, and without axes of size 1."""
    operands = tensors_in(args, kwargs)
    if not operands or any(not isinstance(b.spec[n], Spec) for n in operands):
        return b.emit(target, args, kwargs, spec)
    folded = _on_diagonal(b, target, args, kwargs, spec)
    if folded is not None:
        return folded
    broadcasts = target.overloadpacket in _BROADCASTS
    if broadcasts or len(operands) == 1:
        swap = {n: b.unexpanded(n) for n in operands}
        if broadcasts and len(operands) > 1:
            swap = {n: _as_scalar(b, m, spec) for n, m in swap.items()}
        shape = torch.broadcast_shapes(*(b.shape(n) for n in swap.values()))
        if shape != spec.shape or any(n is not m for n, m in swap.items()):
            args, kwargs = _swapped((args, kwargs), swap)
            if math.prod(shape) == spec.size and shape != spec.shape:  # only axes of size 1 differ
                return b.reshape(pointwise(b, target, args, kwargs, spec._replace(shape=tuple(shape))), spec.shape)
            return b.expand(pointwise(b, target, args, kwargs, spec._replace(shape=tuple(shape))), spec.shape)
    moved = _past_views(b, operands, spec.shape, broadcasts)
    if moved is not None:
        swap, shape, back = moved
        args, kwargs = _swapped((args, kwargs), swap)
        return back(pointwise(b, target, args, kwargs, spec._replace(shape=shape)))
    return b.emit(target, args, kwargs, spec)


def _as_scalar(b: Builder, node: fx.Node, spec: Spec) -> fx.Node:
    """A filled tensor as a 0-d one of the same type, where that cannot change the type of the result."""
    if node in b.fill and b.spec[node].dtype == spec.dtype:
        return b.full(b.spec[node]._replace(shape=()), *b.fill[node])
    return node


def _swapped(value: Any, swap: dict[fx.Node, fx.Node]) -> Any:
    if isinstance(value, fx.Node):
        return swap.get(value, value)
    if isinstance(value, (tuple, list)):
        return tuple(_swapped(v, swap) for v in value)
    if isinstance(value, dict):
        return {k: _swapped(v, swap) for k, v in value.items()}
    return value


def _past_views(
    b: Builder, operands: list[fx.Node], shape: tuple[int, ...], broadcasts: bool
) -> tuple[dict[fx.Node, fx.Node], tuple[int, ...], Callable[[fx.Node], fx.Node]] | None:
    """Operands before their views, and the view to take of the result instead; ``None`` where that saves nothing."""
    full = [n for n in dict.fromkeys(operands) if b.shape(n) != ()]
    if not full:
        return None
    if all(b.shape(n) == shape for n in full):
        if all(b.is_permute(n) for n in full):
            orders = {b.arguments(n)[1] for n in full}
            if len(orders) == 1:
                (order,) = orders
                swap = {n: b.arguments(n)[0] for n in full}
                return swap, b.shape(swap[full[0]]), lambda x: b.permute(x, order)
        if all(b.is_reshape(n) for n in full):
            cores = {b.shape(b.arguments(n)[0]) for n in full}
            if len(cores) == 1:
                return {n: b.arguments(n)[0] for n in full}, cores.pop(), lambda x: b.reshape(x, shape)
    if broadcasts and 1 in shape:
        kept = [i for i, s in enumerate(shape) if s != 1]
        target = tuple(shape[i] for i in kept)
        before = sum(b.is_reshape(n) for n in full)
        swap = {}
        for n in full:
            padded = (1,) * (len(shape) - len(b.shape(n))) + b.shape(n)
            wanted = [padded[i] for i in kept]
            while wanted and wanted[0] == 1:
                wanted.pop(0)
            swap[n] = b.reshape(n, wanted)
        after = sum(b.is_reshape(n) for n in swap.values())
        if before and after <= before:
            return swap, target, lambda x: b.reshape(x, shape)
    return None


def _on_diagonal(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node | None:
    """Linear operations on a diagonal matrix, on its n diagonal elements instead of n²."""
    name = target.overloadpacket
    shape = spec.shape[1:]
    diagonals = [i for i, a in enumerate(args) if isinstance(a, fx.Node) and a in b.diagonal]
    if not diagonals or spec.dtype != b.spec[args[diagonals[0]]].dtype or b.shape(args[diagonals[0]]) != spec.shape:
        return None
    if name is aten.mul:
        linear = len(diagonals) == 1
    elif name in (aten.add, aten.sub):
        linear = len(diagonals) == 2
    elif name is aten.where:
        other = 2 if diagonals == [1] else 1
        linear = diagonals in ([1], [2]) and b.fill.get(args[other], Fill(1, False)).value == 0
    elif name is aten.masked_fill:
        linear = diagonals == [0] and args[2] == 0
    else:
        linear = diagonals == [0] and name in _LINEAR_FIRST and not kwargs
    if not linear:
        return None
    n = spec.shape[0]

    def on_values(node: fx.Node) -> fx.Node | None:
        if node in b.diagonal:
            return b.diagonal[node].values
        old = b.shape(node)
        if len(old) == len(spec.shape):
            if old[0] != 1:
                return None
            old = old[1:]
        if math.prod(old) == 1:
            return b.reshape(node, ())
        return b.reshape(b.expand(b.reshape(node, old), shape), (n,))

    swap = {}
    for node in tensors_in(args, kwargs):
        flat = on_values(node)
        if flat is None:
            return None
        swap[node] = flat
    args, kwargs = _swapped((args, kwargs), swap)
    return b.diag(apply(b, target, args, kwargs, spec._replace(shape=(n,))), shape)


def _number(b: Builder, value: Any) -> Fill | None:
    """What an operand is filled with."""
    if isinstance(value, fx.Node):
        return b.fill.get(value)
    return Fill(value, False) if isinstance(value, (int, float, complex)) else None


def _cast(b: Builder, x: fx.Node, spec: Spec) -> fx.Node:
    """x with the type and shape of a result."""
    if b.spec[x].dtype != spec.dtype:
        x = b.emit(aten._to_copy.default, (x,), {"dtype": spec.dtype}, b.spec[x]._replace(dtype=spec.dtype))
    return b.expand(x, spec.shape)


def _plain(spec: Spec) -> bool:
    """Whether numbers may be held as 0-d tensors: kernels of shorter types compute with the number in float32."""
    return spec.dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128)


def _tensor_form(b: Builder, packet: Any, args: tuple[Any, ...], spec: Spec) -> tuple[Any, tuple[Any, ...]]:
    """``op.Tensor`` with 0-d tensors for numbers, so that all forms of an operation are numbered alike."""
    if not _plain(spec) or any(isinstance(a, complex) and not spec.dtype.is_complex for a in args):
        return None, args
    if any(isinstance(a, fx.Node) and b.spec[a].dtype != spec.dtype for a in args):
        return None, args
    return packet.Tensor, tuple(a if isinstance(a, fx.Node) else b.scalar(spec, a) for a in args)


def _in_order(b: Builder, pair: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of a commutative operation in the order in which they were made, filled tensors last."""
    return tuple(sorted(pair, key=lambda n: (n in b.fill, b.order.get(n, -1)))) if len(tensors_in(pair)) == 2 else pair


@rule(aten.mul.Tensor, aten.mul.Scalar)
def _mul(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    x, y = args
    if _number(b, x) is not None and isinstance(y, fx.Node):
        x, y = y, x
    known = _number(b, y)
    if known is not None and isinstance(x, fx.Node):
        first = b.fill.get(x)
        if first is not None and _plain(spec):
            return b.full(spec, first.value * known.value, known.structural or first.structural)
        if known.value == 1:
            return _cast(b, x, spec)
        if known.value == 0 and known.structural:
            return b.full(spec, known.value, True)
        if known.value == -1 and b.spec[x].dtype == spec.dtype:
            return b.expand(apply(b, aten.neg.default, (x,), {}, b.spec[x]), spec.shape)
        if _plain(spec) and b.spec[x].dtype == spec.dtype:
            inner = b.unexpanded(x)
            if inner.target is aten.mul.Tensor:
                before = _number(b, inner.args[1])
                if before is not None and all(2**-20 <= abs(v) <= 2**20 for v in (before.value, known.value)):
                    factor = b.scalar(spec, before.value * known.value)
                    return b.expand(_mul(b, target, (inner.args[0], factor), {}, b.spec[inner]), spec.shape)
    elif y in b.constant and isinstance(x, fx.Node) and x.target is aten.mul.Tensor and x not in b.constant:
        known_factor = x.args[1]
        if known_factor in b.constant and _mild(b.value(known_factor)) and _mild(b.value(y)):
            factor = apply(b, target, (known_factor, y), {}, b.infer(target, (known_factor, y), {}))
            return _mul(b, target, (x.args[0], factor), {}, spec)
    form, pair = _tensor_form(b, aten.mul, (x, y), spec)
    return pointwise(b, form or target, _in_order(b, pair), kwargs, spec)


def _mild(value: torch.Tensor) -> bool:
    """Whether factors may be multiplied first: nothing overflows or is lost that was not before."""
    size = value.abs()
    return value.dtype.is_floating_point and bool(((size == 0) | ((size >= 2**-20) & (size <= 2**20))).all())


@rule(aten.div.Tensor, aten.div.Scalar)
def _div(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    x, y = args
    known = _number(b, y)
    if known is not None and known.value == 1:
        return _cast(b, x, spec)
    if x in b.fill and b.fill[x].value == 0 and b.fill[x].structural:
        return b.full(spec, *b.fill[x])
    form, pair = _tensor_form(b, aten.div, (x, y), spec)
    return pointwise(b, form or target, pair, kwargs, spec)


@rule(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar)
def _add(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    x, y, *rest = args
    alpha = rest[0] if rest else kwargs.get("alpha", 1)
    minus = target.overloadpacket is aten.sub
    known, first = _number(b, y), _number(b, x)
    if known is not None and known.value == 0 and isinstance(x, fx.Node):
        return _cast(b, x, spec)
    if first is not None and first.value == 0 and isinstance(y, fx.Node) and alpha == 1:
        y = _cast(b, y, spec)
        return apply(b, aten.neg.default, (y,), {}, spec) if minus else y
    if alpha != 1:
        return pointwise(b, target, (x, y), {"alpha": alpha}, spec)
    if x in b.slabs and y in b.slabs and not minus:
        merged = _merge(b, b.slabs[x], b.slabs[y])
        if merged is not None:
            return b.slab(spec, merged)
    form, pair = _tensor_form(b, target.overloadpacket, (x, y), spec)
    return pointwise(b, form or target, pair if minus else _in_order(b, pair), {}, spec)


def _merge(b: Builder, first: Slabs, second: Slabs) -> Slabs | None:
    """The sum of two tensors of pieces, where pieces coincide or are disjoint."""
    if first.axis != second.axis:
        return None
    pieces = {piece[:2]: piece[2] for piece in first.pieces}
    for start, stop, value in second.pieces:
        if (start, stop) in pieces:
            pieces[start, stop] = _add(b, aten.add.Tensor, (pieces[start, stop], value), {}, b.spec[value])
        else:
            pieces[start, stop] = value
    ordered = tuple((start, stop, pieces[start, stop]) for start, stop in sorted(pieces))
    if any(a[1] > c[0] for a, c in itertools.pairwise(ordered)):
        return None
    return Slabs(first.axis, ordered)


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


@rule(aten.rsub.Scalar, aten.rsub.Tensor)
def _rsub(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    x, y, *rest = args
    if (rest[0] if rest else kwargs.get("alpha", 1)) != 1:
        return pointwise(b, target, args, kwargs, spec)
    form, pair = _tensor_form(b, aten.sub, (y, x), spec)
    return pointwise(b, form, pair, {}, spec) if form else pointwise(b, target, args, kwargs, spec)


@rule(aten.neg.default)
def _neg(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    (x,) = args
    if x.target is aten.neg.default:
        return x.args[0]  # type: ignore[no-any-return]
    if x in b.fill and _plain(spec):
        return b.full(spec, -b.fill[x].value, b.fill[x].structural)
    return pointwise(b, target, args, kwargs, spec)


@rule(aten.pow.Tensor_Scalar)
def _pow(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    x, power = args
    if power == 1:
        return _cast(b, x, spec)
    if power == 0:
        return b.full(spec, 1)
    if power == 2:
        power = 2
    return pointwise(b, target, (x, power), kwargs, spec)


@rule(aten.where.self)
def _where(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    _, x, y = args
    fills = b.fill.get(x), b.fill.get(y)
    if None not in fills and fills[0].value == fills[1].value:  # type: ignore[union-attr]
        return b.full(spec, fills[0].value, all(f.structural for f in fills))  # type: ignore[union-attr]
    return pointwise(b, target, args, kwargs, spec)


@rule(
    aten.tanh_backward.default, aten.sigmoid_backward.default, aten.threshold_backward.default,
    aten.gelu_backward.default, aten.silu_backward.default, aten.elu_backward.default,
    aten.leaky_relu_backward.default, aten.softplus_backward.default, aten.hardtanh_backward.default,
    aten.masked_fill.Scalar,
)  # fmt: skip
def _activation_backward(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    known = b.fill.get(args[0])
    if known is not None and known.value == 0 and known.structural and target is not aten.masked_fill.Scalar:
        return b.full(spec, *known)
    return pointwise(b, target, args, kwargs, spec)


@rule(aten._to_copy.default)
def _to_copy(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    (x,) = args
    if not isinstance(x, fx.Node):  # a number that torch had wrapped
        return b.full(spec, x)
    old = b.spec[x]
    if kwargs.get("layout") not in (None, torch.strided):
        return b.emit(target, args, kwargs, spec)
    if (old.dtype, old.device) == (spec.dtype, spec.device):
        return x
    if x in b.fill and old.device == spec.device and _plain(old) and _plain(spec):
        return b.full(spec, *b.fill[x])
    if old.device == spec.device:
        return pointwise(b, target, args, {"dtype": spec.dtype}, spec)
    changes = {k: v for k, v in (("dtype", spec.dtype), ("device", spec.device)) if v != getattr(old, k)}
    return b.emit(target, args, changes, spec)


@rule(aten.clone.default, aten.lift_fresh_copy.default, aten._conj_physical.default)
def _clone(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    if target is aten._conj_physical.default and spec.dtype.is_complex:
        return pointwise(b, target, args, kwargs, spec)
    return args[0]  # type: ignore[no-any-return]


@rule(aten.copy.default)
def _copy(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    old, new = b.spec[args[0]], args[1]
    if b.spec[new].device != old.device:
        return b.emit(target, args[:2], {}, spec)
    return _cast(b, new, old)


# Tensors of one number


@rule(
    aten.zeros.default, aten.ones.default, aten.new_zeros.default, aten.new_ones.default, aten.zeros_like.default,
    aten.ones_like.default, aten._efficientzerotensor.default, aten.scalar_tensor.default, aten.full.default,
    aten.full_like.default, aten.new_full.default, aten.fill.Scalar, aten.zero.default,
)  # fmt: skip
def _filled(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    if kwargs.get("layout") not in (None, torch.strided) or not spec.shape and spec.device.type == "meta":
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
    return _cast(b, args[1], spec)


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


# Data movement


@rule(aten.cat.default)
def _cat(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    parts = [p for p in args[0] if b.shape(p) != (0,)]
    axis = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % max(len(spec.shape), 1)
    if len(parts) == 1 and b.spec[parts[0]].dtype == spec.dtype:
        return parts[0]
    fills = [b.fill.get(p) for p in parts]
    if fills and None not in fills and len({f.value for f in fills}) == 1:  # type: ignore[union-attr]
        return b.full(spec, fills[0].value, all(f.structural for f in fills))  # type: ignore[union-attr]
    return b.emit(target, (tuple(args[0]), axis), {}, spec)


@rule(aten.sum.dim_IntList, aten.sum.default)
def _sum(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    x = args[0]
    old = b.spec[x]
    if old.dtype != spec.dtype:
        return b.emit(target, args, kwargs, spec)
    given = args[1] if len(args) > 1 else None
    given = [given] if isinstance(given, int) else given
    dims = {d % max(len(old.shape), 1) for d in given} if given else set(range(len(old.shape)))
    return b.reshape(_sum_over(b, x, tuple(d for d in sorted(dims) if old.shape and old.shape[d] != 1), spec), spec.shape)


def _sum_over(b: Builder, x: fx.Node, dims: tuple[int, ...], spec: Spec) -> fx.Node:
    """Sum over axes longer than 1, before the views of x. Only the size of the result is sure: other axes may be 1 or gone."""
    if not dims:
        return x
    old = b.shape(x)
    count = math.prod(old[d] for d in dims)
    rest = tuple(s for d, s in enumerate(old) if d not in dims)
    if x in b.fill and _plain(spec):
        return b.full(spec._replace(shape=rest), b.fill[x].value * count, b.fill[x].structural)
    if x in b.diagonal and dims == tuple(d for d in range(1, len(old)) if old[d] != 1):
        return b.diagonal[x].values
    if b.is_expand(x) and _plain(spec):
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


# Products


def _zero(b: Builder, *nodes: fx.Node) -> bool:
    return any(n in b.fill and b.fill[n].value == 0 and b.fill[n].structural for n in nodes)


@rule(aten.mm.default)
def _mm(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    x, y = args
    if _zero(b, x, y):
        return b.full(spec, 0.0, True)
    (m, k), (_, n) = b.shape(x), b.shape(y)
    if x in b.diagonal:
        column = b.reshape(b.diagonal[x].values, (m, 1))
        return apply(b, aten.mul.Tensor, (y, column), {}, spec)
    if y in b.diagonal:
        return apply(b, aten.mul.Tensor, (x, b.diagonal[y].values), {}, spec)
    if 0 in (m, k, n):
        return b.emit(target, args, kwargs, spec)
    if k == 1:
        return apply(b, aten.mul.Tensor, (b.reshape(x, (m, 1)), b.reshape(y, (1, n))), {}, spec)
    if m == 1 and n == 1:
        flat = spec._replace(shape=())
        dot = b.emit(aten.dot.default, (b.reshape(x, (k,)), b.reshape(y, (k,))), {}, flat)
        return b.reshape(dot, spec.shape)
    if m == 1:
        return b.reshape(_mv(b, b.transpose(y), b.reshape(x, (k,))), spec.shape)
    if n == 1:
        return b.reshape(_mv(b, x, b.reshape(y, (k,))), spec.shape)
    return b.emit(target, (x, y), kwargs, spec)


def _mv(b: Builder, matrix: fx.Node, vector: fx.Node) -> fx.Node:
    spec = b.spec[matrix]
    return b.emit(aten.mv.default, (matrix, vector), {}, spec._replace(shape=spec.shape[:1]))


@rule(aten.mv.default)
def _mv_rule(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    x, y = args
    (m, k) = b.shape(x)
    if _zero(b, x, y):
        return b.full(spec, 0.0, True)
    return b.reshape(_mm(b, aten.mm.default, (x, b.reshape(y, (k, 1))), {}, spec._replace(shape=(m, 1))), (m,))


@rule(aten.dot.default)
def _dot(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    return b.full(spec, 0.0, True) if _zero(b, *args) else b.emit(target, args, kwargs, spec)


@rule(aten.bmm.default)
def _bmm(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    x, y = args
    (count, m, k), (_, _, n) = b.shape(x), b.shape(y)
    if _zero(b, x, y):
        return b.full(spec, 0.0, True)
    flat = spec._replace(shape=(m, n))
    mm = aten.mm.default
    if count == 1:
        return b.reshape(_mm(b, mm, (b.reshape(x, (m, k)), b.reshape(y, (k, n))), {}, flat), spec.shape)
    if 0 in (count, m, k, n):
        return b.emit(target, args, kwargs, spec)
    if k == 1:
        return apply(b, aten.mul.Tensor, (x, y), {}, spec)
    shared = _shared(b, y, 2)
    if shared is not None:  # one matrix for all: the batch is a longer matrix
        rows = spec._replace(shape=(count * m, n))
        return b.reshape(_mm(b, mm, (b.reshape(x, (count * m, k)), shared), {}, rows), spec.shape)
    shared = _shared(b, x, 2)
    if shared is not None and n == 1:
        rows = spec._replace(shape=(count, m))
        return b.reshape(_mm(b, mm, (b.reshape(y, (count, k)), b.transpose(shared)), {}, rows), spec.shape)
    return b.emit(target, args, kwargs, spec)


def _shared(b: Builder, x: fx.Node, rank: int) -> fx.Node | None:
    """The matrix that a batch repeats."""
    if not b.is_expand(x):
        return None
    inner, _ = b.arguments(x)
    shape = b.shape(x)[-rank:]
    padded = (1,) * (len(b.shape(x)) - len(b.shape(inner))) + b.shape(inner)
    if any(p != 1 for p in padded[:-rank]):
        return None
    return b.expand(b.reshape(inner, padded[-rank:]), shape)


@rule(aten.addmm.default)
def _addmm(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    bias, x, y = args
    if any(kwargs.get(k, 1) != 1 for k in ("alpha", "beta")) or b.spec[x].dtype != spec.dtype:
        return b.emit(target, args, kwargs, spec)
    product = _mm(b, aten.mm.default, (x, y), {}, spec)
    return apply(b, aten.add.Tensor, (product, bias), {}, spec)


@rule(aten.addmv.default)
def _addmv(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    bias, x, y = args
    if any(kwargs.get(k, 1) != 1 for k in ("alpha", "beta")) or b.spec[x].dtype != spec.dtype:
        return b.emit(target, args, kwargs, spec)
    product = _mv_rule(b, aten.mv.default, (x, y), {}, spec)
    return apply(b, aten.add.Tensor, (product, bias), {}, spec)


@rule(aten.addcmul.default)
def _addcmul(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    base, x, y = args
    if kwargs.get("value", 1) != 1 or any(b.spec[n].dtype != spec.dtype for n in args):
        return pointwise(b, target, args, kwargs, spec)
    shape = torch.broadcast_shapes(b.shape(x), b.shape(y))
    product = apply(b, aten.mul.Tensor, (x, y), {}, spec._replace(shape=tuple(shape)))
    return apply(b, aten.add.Tensor, (product, base), {}, spec)


# Checks


@rule(aten._has_same_storage_numel.default, aten.is_same_size.default)
def _always(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Any) -> Any:
    return True


@rule(operator.getitem)
def _getitem(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Any) -> Any:
    source, index = args
    return source[index] if isinstance(source, (tuple, list)) else b.item(source, index)
