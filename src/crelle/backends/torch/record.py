"""Recording a function's aten operations while it runs: ``make_fx`` without fake tensors.

``make_fx`` computes every operation once more on fake tensors, for metadata; that is most of its time. Here a dispatch
mode sees the operations below ``torch.func`` and autograd and writes them down: jacrev of a small network in 2 ms,
against 20.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

from crelle.backends.torch.rewrite.values import aten, call, graph_module, map_nodes, spec_of, tensors_in


class NeedsValue(Exception):
    """The function reads a value in Python, or makes shapes from values: no graph describes it."""


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operation. Tensors are known by identity, and are not kept alive."""

    def __init__(self, decompositions: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.decompositions = decompositions
        self.graph = fx.Graph()
        self.captured: dict[str, Tensor] = {}
        self._nodes: dict[int, tuple[Any, fx.Node]] = {}
        self.read: set[str] = set()
        self._roots: dict[fx.Node, frozenset[str]] = {}

    def name(self, tensor: Tensor, node: fx.Node) -> None:
        """From now on the tensor is the node's value."""
        self._nodes[id(tensor)] = (weakref.ref(tensor), node)

    def node(self, tensor: Tensor) -> fx.Node:
        """The node of a tensor; one that no recorded operation made was captured."""
        reference, node = self._nodes.get(id(tensor), (None, None))
        if reference is not None and reference() is tensor:
            return node  # type: ignore[return-value]
        if tensor._is_zerotensor():
            # a tangent of zeros, viewed: views of zeros without memory never come here
            options = {"dtype": tensor.dtype, "device": tensor.device}
            node = call(self.graph, aten._efficientzerotensor.default, (list(tensor.shape),), options)
            node.meta["spec"] = spec_of(tensor)
            self.name(tensor, node)
            return node
        name = f"_tensor_constant{len(self.captured)}"
        self.captured[name] = tensor
        node = self.graph.create_node("get_attr", name, name=name)
        node.meta["spec"] = spec_of(tensor)
        self._roots[node] = frozenset((name,))
        self.name(tensor, node)
        return node

    def nodes(self, value: Any) -> Any:
        """Nested arguments or results with nodes for tensors."""
        if isinstance(value, Tensor):
            return self.node(value)
        if isinstance(value, (tuple, list)):
            return [self.nodes(v) for v in value]
        if isinstance(value, dict):
            return {k: self.nodes(v) for k, v in value.items()}
        return value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.decompositions:
            with self:
                other = self.decompositions[func](*args, **kwargs)
            if other is not NotImplemented:
                return other
        held, options = self.nodes(args), self.nodes(kwargs)
        inputs = tensors_in(held, options)
        if torch.Tag.data_dependent_output in func.tags or func is aten.equal.default:
            self._read(inputs, f"f reads the value of a tensor in Python ({func})")
            return func(*args, **kwargs)
        if torch.Tag.dynamic_output_shape in func.tags:
            self._read_shape(func, held, args)
        if func is aten.as_strided.default:
            inputs[0].meta["layout"] = (tuple(args[0].stride()), args[0].storage_offset())
        if func is aten.lift_fresh.default:  # made in f from data: f may write to it, and each run starts anew
            func = aten.lift_fresh_copy.default
        out = func(*args, **kwargs)
        node = call(self.graph, func, tuple(held), options)
        node.meta["spec"] = spec_of(out)
        if all(n in self._roots for n in inputs) and torch.Tag.nondeterministic_seeded not in func.tags:
            self._roots[node] = frozenset().union(*(self._roots[n] for n in inputs))
        if isinstance(out, Tensor):
            self.name(out, node)
        elif isinstance(out, (tuple, list)):
            for i, item in enumerate(out):
                if isinstance(item, Tensor):
                    part = call(self.graph, operator.getitem, (node, i), {})
                    part.meta["spec"] = spec_of(item)
                    if node in self._roots:
                        self._roots[part] = self._roots[node]
                    self.name(item, part)
        return out

    def _read(self, nodes: Iterable[fx.Node], reason: str) -> None:
        """Python sees these values: they must not depend on the inputs, and captured tensors are noted."""
        for node in nodes:
            if node not in self._roots:
                raise NeedsValue(reason)
            self.read |= self._roots[node]

    def _read_shape(self, func: Any, held: Any, args: Any) -> None:
        """Note what the shape of the result depends on."""
        deciding = held
        if func in (aten.index.Tensor, aten.masked_select.default):
            masks = args[1] if func is aten.index.Tensor else [args[1]]
            if not any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in masks):
                return  # indices, not masks: the shape is theirs
            deciding = held[1]
        self._read(tensors_in(deciding), f"the shapes inside f depend on values ({func})")


@contextmanager
def _no_autocast_cache() -> Iterator[None]:
    """A weight that autocast had converted before would look like a captured tensor."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def record(
    f: Callable[..., Any],
    inputs: Sequence[Tensor],
    *,
    differentiable: bool = True,
    decompositions: Mapping[Any, Callable[..., Any]] = MappingProxyType({}),
) -> fx.GraphModule:
    """The aten graph of ``f(*inputs)``, as ``make_fx(f)(*inputs)`` gives it.

    f is run once, on the real tensors. Tensors that it captures become attributes: the very objects. Its result may
    nest tensors in tuples and lists.

    ``meta["values_read"]`` of the result lists the captured tensors whose values decided something in Python or a shape
    (``x[mask]``, ``if flag:``): the graph holds for these values only.

    Args:
        differentiable: whether autograd may be run through a replay, with respect to inputs or captured tensors. If
            not, derivative rules take fused kernels (``silu_backward``) and factors (of ``linalg.solve``) that have
            **no derivatives, or wrong ones**.
        decompositions: other ways to compute an operation, as in ``make_fx``: what they return is taken, unless it is
            ``NotImplemented``.

    Raises:
        NeedsValue: f reads a value that depends on its inputs.
        NotImplementedError: f uses a higher-order operation (``torch.cond``), which only ``make_fx`` records.
    """
    recorder = _Recorder(decompositions)
    # new objects: an input may be given twice, or be one of the tensors that f captures
    inputs = [t.detach() for t in inputs]
    for i, tensor in enumerate(inputs):
        node = recorder.graph.placeholder(f"arg{i}")
        node.meta["spec"] = spec_of(tensor)
        recorder.name(tensor, node)
    with torch.set_grad_enabled(differentiable), _no_autocast_cache(), recorder:
        result = f(*inputs)
    recorder.graph.output(map_nodes(recorder.nodes(result), lambda n: n))
    module = graph_module(recorder.graph, recorder.captured)
    module.meta["values_read"] = [recorder.captured[name] for name in sorted(recorder.read)]
    return module
