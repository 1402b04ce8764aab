"""Rules for operations that work element by element."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from crelle.backends.torch.lowering.walk import Lowering, args_of, rule
from crelle.backends.torch.rewrite.values import Spec, map_nodes
from crelle.tangent.program import Dependence


def is_pointwise(node: fx.Node) -> bool:
    """Whether torch itself says so."""
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


def arguments(node: fx.Node) -> list[Any]:
    """All arguments, positional and by keyword."""
    return [*args_of(node), *node.kwargs.values()]


def _out(low: Lowering, node: fx.Node) -> tuple[int, ...]:
    return low.spec(node).shape


def _inexact(spec: Any) -> bool:
    return isinstance(spec, Spec) and (spec.dtype.is_floating_point or spec.dtype.is_complex)


@rule("add", "sub", "rsub", "neg", "clone", "_to_copy", "copy", "detach", "alias", "lift_fresh_copy", "conj", "_conj",
      "_conj_physical", "resolve_conj", "resolve_neg", "_neg_view", "real", "imag", "complex", "contiguous",
      "positive", "view_as_real_copy")  # fmt: skip
def _same(low: Lowering, node: fx.Node) -> Any:
    """Sums, and what leaves an element where it is."""
    shape = _out(low, node)
    if not _inexact(low.spec(node)):
        return None
    parts: list[int | None] = []
    for a in args_of(node)[:2]:
        value = low.tangent(a)
        parts.append(None if value is None else low.spread(value, shape))
    return low.added(parts)


@rule("mul", "div", "true_divide")
def _multiply(low: Lowering, node: fx.Node) -> Any:
    a, b = args_of(node)[:2]
    left, right = low.tangent(a), low.tangent(b)
    product = "mul" in str(node.target)
    if (left is not None) == (right is not None) or (right is not None and not product):
        return low.opaque(node, "not linear in its operands")
    value, other = (left, b) if left is not None else (right, a)
    assert value is not None
    return low.scaled(value, low.kind(other), low.keep(other) if product else None, _out(low, node))


@rule("where")
def _where(low: Lowering, node: fx.Node) -> Any:
    mask = low.known(args_of(node)[0])
    keep = None if mask is None else mask.cpu().numpy()
    parts: list[int | None] = []
    for a, kept in ((args_of(node)[1], keep), (args_of(node)[2], None if keep is None else ~keep)):
        value = low.tangent(a)
        parts.append(None if value is None else low.scaled(value, low.kind(args_of(node)[0]), kept, _out(low, node)))
    return low.added(parts)


@rule("masked_fill")
def _masked_fill(low: Lowering, node: fx.Node) -> Any:
    mask = low.known(args_of(node)[1])
    keep = None if mask is None else ~mask.cpu().numpy()
    parts: list[int | None] = []
    for a, kept in ((args_of(node)[0], keep), (args_of(node)[2], None if keep is None else ~keep)):
        value = low.tangent(a)
        parts.append(None if value is None else low.scaled(value, low.kind(args_of(node)[1]), kept, _out(low, node)))
    return low.added(parts)


def each_element(low: Lowering, node: fx.Node) -> Any:
    """Any operation that is linear in its tangents and works element by element: one coefficient for each of them."""
    if not _inexact(low.spec(node)):
        return None
    kind = low.kind(*arguments(node))
    shape = _out(low, node)
    parts: list[int | None] = []
    for a in dict.fromkeys(node.all_input_nodes):
        value = low.tangent(a)
        if value is not None:
            parts.append(low.scaled(value, kind, _coefficient(low, node, a), shape))
    return low.added(parts)


def _coefficient(low: Lowering, node: fx.Node, tangent: fx.Node) -> Any:
    """Where the coefficient of one tangent is not zero, if that can be known: the operation applied to ones."""
    nodes = dict.fromkeys(node.all_input_nodes)
    if any(low.tangent(n) is None and low.known(n) is None for n in nodes):
        return None

    def given(n: fx.Node) -> Any:
        if low.tangent(n) is None:
            return low.known(n)
        spec = low.spec(n)
        return torch.full(spec.shape, float(n is tangent), dtype=spec.dtype, device=spec.device)

    target: Any = node.target
    with torch.no_grad():
        found = target(*map_nodes(node.args, given), **map_nodes(node.kwargs, given))
    keep = found.ne(0).cpu().numpy()
    return None if keep.all() else keep


@rule("addcmul")
def _sum_and_product(low: Lowering, node: fx.Node) -> Any:
    """A product that joins a sum leaves the sum as constant as it was."""
    c, a, b = args_of(node)[:3]
    plus, left, right = low.tangent(c), low.tangent(a), low.tangent(b)
    if left is not None and right is not None:
        return low.opaque(node, "not linear in its operands")
    shape = _out(low, node)
    parts = [None if plus is None else low.spread(plus, shape)]
    if left is not None or right is not None:
        value, other = (left, b) if left is not None else (right, a)
        assert value is not None
        parts.append(low.scaled(value, low.kind(other), low.keep(other), shape))
    return low.added(parts)


@rule("lerp", "addcdiv", "_s_where", "copysign", "glu_jvp")
def _each(low: Lowering, node: fx.Node) -> Any:
    if node.target is torch.ops.aten.glu_jvp.default:  # two halves of the input come together
        return low.opaque(node, "no rule")
    return each_element(low, node)


@rule("view_as_real")
def _view_as_real(low: Lowering, node: fx.Node) -> Any:
    value = low.tangent(args_of(node)[0])
    assert value is not None
    shape = _out(low, node)
    return low.moved(value, lambda a: np.broadcast_to(a[..., None], shape), shape)


@rule(
    "zeros_like", "empty_like", "new_zeros", "new_empty", "new_full", "full_like", "ones_like", "_efficientzerotensor",
    "_new_zeros_with_same_feature_meta", "new_empty_strided", "sign", "sgn", "isnan", "isinf", "eq", "ne", "lt", "le",
    "gt", "ge", "bernoulli", "argmax", "argmin", "logical_not", "signbit", "floor", "ceil", "round", "trunc",
)  # fmt: skip
def _nothing(low: Lowering, node: fx.Node) -> Any:
    """Operations without a derivative."""
    return None


@rule("fill")
def _fill(low: Lowering, node: fx.Node) -> Any:
    value = low.tangent(args_of(node)[1]) if len(args_of(node)) > 1 else None
    return None if value is None else low.scaled(value, Dependence.CONSTANT, None, _out(low, node))
