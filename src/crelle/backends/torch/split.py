"""A tangent in two parts: what went only through constant coefficients, and the rest.

J v = C v + V(x) v, where C is the same for every x. V alone is run without C v ever being subtracted from J v, which
would lose digits where C is large. The lowering says what is constant, so that the entries that its program calls
constant have nothing in V.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from crelle._arrays import ArrayType
from crelle.backends.torch.codegen import attribute_of
from crelle.backends.torch.lowering.pointwise import each_element
from crelle.backends.torch.lowering.walk import Lowering, Several, Tangent, name_of
from crelle.backends.torch.rewrite.values import (
    Spec,
    aten,
    call,
    graph_module,
    is_effect,
    is_random,
    map_nodes,
    packets,
    writes,
)
from crelle.backends.torch.run import dtype_of
from crelle.tangent.program import Dependence


class CannotSplit(Exception):
    """Values and tangents, or constants and the rest, cannot be told apart in an operation."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Two graphs (arrays, seeds) -> products of one seed, whose sum is the tangent; neither writes to anything.

    Attributes:
        constant: what went only through constant coefficients: of the arrays it reads shapes alone.
        varying: the rest.
    """

    constant: fx.GraphModule
    varying: fx.GraphModule


@dataclass(frozen=True, slots=True)
class _Pair:
    """A tangent: its constant part and the rest; ``None`` is zero."""

    constant: fx.Node | None = None
    varying: fx.Node | None = None


#: Sums of a tangent and a product: the sum leaves the tangent as constant as it was.
_FUSED = frozenset((aten.addcmul.default, aten.addmm.default, aten.addmv.default, aten.baddbmm.default))
_SUMS = {aten.add.Tensor: 1, aten.sub.Tensor: -1}
#: Operations without a derivative whose result is not zero: numbers made of a tangent, or of its shape.
_NUMBERS = packets(
    """
    new_empty new_full full_like ones_like empty_like new_empty_strided sign sgn isnan isinf eq ne lt le gt ge bernoulli
    argmax argmin logical_not signbit floor ceil round trunc
    """
)

Choose = Callable[[fx.Node], fx.Node | None]


def split(low: Lowering) -> Parts:
    """Cut the graph that a tangent program was read from.

    Raises:
        CannotSplit: an operation draws random numbers, writes, or mixes up what is constant and what is not.
    """
    return _Splitter(low).run()


class _Splitter:
    """Writes both parts into one graph; each is then copied without what only the other needs."""

    def __init__(self, low: Lowering) -> None:
        self.low = low
        self.graph = fx.Graph()
        self.values: dict[fx.Node, fx.Node] = {}
        self.pairs: dict[fx.Node, _Pair] = {}
        self.attributes: dict[str, Any] = {}
        self._checks: list[fx.Node] = []
        self._numbers: set[fx.Node] = set()
        self._wholes: dict[fx.Node, fx.Node | None] = {}
        self._applied: dict[tuple[fx.Node, str], fx.Node | None] = {}

    def run(self) -> Parts:
        for node in self.low.module.graph.nodes:
            if node.op == "output":
                results: Any = node.args[0]
                types = self.low.program.output_types
                pairs = [self.pairs.get(r, _Pair()) for r in results[: len(types)]]
                constant = self._only([p.constant for p in pairs], types, ())
                return Parts(constant, self._only([p.varying for p in pairs], types, self._checks))
            entry = self.low.env[node]
            if node.op == "placeholder":
                made = self.graph.node_copy(node)
                if isinstance(entry, Tangent):
                    self.pairs[node] = _Pair(constant=made)
                else:
                    self.values[node] = made
            elif node.op == "get_attr":
                self.attributes[str(node.target)] = attribute_of(self.low.module, node)
                self.values[node] = self.graph.node_copy(node)
            elif writes(node.target) or is_random(node.target):
                raise CannotSplit(f"{name_of(node)} writes or draws random numbers")
            elif isinstance(entry, Tangent):
                self.pairs[node] = self._tangent(node, entry)
            elif not isinstance(entry, Several):  # of several results each is made where it is taken out
                if any(n not in self.values for n in node.all_input_nodes):
                    raise CannotSplit(f"{name_of(node)} makes a value of a tangent")
                self.values[node] = self.graph.node_copy(node, self.values.__getitem__)
                if is_effect(node.target):  # it raises where a matrix is singular
                    self._checks.append(self.values[node])
        raise AssertionError("a graph without output")

    def _tangent(self, node: fx.Node, entry: Tangent) -> _Pair:
        arguments: Any = node.args
        source, item = arguments[:2] if node.target is operator.getitem else (node, None)
        if entry.value is None:
            made = getattr(source.target, "overloadpacket", None) in _NUMBERS
            if made or any(n in self._numbers for n in source.all_input_nodes):
                self._numbers.add(node)
            return _Pair()
        if not _inexact(node) or any(n in self._numbers for n in source.all_input_nodes):
            raise CannotSplit(f"{name_of(source)} makes a value of a tangent, or reads one")
        if source.target in _FUSED and self._joins(source):
            return self._fused(source)
        kinds = self._kinds(source, entry.value)

        def applied(part: str, choose: Choose) -> fx.Node | None:
            return self._applied_to(node, source, item, part, choose)

        if all(kinds.values()):
            if self.low.rule_of(source) is each_element:
                raise CannotSplit(f"{name_of(source)} is not known to be linear")
            return _Pair(
                applied("constant", lambda n: self.pairs[n].constant),
                applied("varying", lambda n: self.pairs[n].varying),
            )
        if not any(kinds.values()):
            return _Pair(None, applied("whole", self._whole))
        raise CannotSplit(f"{name_of(source)} is constant in some of its operands only")

    def _live(self, node: Any) -> bool:
        entry = self.low.env.get(node) if isinstance(node, fx.Node) else None
        return isinstance(entry, Tangent) and entry.value is not None

    def _joins(self, node: fx.Node) -> bool:
        """Whether a product whose coefficient varies is added to a tangent."""
        plus, *factors = node.args[:3]
        return self._live(plus) and any(map(self._live, factors)) and self.low.kind(*factors) != Dependence.CONSTANT

    def _fused(self, node: fx.Node) -> _Pair:
        plus, *factors = node.args[:3]
        if all(map(self._live, factors)) or node.kwargs.get("beta", 1) != 1:
            raise CannotSplit(f"{name_of(node)} scales what it adds to, or reads tangents only")
        assert isinstance(plus, fx.Node)
        pair = self.pairs[plus]
        read = [self._whole(f) if f in self.pairs else self.values[f] for f in factors if isinstance(f, fx.Node)]
        zero = self._zeros(plus) if pair.varying is None else pair.varying
        varying = self._call(node.target, (zero, *read), node, dict(node.kwargs))
        return _Pair(self._spread(pair.constant, plus, node), varying)

    def _kinds(self, node: fx.Node, value: int) -> dict[fx.Node, bool]:
        """For every operand that a result reads: whether the coefficients on the way are constant."""
        kinds: dict[fx.Node, bool] = {}
        maps = [self.low.program.maps[k] for k in self.low.spans[node]]
        for operand in node.all_input_nodes:
            entry = self.low.env[operand]
            if not isinstance(entry, Tangent) or entry.value is None:
                continue
            found: dict[int, set[bool]] = {entry.value: {True}}
            for m in maps:
                through: set[bool] = set().union(*(found.get(v, ()) for v in m.operands if v is not None))
                if through and m.dependence != Dependence.CONSTANT:
                    through = {False}
                for r in m.results:
                    if r is not None:
                        found[r] = found.get(r, set()) | through
            reaches = found.get(value, set())
            if len(reaches) == 2:
                raise CannotSplit(f"{name_of(node)} is constant in some of its coefficients only")
            if reaches:
                kinds[operand] = True in reaches
        return kinds

    # -- applying an operation

    def _applied_to(
        self, node: fx.Node, source: fx.Node, item: int | None, part: str, choose: Choose
    ) -> fx.Node | None:
        """An operation, or one of its results, at a part of its tangents; ``None`` if that is zero."""
        key = (source, part)
        if key not in self._applied:
            self._applied[key] = self._emit(source, choose)
        found = self._applied[key]
        return found if found is None or item is None else self._call(operator.getitem, (found, item), node)

    def _emit(self, node: fx.Node, choose: Choose) -> fx.Node | None:
        given = {n: choose(n) for n in node.all_input_nodes if n in self.pairs}
        if not any(given.values()):
            return None
        arguments: Any = node.args
        named: Any = node.kwargs
        if node.target in _SUMS and all(a in given for a in arguments):
            first, second = arguments
            if given[second] is None:
                return self._spread(given[first], first, node)
            if given[first] is None:
                factor = _SUMS[node.target] * named.get("alpha", 1)
                return self._spread(self._times(given[second], factor, second), second, node)

        def read(n: fx.Node) -> fx.Node:
            if n in self.values:
                return self.values[n]
            return given[n] or self._zeros(n)

        return self._call(node.target, map_nodes(arguments, read), node, map_nodes(named, read))

    def _call(self, target: Any, args: tuple[Any, ...], like: fx.Node, kwargs: dict[str, Any] | None = None) -> fx.Node:
        made = call(self.graph, target, args, kwargs or {})
        made.meta["spec"] = like.meta.get("spec")
        return made

    def _whole(self, node: fx.Node) -> fx.Node | None:
        """The tangent itself."""
        if node not in self._wholes:
            pair = self.pairs[node]
            both = pair.constant is not None and pair.varying is not None
            added = self._call(aten.add.Tensor, (pair.constant, pair.varying), node) if both else None
            self._wholes[node] = added or pair.constant or pair.varying
        return self._wholes[node]

    def _times(self, value: fx.Node | None, factor: Any, like: fx.Node) -> fx.Node | None:
        if factor in (1, -1):
            return value if factor == 1 else self._call(aten.neg.default, (value,), like)
        return self._call(aten.mul.Tensor, (value, factor), like)

    def _spread(self, value: fx.Node | None, old: fx.Node, new: fx.Node) -> fx.Node | None:
        """What was of the type of one node as one of the type of another: as sums convert and broadcast."""
        a, b = old.meta["spec"], new.meta["spec"]
        if value is not None and a.dtype != b.dtype:
            value = self._call(aten._to_copy.default, (value,), new, {"dtype": b.dtype})
        if value is not None and a.shape != b.shape:
            value = self._call(aten.expand.default, (value, b.shape), new)
        return value

    def _zeros(self, node: fx.Node) -> fx.Node:
        if not _inexact(node):
            raise CannotSplit(f"{name_of(node)} makes a value of a tangent")
        spec = node.meta["spec"]
        return self._call(aten.full.default, (spec.shape, 0.0), node, {"dtype": spec.dtype, "device": spec.device})

    # -- results

    def _only(
        self, results: Sequence[fx.Node | None], types: Sequence[ArrayType], checks: Sequence[fx.Node]
    ) -> fx.GraphModule:
        """A graph of all inputs, these checks and these results; ``None`` gives zeros."""
        wanted = {r for r in (*results, *checks) if r is not None}
        for node in reversed(self.graph.nodes):
            if node in wanted:
                wanted.update(node.all_input_nodes)
        graph = fx.Graph()
        new: dict[fx.Node, fx.Node] = {}
        device = torch.device("cpu")
        for node in self.graph.nodes:
            if node in wanted or node.op == "placeholder":
                new[node] = graph.node_copy(node, new.__getitem__)
            if node.op == "placeholder":
                device = node.meta["spec"].device
        filled = []
        for r, t in zip(results, types, strict=True):
            options = {"dtype": dtype_of(t.dtype), "device": device}
            filled.append(call(graph, aten.full.default, (t.shape, 0.0), options) if r is None else new[r])
        graph.output(tuple(filled))
        return graph_module(graph, {k: v for k, v in self.attributes.items() if any(n.target == k for n in new)})


def _inexact(node: fx.Node) -> bool:
    spec = node.meta.get("spec")
    return isinstance(spec, Spec) and (spec.dtype.is_floating_point or spec.dtype.is_complex)
