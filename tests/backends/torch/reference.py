"""Dense derivatives by one `torch.autograd` pass a row: no batching, no forward mode, no kept graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def _rows(values: Tensor, leaves: Sequence[Tensor]) -> Tensor:
    rows = []
    for value in values:
        if not value.requires_grad:
            rows.append(torch.zeros(sum(leaf.numel() for leaf in leaves), dtype=value.dtype))
            continue
        parts = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([part.reshape(-1) for part in parts]))
    return torch.stack(rows) if rows else torch.zeros(0, sum(leaf.numel() for leaf in leaves))


def flat_jacobian(f: Callable[..., Any], *args: Tensor) -> Tensor:
    """The m × n Jacobian with respect to all arguments, raveled."""
    leaves = [a.detach().clone().requires_grad_() for a in args]
    values = torch.cat([v.reshape(-1) for v in pytree.tree_leaves(f(*leaves))])
    return _rows(values, leaves).detach()


def flat_hessian(f: Callable[..., Any], *args: Tensor) -> Tensor:
    """The n × n Hessian with respect to all arguments, raveled."""
    leaves = [a.detach().clone().requires_grad_() for a in args]
    slopes = torch.autograd.grad(f(*leaves), leaves, create_graph=True, materialize_grads=True, allow_unused=True)
    return _rows(torch.cat([s.reshape(-1) for s in slopes]), leaves).detach()


def assert_close(got: Any, expected: Any) -> None:
    """Equal trees, shapes and dtypes; values to 1e-12 of the largest entry."""
    left, left_tree = pytree.tree_flatten(got)
    right, right_tree = pytree.tree_flatten(expected)
    assert left_tree == right_tree
    for a, b in zip(left, right, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        if a.numel():
            a, b = a.detach(), b.detach()
            scale = max(1.0, float(b.abs().max()))
            assert float((a - b).abs().max()) <= 1e-12 * scale
