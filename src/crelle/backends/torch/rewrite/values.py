"""What the rewriting knows of values and operations of an aten graph."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

# Private: the public GraphModule writes and compiles Python at once, a quarter of the time of a trace, which nothing
# runs; and it cannot write every argument (a torch.Generator).
from torch.fx._lazy_graph_module import _LazyGraphModule

aten = torch.ops.aten


def packets(names: str) -> frozenset[Any]:
    """The aten operations of these names; a name that this version of torch lacks is left out."""
    return frozenset(getattr(aten, name) for name in names.split() if hasattr(aten, name))


class Spec(NamedTuple):
    """What is known of a tensor before it is computed."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of a dense tensor."""
        return self.size * self.dtype.itemsize


def spec_of(value: Any) -> Any:
    """Spec of a dense tensor (real or fake), or of each tensor in a list; ``None`` for anything else."""
    if isinstance(value, Spec):
        return value
    if isinstance(value, Tensor):
        if value.layout is not torch.strided:
            return None
        return Spec(tuple(int(s) for s in value.shape), value.dtype, value.device)
    if isinstance(value, (tuple, list)):
        return tuple(spec_of(v) for v in value)
    return None


def call(graph: fx.Graph, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
    """``graph.call_function`` in half the time: given to the constructor, arguments are searched for symbolic sizes."""
    node = graph.create_node("call_function", target)
    node.args = args
    if kwargs:
        node.kwargs = kwargs
    return node


def graph_module(graph: fx.Graph, attributes: Mapping[str, Tensor]) -> fx.GraphModule:
    """A module of the graph that compiles itself when it is first called."""
    return _LazyGraphModule(dict(attributes), graph)


class Unsupported(Exception):
    """The graph holds something that cannot be rewritten soundly; it is used as it is."""


class Fill(NamedTuple):
    """All elements are ``value``. A structural zero comes from derivative rules and not from the traced function."""

    value: Any
    structural: bool


class Diagonal(NamedTuple):
    """A tensor [n, \\*shape] with n = prod(shape): element [i, j] is ``values[i]`` where j is i, else zero."""

    values: fx.Node


class Slabs(NamedTuple):
    """A tensor that is zero outside of disjoint pieces (start, stop, values) along an axis, in order."""

    axis: int
    pieces: tuple[tuple[int, int, fx.Node], ...]


def freeze(value: Any) -> Hashable:
    """A hashable key of operation arguments. ``1``, ``1.0`` and ``True`` differ, and so do ``0.0`` and ``-0.0``."""
    if isinstance(value, (tuple, list)):
        return tuple(map(freeze, value))
    if isinstance(value, (bool, int, float, complex)):
        return (type(value), repr(value))
    return value  # type: ignore[no-any-return]


def tensors_in(*values: Any) -> list[fx.Node]:
    """All nodes in nested arguments."""
    found: list[fx.Node] = []
    for value in values:
        if isinstance(value, fx.Node):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found.extend(tensors_in(*value))
        elif isinstance(value, dict):
            found.extend(tensors_in(*value.values()))
    return found


def map_nodes(value: Any, change: Callable[[fx.Node], Any]) -> Any:
    """Nested arguments with every node changed; lists become tuples."""
    if isinstance(value, fx.Node):
        return change(value)
    if isinstance(value, (tuple, list)):
        return tuple(map_nodes(v, change) for v in value)
    if isinstance(value, dict):
        return {k: map_nodes(v, change) for k, v in value.items()}
    return value


@functools.cache
def is_random(target: Any) -> bool:
    """Whether an operation draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())


@functools.cache
def writes(target: Any) -> bool:
    """Whether an operation writes to one of its arguments."""
    schema = getattr(target, "_schema", None)
    return schema is not None and any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)


@functools.cache
def is_effect(target: Any) -> bool:
    """Whether an operation must be kept even where nothing reads its result."""
    schema = getattr(target, "_schema", None)
    return schema is not None and (writes(target) or is_random(target) or not schema.returns)


def without_ones(shape: Iterable[int]) -> tuple[int, ...]:
    """The dimensions that are not 1."""
    return tuple(s for s in shape if s != 1)
