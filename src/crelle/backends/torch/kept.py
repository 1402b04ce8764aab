"""How much memory a kept graph holds: of every tensor that its nodes saved, each storage counted once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def saved_bytes(roots: list[Tensor]) -> int:
    """Bytes of the storages of these tensors, and of what the graph behind them saved for its backward pass."""
    sizes: dict[tuple[str, int], int] = {}
    for tensor in roots:
        _count(tensor, sizes)
    stack = [t.grad_fn for t in roots if t.grad_fn is not None]
    seen = set(stack)
    while stack:
        node = stack.pop()
        for tensor in _saved(node):
            _count(tensor, sizes)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                stack.append(following)
    return sum(sizes.values())


def _count(tensor: Tensor, sizes: dict[tuple[str, int], int]) -> None:
    try:
        storage = tensor.untyped_storage()
        sizes[str(tensor.device), storage.data_ptr()] = storage.nbytes()
    except (NotImplementedError, RuntimeError):  # sparse and other tensors without one storage
        sizes["", id(tensor)] = tensor.numel() * tensor.element_size()


def _saved(node: Any) -> Iterator[Tensor]:
    names = [name for name in dir(node) if name.startswith("_saved_")]
    for name in [*names, "saved_tensors"]:
        try:
            held = getattr(node, name, None)
        except RuntimeError:  # changed in place, or freed
            continue
        for tensor in held if isinstance(held, (list, tuple)) else (held,):
            if isinstance(tensor, Tensor):
                yield tensor
