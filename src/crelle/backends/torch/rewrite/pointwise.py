"""Rules for operations that work element by element."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx

from crelle.backends.torch.rewrite.builder import Builder
from crelle.backends.torch.rewrite.registry import apply, cast, number, plain, rule
from crelle.backends.torch.rewrite.values import Fill, Slabs, Spec, aten, tensors_in

#: Known to broadcast all their tensor arguments. Not gelu_backward: oneDNN computes it in float32, and refuses.
_BROADCASTS = frozenset(
    (
        aten.add, aten.sub, aten.rsub, aten.mul, aten.div, aten.where, aten.pow, aten.maximum, aten.minimum, aten.atan2,
        aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge, aten.logical_and, aten.logical_or, aten.bitwise_and,
        aten.bitwise_or, aten.tanh_backward, aten.sigmoid_backward, aten.threshold_backward, aten.silu_backward,
        aten.fmod, aten.remainder, aten.hypot, aten.xlogy, aten.addcmul, aten.addcdiv, aten.lerp,
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


@rule(torch.Tag.pointwise)
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
            swap = {n: _as_scalar(b, m) for n, m in swap.items()}
        if not _one_type(b, target, operands):  # 0-d tensors count less in type promotion
            swap = {n: n if b.shape(m) == () else m for n, m in swap.items()}
        shape = broadcast(b, swap.values())
        if shape != spec.shape or any(n is not m for n, m in swap.items()):
            args, kwargs = _swapped((args, kwargs), swap)
            if math.prod(shape) == spec.size and shape != spec.shape:  # only axes of size 1 differ
                return b.reshape(pointwise(b, target, args, kwargs, spec._replace(shape=shape)), spec.shape)
            return b.expand(pointwise(b, target, args, kwargs, spec._replace(shape=shape)), spec.shape)
    moved = _past_views(b, operands, spec.shape, broadcasts and _one_type(b, target, operands))
    if moved is not None:
        swap, shape, back = moved
        args, kwargs = _swapped((args, kwargs), swap)
        return back(pointwise(b, target, args, kwargs, spec._replace(shape=shape)))
    return b.emit(target, args, kwargs, spec)


def broadcast(b: Builder, nodes: Iterable[fx.Node]) -> tuple[int, ...]:
    """The shape that the nodes have together."""
    return tuple(torch.broadcast_shapes(*(b.shape(n) for n in nodes)))  # type: ignore[no-untyped-call]


def _as_scalar(b: Builder, node: fx.Node) -> fx.Node:
    """A filled tensor as a 0-d one."""
    return b.full(b.spec[node]._replace(shape=()), *b.fill[node]) if node in b.fill else node


def _one_type(b: Builder, target: Any, operands: list[fx.Node]) -> bool:
    """Whether all operands that decide the type of the result have the same one."""
    deciding = operands[1:] if target is aten.where.self else operands
    return len({b.spec[n].dtype for n in deciding}) == 1


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


def _tensor_form(b: Builder, packet: Any, args: tuple[Any, ...], spec: Spec) -> tuple[Any, tuple[Any, ...]]:
    """``op.Tensor`` with 0-d tensors for numbers, so that all forms of an operation are numbered alike."""
    if not plain(spec) or any(isinstance(a, complex) and not spec.dtype.is_complex for a in args):
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
    if number(b, x) is not None and isinstance(y, fx.Node):
        x, y = y, x
    known = number(b, y)
    if known is not None and isinstance(x, fx.Node):
        first = b.fill.get(x)
        if first is not None and plain(spec):
            return b.full(spec, first.value * known.value, known.structural or first.structural)
        if known.value == 1:
            return cast(b, x, spec)
        if known.value == 0 and known.structural:
            return b.full(spec, known.value, True)
        if known.value == -1 and b.spec[x].dtype == spec.dtype:
            return b.expand(apply(b, aten.neg.default, (x,), {}, b.spec[x]), spec.shape)
        if plain(spec) and b.spec[x].dtype == spec.dtype:
            inner = b.unexpanded(x)
            if inner.target is aten.mul.Tensor:
                before = number(b, inner.args[1])
                if before is not None and all(2**-20 <= abs(v) <= 2**20 for v in (before.value, known.value)):
                    factor = b.scalar(spec, before.value * known.value)
                    return b.expand(_mul(b, target, (inner.args[0], factor), {}, b.spec[inner]), spec.shape)
    elif y in b.constant and isinstance(x, fx.Node) and x.target is aten.mul.Tensor and x not in b.constant:
        known_factor: Any = x.args[1]
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
    known = number(b, y)
    if known is not None and known.value == 1:
        return cast(b, x, spec)
    if x in b.fill and b.fill[x].value == 0 and b.fill[x].structural:
        return b.full(spec, *b.fill[x])
    form, pair = _tensor_form(b, aten.div, (x, y), spec)
    return pointwise(b, form or target, pair, kwargs, spec)


@rule(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar)
def _add(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    x, y, *rest = args
    alpha = rest[0] if rest else kwargs.get("alpha", 1)
    minus = target.overloadpacket is aten.sub
    known, first = number(b, y), number(b, x)
    if known is not None and known.value == 0 and isinstance(x, fx.Node):
        return cast(b, x, spec)
    if first is not None and first.value == 0 and isinstance(y, fx.Node) and alpha == 1:
        y = cast(b, y, spec)
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
    if x in b.fill and plain(spec):
        return b.full(spec, -b.fill[x].value, b.fill[x].structural)
    return pointwise(b, target, args, kwargs, spec)


@rule(aten.pow.Tensor_Scalar)
def _pow(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    x, power = args
    if power == 1:
        return cast(b, x, spec)
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
    if x in b.fill and old.device == spec.device and plain(old) and plain(spec):
        return b.full(spec, *b.fill[x])
    if old.device == spec.device:
        return pointwise(b, target, args, {"dtype": spec.dtype}, spec)
    changes = {k: v for k, v in (("dtype", spec.dtype), ("device", spec.device)) if v != getattr(old, k)}
    return b.emit(target, args, changes, spec)


@rule(aten.addcmul.default)
def _addcmul(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    base, x, y = args
    if kwargs.get("value", 1) != 1 or any(b.spec[n].dtype != spec.dtype for n in args):
        return pointwise(b, target, args, kwargs, spec)
    shape = broadcast(b, (x, y))
    product = apply(b, aten.mul.Tensor, (x, y), {}, spec._replace(shape=shape))
    return apply(b, aten.add.Tensor, (product, base), {}, spec)
