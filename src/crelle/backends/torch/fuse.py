"""Pairs of operations that have one kernel: a product and a sum. Done last, when it is known who reads what."""

from __future__ import annotations

from typing import Any

from torch import fx

from crelle.backends.torch.rewrite import Builder, Spec, aten, is_effect, tensors_in

_FUSED = {
    aten.mm.default: aten.addmm.default,
    aten.mv.default: aten.addmv.default,
    aten.mul.Tensor: aten.addcmul.default,
}


def fuse(b: Builder, result: Any) -> None:
    """Turn ``x + a @ b`` and ``x + a * b`` into ``addmm``, ``addmv`` and ``addcmul`` where the product is used once.

    Measured per operation, f64, CPU: mm 0.9 and add 0.8 against addmm 1.4 µs; mv and add 1.7 against addmv 1.0;
    mul and add 1.6 against addcmul 0.9.
    """
    uses = _uses(b, result)
    for node in list(b.graph.nodes):
        if node not in uses or node.target is not aten.add.Tensor or node.kwargs or len(tensors_in(node.args)) != 2:
            continue
        for product, other in (node.args, reversed(node.args)):
            if _fits(b, node, product, other, uses):
                node.target, node.args = _FUSED[product.target], (other, *product.args)
                break


def _uses(b: Builder, result: Any) -> dict[fx.Node, int]:
    """How often each live node is read."""
    uses: dict[fx.Node, int] = {}
    for node in tensors_in(result):
        uses[node] = uses.get(node, 0) + 1
    for node in reversed(b.graph.nodes):
        if node in uses or is_effect(node.target):
            for source in tensors_in(node.args, node.kwargs):
                uses[source] = uses.get(source, 0) + 1
    return uses


def _fits(b: Builder, node: fx.Node, product: Any, other: Any, uses: dict[fx.Node, int]) -> bool:
    if product.target not in _FUSED or uses.get(product) != 1 or product is other or product in b.constant:
        return False
    specs = [b.spec[n] for n in (node, product, other, *product.args)]
    if len({s.dtype for s in specs if isinstance(s, Spec)}) != 1 or not specs[0].dtype.is_floating_point:
        return False
    # a number times a tensor is dearer inside addcmul, and 0-d factors break its type promotion
    return product.target is not aten.mul.Tensor and b.shape(product) == b.shape(node) or (
        product.target is aten.mul.Tensor and all(b.shape(n) for n in product.args)
    )
