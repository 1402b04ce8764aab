"""What can be read off a recorded graph of autograd: what it holds, where it ends, what it lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

Node = Any

_MISSING = "torch::autograd::NotImplemented"
_ERROR = "torch::autograd::Error"


def nodes(heads: Iterable[Tensor]) -> Iterator[Node]:
    """Every node of the graph behind these tensors, once."""
    found: set[Node] = set()
    waiting: list[Node] = [head.grad_fn for head in heads]
    while waiting:
        node = waiting.pop()
        if node is None or node in found:
            continue
        found.add(node)
        yield node
        waiting += [after for after, _ in node.next_functions]


def lacks_derivative(heads: Iterable[Tensor]) -> bool:
    """Whether a kernel on the way has no derivative: that of fused attention is not differentiable again."""
    return any(node.name() == _MISSING for node in nodes(heads))


def is_once_differentiable(heads: Iterable[Tensor]) -> bool:
    """Whether a rule on the way was marked so: autograd would give zeros in place of what stands behind it."""
    return any(node.name() == _ERROR for node in nodes(heads))


def user_rules(heads: Iterable[Tensor]) -> list[str]:
    """Names of the ``autograd.Function`` and custom operations on the way: their rules may not fit together."""
    written = torch.autograd.function.BackwardCFunction
    names = (type(node).__name__.removesuffix("Backward") for node in nodes(heads) if isinstance(node, written))
    return sorted({name.removeprefix("GeneratedBackwardFor_") for name in names})


def leaves(heads: Iterable[Tensor]) -> list[Tensor]:
    """The tensors that the graph ends in: those that require grad, and were not computed."""
    return [node.variable for node in nodes(heads) if hasattr(node, "variable")]


def saved_bytes(heads: Iterable[Tensor], apart: Iterable[Tensor]) -> int:
    """Bytes of the intermediate values that the graph holds, without some tensors: about what one pass works with."""
    heads = list(heads)
    known = {_place(t) for t in (*apart, *leaves(heads))}
    total = 0
    for tensor in _saved(heads):
        if (place := _place(tensor)) not in known:
            known.add(place)
            total += tensor.untyped_storage().nbytes()
    return total


def _saved(heads: Iterable[Tensor]) -> Iterator[Tensor]:
    for node in nodes(heads):
        for name in dir(node):
            if name.startswith("_saved_") or name == "saved_tensors":
                value = getattr(node, name)
                for item in value if isinstance(value, (list, tuple)) else (value,):
                    if isinstance(item, Tensor) and item.layout is torch.strided:
                        yield item


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else id(tensor)
