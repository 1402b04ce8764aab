"""Products by ``torch.autograd`` alone, for what ``torch.func`` refuses: a ``torch.library.custom_op``, and every other
``autograd.Function`` without ``setup_context``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Function = Callable[..., Any]


def refuses(error: RuntimeError) -> bool:
    """Whether ``torch.func`` stopped at an operation that it cannot transform, and ``torch.autograd`` can."""
    return "setup_context" in str(error)


def vjp(f: Function, primals: tuple[Any, ...], has_aux: bool) -> tuple[Any, ...]:
    """As ``torch.func.vjp``; to be differentiated again only where a primal requires a gradient."""
    inputs, tree, again = _inputs(primals)
    with torch.enable_grad():
        found = f(*pytree.tree_unflatten(inputs, tree))
    output, *aux = found if has_aux else (found,)
    outputs = pytree.tree_leaves(output)

    def pull(cotangents: Any, retain_graph: bool = True, create_graph: bool | None = None) -> Any:
        seeds = pytree.tree_leaves(cotangents)
        keep = again and torch.is_grad_enabled() if create_graph is None else create_graph
        return pytree.tree_unflatten(_grad(outputs, inputs, seeds, keep, retain_graph), tree)

    return (output if again else pytree.tree_map(torch.detach, output)), pull, *aux


def jvp(f: Function, primals: tuple[Any, ...], tangents: tuple[Any, ...], has_aux: bool) -> tuple[Any, ...]:
    """As ``torch.func.jvp``: the transpose of the reverse pass, which is linear in its cotangents."""
    inputs, tree, again = _inputs(primals)
    with torch.enable_grad():
        found = f(*pytree.tree_unflatten(inputs, tree))
        output, *aux = found if has_aux else (found,)
        outputs, out_tree = pytree.tree_flatten(output)
        seeds = [torch.ones_like(o).requires_grad_() for o in outputs]
        pulled = _grad(outputs, inputs, seeds, True, True)
    pushed = _grad(pulled, seeds, pytree.tree_leaves(tangents), again and torch.is_grad_enabled(), True)
    return (output if again else pytree.tree_map(torch.detach, output)), pytree.tree_unflatten(pushed, out_tree), *aux


def hvp(f: Function, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """f(x) and H v, reverse over reverse."""
    inputs, tree, again = _inputs(primals)
    with torch.enable_grad():
        value = f(*pytree.tree_unflatten(inputs, tree))
        slopes = _grad([value], inputs, [torch.ones_like(value)], True, True)
    found = _grad(slopes, inputs, pytree.tree_leaves(tangents), again and torch.is_grad_enabled(), True)
    return (value if again else value.detach()), pytree.tree_unflatten(found, tree)


def _inputs(primals: tuple[Any, ...]) -> tuple[list[Tensor], Any, bool]:
    """Leaves that are recorded, their tree, and whether somebody else records, too."""
    leaves, tree = pytree.tree_flatten(primals)
    again = any(leaf.requires_grad for leaf in leaves)
    return [leaf if leaf.requires_grad else leaf.detach().requires_grad_() for leaf in leaves], tree, again


def _grad(outputs: Any, inputs: list[Tensor], seeds: Any, keep: bool, retain: bool) -> list[Tensor]:
    used = [(o, s) for o, s in zip(outputs, seeds, strict=True) if o.requires_grad]
    if not used:
        return [torch.zeros_like(i) for i in inputs]
    found = torch.autograd.grad(
        [o for o, _ in used], inputs, [s for _, s in used], retain_graph=retain, create_graph=keep,
        allow_unused=True, materialize_grads=True,
    )  # fmt: skip
    return list(found)
