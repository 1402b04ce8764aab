"""Generated Python for an aten graph: the cheapest call for every operation, results freed after their last use.

Microseconds per call, f64[2,16], one CPU thread, torch 2.13 (overload · its ``_op`` · ``torch.x`` or operator):
mm 1.40 · 1.25 · 0.92; mul 1.33 · 1.18 · 0.79; tanh 1.33 · 1.12 · 0.87; sum 2.01 · 1.87 · 1.2; t 1.05 · 0.87 · 0.56;
view and unsqueeze 1.41 and 1.19 · 1.25 and 1.07 · reshape 0.54; expand 1.79 · 1.64 · method 0.76;
mul by a Python number 1.28, by a 0-d tensor 0.95; pow(x, 2) 1.11, square 0.82; tanh_backward, which has no binding,
1.22 · 1.02.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from crelle.backends.torch.rewrite.values import aten, is_effect, spec_of

#: Results of at least this many bytes are freed as soon as they are not needed any more.
_FREE_BYTES = 1 << 14

_INFIX = {
    aten.mul.Tensor: "*", aten.div.Tensor: "/", aten.add.Tensor: "+", aten.sub.Tensor: "-",
}  # fmt: skip

#: Operations whose ``torch`` binding takes the same arguments in the same order and picks the same overload.
_NAMED_ALIKE = """
    mm mv dot bmm addmm addmv addcmul addcdiv tanh exp expm1 log log1p log2 sqrt rsqrt reciprocal sin cos tan
    asin acos atan sinh cosh sigmoid abs sign sgn erf erfc relu neg square clone detach reshape permute
    diag_embed where.self pow.Tensor_Scalar pow.Tensor_Tensor cat stack select.int index_select gather maximum
    minimum cumsum flip roll tril triu rsub.Tensor _softmax _log_softmax native_layer_norm sum sum.dim_IntList
    mean.dim amax amin scatter_add index_add logical_not lt.Tensor le.Tensor gt.Tensor ge.Tensor eq.Tensor
    ne.Tensor lt.Scalar le.Scalar gt.Scalar ge.Scalar eq.Scalar ne.Scalar view_as_real view_as_complex floor
    ceil round atan2 lerp.Tensor constant_pad_nd diagonal masked_fill.Scalar digamma lgamma add.Tensor
    sub.Tensor mul.Tensor div.Tensor bitwise_and.Tensor bitwise_or.Tensor
"""
_NAMED: dict[Any, Any] = {
    getattr(getattr(aten, name), overload or "default"): getattr(torch, name)
    for name, _, overload in (entry.partition(".") for entry in _NAMED_ALIKE.split())
}


class _Source:
    """Lines of the generated function and the objects that they name."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.objects: dict[str, Any] = {}
        self._names: dict[int, str] = {}

    def bind(self, value: Any, hint: str) -> str:
        """A name for an object."""
        if id(value) not in self._names:
            name = f"_{len(self.objects)}_{hint}"  # no node is called that
            self._names[id(value)] = name
            self.objects[name] = value
        return self._names[id(value)]

    def text(self, value: Any) -> str:
        """An argument as source."""
        if isinstance(value, fx.Node):
            return value.name
        if isinstance(value, (list, tuple)):
            inner = ", ".join(self.text(v) for v in value)
            return f"({inner}{',' if len(value) == 1 else ''})"
        if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and value - value == 0):
            return repr(value)
        return self.bind(value, "c")

    def call(self, node: fx.Node) -> str:
        """The cheapest expression for a node."""
        target: Any = node.target
        args = [self.text(a) for a in node.args]
        if target is operator.getitem:
            return f"{args[0]}[{args[1]}]"
        if not node.kwargs:
            if target in _INFIX and all(isinstance(a, fx.Node) for a in node.args):
                return f"{args[0]} {_INFIX[target]} {args[1]}"
            if target is aten.neg.default:
                return f"-{args[0]}"
            if target is aten.permute.default and node.args[1] == (1, 0):
                return f"{self.bind(torch.t, 't')}({args[0]})"
            if target is aten.select.int and node.args[1] == 0:
                return f"{args[0]}[{args[2]}]"
            if target is aten.contiguous.default:
                return f"{args[0]}.contiguous()"
            if target is aten.expand.default:
                return f"{args[0]}.expand({', '.join(map(self.text, node.args[1]))})"  # type: ignore[arg-type]
            if target is aten.pow.Tensor_Scalar and node.args[1] == 2:
                return f"{self.bind(torch.square, 'square')}({args[0]})"
            if target is aten.slice.Tensor and len(node.args) == 5 and node.args[4] == 1:
                _, axis, start, stop, _ = node.args
                return f"{args[0]}[{':, ' * axis}{start}:{stop}]"  # type: ignore[operator]
            if target is aten.sum.dim_IntList and len(node.args) == 2 and node.args[1] and len(node.args[1]) == 1:  # type: ignore[arg-type]
                return f"{self.bind(torch.sum, 'sum')}({args[0]}, {node.args[1][0]})"  # type: ignore[index]
        args += [f"{key}={self.text(value)}" for key, value in node.kwargs.items()]
        function = _NAMED.get(target) or getattr(target, "_op", target)
        return f"{self.bind(function, node.name)}({', '.join(args)})"


def _freed_after(graph: fx.Graph) -> dict[fx.Node, list[str]]:
    """Names that are not needed after a node, where they are worth a statement."""
    freed: dict[fx.Node, list[str]] = {}
    seen: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        for source in node.all_input_nodes:
            if source not in seen:
                seen.add(source)
                spec = source.meta.get("spec") or spec_of(source.meta.get("val"))
                big = getattr(spec, "nbytes", _FREE_BYTES) >= _FREE_BYTES
                if node.op != "output" and source.op == "call_function" and big:
                    freed.setdefault(node, []).append(source.name)
    return freed


def compile_graph(gm: fx.GraphModule) -> Callable[..., Any]:
    """A plain function of the graph's placeholders, in order, that returns its output as it is nested there."""
    source = _Source()
    freed = _freed_after(gm.graph)
    parameters: list[str] = []
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            parameters.append(node.name)
        elif node.op == "get_attr":
            source.objects[node.name] = attribute_of(gm, node)
        elif node.op == "call_function":
            expression = source.call(node)
            source.lines.append(
                expression if not node.users and is_effect(node.target) else f"{node.name} = {expression}"
            )
        elif node.op == "output":
            source.lines.append(f"return {source.text(node.args[0])}")
        else:
            return gm.forward
        if node in freed:
            source.lines.append(f"del {', '.join(freed[node])}")
    body = "\n        ".join(source.lines)
    head = f"def make({', '.join(source.objects)}):\n    def replay({', '.join(parameters)}):"
    text = f"{head}\n        {body}\n    return replay\n"
    scope: dict[str, Any] = {}
    exec(compile(text, "<crelle replay>", "exec"), scope)
    replay = scope["make"](**source.objects)
    replay.source = text
    return replay  # type: ignore[no-any-return]


def attribute_of(gm: fx.GraphModule, node: fx.Node) -> Any:
    """What a ``get_attr`` node gives."""
    return operator.attrgetter(str(node.target))(gm)
