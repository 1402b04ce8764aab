"""Walking an aten graph of arrays and seeds: what is known, what varies, and what is linear in the seeds."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from crelle._arrays import ArrayType
from crelle.backends.torch.codegen import attribute_of
from crelle.backends.torch.cost import node_cost, spec_of_node
from crelle.backends.torch.rewrite.values import Spec, is_random, map_nodes
from crelle.tangent.build import Builder
from crelle.tangent.program import Dependence, TangentProgram

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Primal:
    """A value that does not depend on the seeds; ``value`` computes it if it can be known."""

    kind: Dependence
    value: Callable[[], Any] | None = None


@dataclass(frozen=True, slots=True)
class Tangent:
    """A value that is linear in the seeds; ``value=None`` is zero."""

    value: int | None


@dataclass(frozen=True, slots=True)
class Several:
    """The results of an operation that returns a tuple."""

    items: tuple[Any, ...]


Entry = Primal | Tangent | Several


class Unreadable(Exception):
    """The graph holds something that maps of strided tensors do not describe: a sparse tensor."""


Rule = Callable[["Lowering", fx.Node], Any]
#: By overload packet. A rule returns the id of the result, ``None`` for zero, or a list of these for several results.
RULES: dict[Any, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Declare how operations of these names become linear maps; a name that this torch lacks is left out."""

    def declare(function: Rule) -> Rule:
        for name in names:
            packet = getattr(torch.ops.aten, name, None)
            if packet is not None:
                RULES[packet] = function
        return function

    return declare


def type_of(spec: Spec) -> ArrayType:
    """The type of a tensor of which only the spec is known."""
    return ArrayType(str(spec.dtype).removeprefix("torch."), spec.shape)


