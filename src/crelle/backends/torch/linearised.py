"""f linearised once in PyTorch: the graph of its gradient, or of its reverse pass, is kept, and run for each product.

The graph ends in copies of the inputs that nobody else holds, so it is freed with the object.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from crelle._prepare import Space as Kept
from crelle.backends._protocol import Call
from crelle.backends.torch import products, run
from crelle.backends.torch.flat import FlatFunction
from crelle.backends.torch.kept import saved_bytes
from crelle.backends.torch.run import type_of
from crelle.backends.torch.vectors import cut, join
from crelle.operators._spaces import common_dtype

Leaves = list[Tensor]

PLAIN_NOTE = "attention runs on its plain kernel: the fused one lacks the second derivative"


class TorchLinearised:
    """See :class:`crelle.operators._linearised.Linearised`."""

    def __init__(self, call: Call) -> None:
        self._flat: FlatFunction | None = FlatFunction(call)
        self._hessian, self.inputs = call.request.kind == "hessian", call.inputs
        self.notes: tuple[str, ...] = ()
        self._evaluate()
        result = self._flat.layout.result
        assert result is not None
        self.value = pytree.tree_unflatten([v.detach() for v in self._values], result.out_tree)
        self.outputs = call.inputs if self._hessian else tuple(map(type_of, self._values))
        self.out_tree = call.in_tree if self._hessian else result.out_tree

    @torch.inference_mode(False)
    def _evaluate(self, plain: bool = False) -> None:
        assert self._flat is not None
        dynamic = run.plain_leaves(self._flat.dynamic)
        count = self._flat.active
        # clones: an optimiser may change parameters in place while the operator is in use
        self._active = [leaf.detach().clone().requires_grad_() for leaf in dynamic[:count]]
        with torch.enable_grad(), run.plain_kernels() if plain else contextlib.nullcontext():
            self._values, _ = self._flat(*self._active, *dynamic[count:])
            self._seeds: Leaves = []
            self._pulled: Leaves = []
            if self._hessian:
                self._pulled = _grad(self._values, self._active, [torch.ones_like(v) for v in self._values], True)

    @property
    def kept_bytes(self) -> int:
        """What the graph holds."""
        return saved_bytes([*self._active, *self._values, *self._pulled])

    def push(self, block: Tensor) -> Tensor:
        """v ↦ J v, row by row: the derivative of u ↦ Jᵀu, which is linear in u."""
        if self._hessian:
            return self.pull(block)
        return self._each(block, self.inputs, self.outputs, self._push)

    def pull(self, block: Tensor) -> Tensor:
        """u ↦ Jᵀ u, row by row."""
        return self._each(block, self.outputs, self.inputs, self._pull)

    def _push(self, leaves: Leaves) -> Leaves:
        if not self._pulled:
            with torch.enable_grad():
                self._seeds = [torch.ones_like(v).requires_grad_() for v in self._values]
                self._pulled = _grad(self._values, self._active, self._seeds, True)
        return _grad(self._pulled, self._seeds, leaves, False)

    def _pull(self, leaves: Leaves) -> Leaves:
        return _grad(self._pulled if self._hessian else self._values, self._active, leaves, False)

    def _each(self, block: Tensor, given: Any, made: Any, product: Callable[[Leaves], Leaves]) -> Tensor:
        rows = []
        dtype = common_dtype(made)
        for i in range(len(block)):
            leaves = [leaf[0] for leaf in cut(block[i : i + 1], given)]
            rows.append(join([leaf[None] for leaf in self._run(product, leaves)], dtype))
        if not rows:
            return torch.zeros(0, sum(t.size for t in made), dtype=getattr(torch, dtype), device=block.device)
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _run(self, product: Callable[[Leaves], Leaves], leaves: Leaves) -> Leaves:
        """A product; where a fused kernel lacks a derivative, f is evaluated again with plain ones."""
        try:
            return product(leaves)
        except (NotImplementedError, RuntimeError) as error:
            if self.notes or not products._is_missing(str(error)):
                raise
        self.notes = (PLAIN_NOTE,)
        self._evaluate(plain=True)
        return product(leaves)


def _grad(outputs: Leaves, inputs: Leaves, seeds: Leaves, create: bool) -> Leaves:
    used = [(o, s) for o, s in zip(outputs, seeds, strict=True) if o.requires_grad]
    if not used:
        return [torch.zeros_like(i) for i in inputs]
    found = torch.autograd.grad(
        [o for o, _ in used], inputs, [s.to(o.dtype) for o, s in used], retain_graph=True, create_graph=create,
        allow_unused=True, materialize_grads=True,
    )  # fmt: skip
    return list(found)


def linearised(call: Call, kept: Kept) -> TorchLinearised:
    """f at the point of the call. Nothing is kept for other points: a graph holds the values it was made of."""
    return TorchLinearised(call)
