"""Rules for matrix products."""

from __future__ import annotations

from typing import Any

from torch import fx

from crelle.backends.torch.rewrite.builder import Builder
from crelle.backends.torch.rewrite.registry import apply, rule, zero
from crelle.backends.torch.rewrite.values import Spec, aten


@rule(aten.mm.default)
def _mm(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    x, y = args
    if zero(b, x, y):
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
    if zero(b, x, y):
        return b.full(spec, 0.0, True)
    return b.reshape(_mm(b, aten.mm.default, (x, b.reshape(y, (k, 1))), {}, spec._replace(shape=(m, 1))), (m,))


@rule(aten.dot.default)
def _dot(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    return b.full(spec, 0.0, True) if zero(b, *args) else b.emit(target, args, kwargs, spec)


@rule(aten.bmm.default)
def _bmm(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    x, y = args
    (count, m, k), (_, _, n) = b.shape(x), b.shape(y)
    if zero(b, x, y):
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


@rule(aten.convolution.default)
def _convolution(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Spec) -> fx.Node:
    x, weight, bias = args[:3]
    return b.full(spec, 0.0, True) if bias is None and zero(b, x, weight) else b.emit(target, args, kwargs, spec)
