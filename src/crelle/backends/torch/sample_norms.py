"""‖g_n‖² for the gradients g_n of samples, without those that are products: ‖a b‖² = Σ (aᵀa) ∘ (b bᵀ).

The gradient of a linear layer's weights in one sample is a product a b of a thin and a flat matrix (I. Goodfellow,
*Efficient per-example gradient computations*, arXiv:1510.01799). It is found in the graph of a sample's reverse pass,
whatever wrote the layer, and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from crelle.backends.torch import run
from crelle.backends.torch.record import NeedsValue, record
from crelle.backends.torch.rewrite.values import aten, call

#: Operations that only put the same numbers into another shape or order.
_SAME_NUMBERS = {
    aten.t.default, aten.transpose.int, aten.permute.default, aten.view.default, aten._unsafe_view.default,
    aten.reshape.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default,
    aten.clone.default, aten.detach.default, aten.alias.default,
}  # fmt: skip


class SampleNorms:
    """(seed, *sample) ↦ ‖Jᵀ seed‖² for f(point, *sample), for all samples of a batch at once.

    Attributes:
        bytes: what the gradients of one sample hold that are formed.
    """

    def __init__(self, f: Callable[..., Any], point: Any, sample: Sequence[Any], seed: Any) -> None:
        self._point, tree = pytree.tree_flatten(point)
        example, given = pytree.tree_flatten((seed, *sample))
        count = len(self._point)

        def pulled(*leaves: Tensor) -> list[Tensor]:
            seed, *sample = pytree.tree_unflatten(list(leaves[count:]), given)
            _, pull = run.vjp(lambda p: f(p, *sample), pytree.tree_unflatten(list(leaves[:count]), tree))
            return pytree.tree_leaves(pull(pytree.tree_map(lambda s: s[None], seed))[0])

        self.bytes = sum(p.nbytes for p in self._point)
        try:
            with run.plain_kernels():
                graph = record(pulled, [*self._point, *example], differentiable=False)
            self.bytes = _without_products(graph)
            self._norm: Callable[..., Tensor] = graph
        except (NeedsValue, NotImplementedError, RuntimeError):  # no graph of it: the gradients are formed
            self._norm = lambda *leaves: torch.stack([(g**2).sum() for g in pulled(*leaves)]).sum()

    def __call__(self, batch: Sequence[Any], seed: Any) -> Tensor:
        """[B]."""
        leaves = pytree.tree_leaves((seed, *batch))
        with torch.no_grad(), run.plain_kernels():
            in_dims = (*[None] * len(self._point), *[0] * len(leaves))
            return torch.func.vmap(self._norm, in_dims)(*self._point, *leaves)


def _without_products(module: fx.GraphModule) -> int:
    """Let the graph of some arrays return the sum of their squares; the bytes of the arrays that are formed."""
    graph, formed = module.graph, 0
    for node in graph.nodes:
        if node.op == "call_function" and getattr(getattr(node.target, "_schema", None), "is_mutable", False):
            raise NotImplementedError("a graph that writes to its values")
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default  # samples side by side may lie otherwise in memory than one
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    total: Any = None
    with graph.inserting_before(output):
        for node in output.args[0]:
            product = node
            while product.op == "call_function" and product.target in _SAME_NUMBERS:
                product = product.args[0]
            if product.target is aten.mm.default and _is_thin(*product.args):
                a, b = product.args
                rows = call(graph, aten.mm.default, (call(graph, aten.t.default, (a,), {}), a), {})
                columns = call(graph, aten.mm.default, (b, call(graph, aten.t.default, (b,), {})), {})
                squares = call(graph, aten.mul.Tensor, (rows, columns), {})
            else:
                spec = node.meta["spec"]
                formed += spec.dtype.itemsize * torch.Size(spec.shape).numel()
                squares = call(graph, aten.mul.Tensor, (node, node), {})
            norm = call(graph, aten.sum.default, (squares,), {})
            total = norm if total is None else call(graph, aten.add.Tensor, (total, norm), {})
    output.args = (total,)
    graph.eliminate_dead_code()
    module.recompile()
    return formed


def _is_thin(a: fx.Node, b: fx.Node) -> bool:
    """Whether the norm of a b takes less by way of aᵀa and b bᵀ."""
    (p, k), (_, q) = a.meta["spec"].shape, b.meta["spec"].shape
    return bool(k * (p + q) < p * q)