class Lowering(Builder):
    """Turns the part of an aten graph that depends on seeds into a :class:`TangentProgram`."""

    def __init__(self, module: fx.GraphModule, program: TangentProgram, loose: Collection[int] = ()) -> None:
        super().__init__(program)
        self.module, self.loose = module, loose
        self.env: dict[fx.Node, Entry] = {}
        self.spans: dict[fx.Node, range] = {}  # of the program's maps: those that an operation became

    def run(self, given: Sequence[Entry]) -> list[Entry]:
        """Walk the nodes; returns what the results are."""
        inputs = iter(given)
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                self.env[node] = next(inputs)
            elif node.op == "get_attr":
                tensor = attribute_of(self.module, node)
                known = id(tensor) not in self.loose
                self.env[node] = Primal(Dependence.CONSTANT, _given(tensor)) if known else Primal(Dependence.PASSIVE)
            elif node.op == "output":
                results: Any = node.args[0]
                return [
                    self.env[r] if isinstance(r, fx.Node) else Primal(Dependence.CONSTANT, _given(r)) for r in results
                ]
            else:
                self.env[node] = self._node(node)
        raise AssertionError("a graph without output")

    def _node(self, node: fx.Node) -> Entry:
        arguments: Any = node.args
        if node.target is operator.getitem:
            entry, index = self.env[arguments[0]], arguments[1]
            if isinstance(entry, Several):
                return entry.items[index]  # type: ignore[no-any-return]
            assert isinstance(entry, Primal)
            whole = entry.value
            return Primal(entry.kind, None if whole is None else lambda: whole()[index])
        entries = [self.env[n] for n in node.all_input_nodes]
        if not any(isinstance(e, Tangent) for e in entries):
            return self._primal(node, entries)
        if not any(isinstance(e, Tangent) and e.value is not None for e in entries):
            return self._zeros(node)
        flops, moved = node_cost(node)
        self.operation = (name_of(node), flops, moved)
        first, start = len(self.program.types), len(self.program.maps)
        found = self.rule_of(node)(self, node)
        self.spans[node] = range(start, len(self.program.maps))
        spec = spec_of_node(node)
        several, specs = (found, spec) if isinstance(found, list) else ([found], [spec])
        results = [
            (v, type_of(s)) for v, s in zip(several, specs or (), strict=False)
            if isinstance(v, int) and isinstance(s, Spec)
        ]  # fmt: skip
        self.program.close(first, results)
        if isinstance(found, list):
            return Several(tuple(e if isinstance(e, Primal) else Tangent(e) for e in found))
        return Tangent(found)

    def rule_of(self, node: fx.Node) -> Rule:
        """What turns an operation into linear maps."""
        from crelle.backends.torch.lowering.unknown import fallback, users

        packet = getattr(node.target, "overloadpacket", node.target)
        return users(node) or RULES.get(packet) or fallback(node)

    def _zeros(self, node: fx.Node) -> Entry:
        spec = spec_of_node(node)
        return Tangent(None) if isinstance(spec, Spec) or spec is None else Several((Tangent(None),) * len(spec))

    def _primal(self, node: fx.Node, entries: Sequence[Entry]) -> Entry:
        primal = [e for e in entries if isinstance(e, Primal)]
        kind = max((e.kind for e in primal), default=Dependence.CONSTANT)
        if is_random(node.target):
            return Primal(Dependence.VARYING)
        if len(primal) < len(entries) or any(e.value is None for e in primal):
            return Primal(kind)
        return Primal(kind, _lazily(lambda: self.evaluate(node)))

    def evaluate(self, node: fx.Node) -> Any:
        """Run an operation all of whose operands are known."""

        def value(n: fx.Node) -> Any:
            entry = self.env[n]
            assert isinstance(entry, Primal) and entry.value is not None
            return entry.value()

        args, kwargs = map_nodes(node.args, value), map_nodes(node.kwargs, value)
        with torch.no_grad():
            target: Any = node.target
            return target(*args, **kwargs)

    # -- what rules use

    def tangent(self, argument: Any) -> int | None:
        """The value that an argument is, if it is a tangent that is not zero."""
        entry = self.env.get(argument) if isinstance(argument, fx.Node) else None
        return entry.value if isinstance(entry, Tangent) else None

    def kind(self, *arguments: Any) -> Dependence:
        """What coefficients among the arguments depend on."""
        found = Dependence.CONSTANT
        for a in arguments:
            entry = self.env.get(a) if isinstance(a, fx.Node) else None
            if isinstance(entry, Primal):
                found = max(found, entry.kind)
            elif isinstance(a, (tuple, list)):
                found = max(found, self.kind(*a))
        return found

    def known(self, argument: Any) -> Any:
        """The value of an argument that is no tangent, ``None`` if it is not known before f is run."""
        if not isinstance(argument, fx.Node):
            return argument
        entry = self.env[argument]
        return entry.value() if isinstance(entry, Primal) and entry.value is not None else None

    def keep(self, argument: Any) -> Array | None:
        """False where a coefficient is known to be zero; ``None`` if that is nowhere known."""
        value = self.known(argument)
        if value is None:
            return None
        nonzero = np.asarray(value.detach().cpu().ne(0).numpy() if isinstance(value, torch.Tensor) else value != 0)
        return None if nonzero.all() else nonzero

    def shape(self, argument: Any) -> tuple[int, ...]:
        """The shape of an argument; of a number, ``()``."""
        if not isinstance(argument, fx.Node):
            return tuple(argument.shape) if isinstance(argument, torch.Tensor) else ()
        spec = spec_of_node(argument)
        assert isinstance(spec, Spec)
        return spec.shape

    def spec(self, node: fx.Node, item: int | None = None) -> Spec:
        """The spec of the result of a node, or of one of its results."""
        found = spec_of_node(node)
        found = found if item is None else found[item]
        assert isinstance(found, Spec)
        return found

    def opaque(self, node: fx.Node, why: str) -> Any:
        """Every element on every element, and a note that says so."""
        operands = tuple(e.value for n in node.all_input_nodes if isinstance(e := self.env[n], Tangent))
        spec = spec_of_node(node)
        specs = [spec] if isinstance(spec, Spec) else list(spec or ())
        if not specs:
            raise Unreadable(f"{name_of(node)} makes a tensor that is not strided")
        results = self.unread(operands, [None if s is None else type_of(s) for s in specs], why)
        return results[0] if isinstance(spec, Spec) else results


def _given(value: Any) -> Callable[[], Any]:
    return lambda: value


def _lazily(compute: Callable[[], Any]) -> Callable[[], Any]:
    kept: list[Any] = []

    def value() -> Any:
        if not kept:
            kept.append(compute())
        return kept[0]

    return value


def args_of(node: fx.Node) -> Any:
    """The positional arguments, nodes where they are tensors."""
    return node.args


def name_of(node: fx.Node) -> str:
    """The operation, for people: ``mm``, ``my.op``."""
    target: Any = node.target
    return str(target).removeprefix("aten.").rsplit(".", 1)[0] if hasattr(target, "_schema") else str(target)
