"""Trees of dicts, lists, tuples, named tuples and None, for functions of a framework that has no trees of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TreeDef:
    """The shape of a tree: a kind, what labels the children, and the children; a leaf has no kind.

    Dicts keep the order of their keys, as in PyTorch, and so two dicts in another order are different trees. Named
    tuples and ordered dicts keep their type; other subclasses become tuples, lists and dicts.
    """

    kind: type | None
    keys: tuple[Any, ...] = ()
    children: tuple[TreeDef, ...] = ()

    @property
    def num_leaves(self) -> int:
        """Number of leaves below."""
        return 1 if self.kind is None else sum(child.num_leaves for child in self.children)


LEAF = TreeDef(None)


def _children(tree: Any) -> tuple[type, tuple[Any, ...], Sequence[Any]] | None:
    if tree is None:
        return type(None), (), ()
    if isinstance(tree, dict):
        return OrderedDict if isinstance(tree, OrderedDict) else dict, tuple(tree), list(tree.values())
    if isinstance(tree, tuple):
        fields = getattr(tree, "_fields", None)
        return (tuple, (), tree) if fields is None else (type(tree), fields, tree)
    if isinstance(tree, list):
        return list, (), tree
    return None


def flatten(tree: Any) -> tuple[list[Any], TreeDef]:
    """Leaves from left to right, and the tree without them.

    >>> leaves, tree = flatten({"a": 1, "b": (2, None)})
    >>> leaves, unflatten(tree, [10, 20])
    ([1, 2], {'a': 10, 'b': (20, None)})
    """
    found = _children(tree)
    if found is None:
        return [tree], LEAF
    kind, keys, below = found
    leaves: list[Any] = []
    defs = []
    for child in below:
        some, definition = flatten(child)
        leaves += some
        defs.append(definition)
    return leaves, TreeDef(kind, keys, tuple(defs))


def unflatten(tree: TreeDef, leaves: Sequence[Any]) -> Any:
    """Inverse of :func:`flatten`."""
    return _build(tree, iter(leaves))


def _build(tree: TreeDef, leaves: Iterator[Any]) -> Any:
    if tree.kind is None:
        return next(leaves)
    below = [_build(child, leaves) for child in tree.children]
    if tree.kind is type(None):
        return None
    if tree.kind in (dict, OrderedDict):
        return tree.kind(zip(tree.keys, below, strict=True))
    if tree.kind in (list, tuple):
        return tree.kind(below)
    make: Callable[..., Any] = tree.kind  # a named tuple
    return make(*below)


def paths(tree: Any) -> list[str]:
    """The path of each leaf: ``['b'][0]``, ``.x`` for named tuples, empty for a leaf alone.

    >>> paths({"a": 1, "b": (2, 3)})
    ["['a']", "['b'][0]", "['b'][1]"]
    """
    found = _children(tree)
    if found is None:
        return [""]
    kind, keys, below = found
    if issubclass(kind, dict):
        labels = [f"[{key!r}]" for key in keys]
    elif keys:
        labels = [f".{key}" for key in keys]
    else:
        labels = [f"[{i}]" for i in range(len(below))]
    return [label + rest for label, child in zip(labels, below, strict=True) for rest in paths(child)]
