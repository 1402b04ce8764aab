"""Making traced derivatives cheap to replay: the graph is rewritten once, then run as generated Python.

:func:`optimise` takes an aten graph, from :func:`crelle.backends.torch.record.record` or ``make_fx``, and returns an
equivalent one; :func:`compile_graph` turns a graph into a function.

>>> import torch
>>> from crelle.backends.torch.record import record
>>> weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
>>> module = record(torch.func.jacrev(lambda x: torch.tanh(weight @ x)), [torch.zeros(2)])
>>> rewritten = optimise(module)
>>> [sum(node.op == "call_function" for node in m.graph.nodes) for m in (module, rewritten)]
[14, 5]
>>> compile_graph(rewritten)(torch.zeros(2))
tensor([[1., 2.],
        [3., 4.],
        [5., 6.]])

How to trace
------------
1. In one go, with :func:`~crelle.backends.torch.record.record`, the seeds made inside the traced function by ``eye`` or
   by ``zeros(k, n).diagonal().fill_(1)``: the rewriting knows unit vectors. As inputs they would be any vectors.
2. With ``vmap`` outermost: ``vmap(lambda v: jvp(grad(h), (x,), (v,))[1])``. ``jacfwd(jacrev(h))`` adds a batch of one,
   and reverse-over-forward as ``jacrev(jacfwd(h))`` runs the transpose of the whole batch: 22 times the time below.
3. With grad mode enabled, also for a result that is not differentiated: the graphs are as fast, and those made
   without have wrong derivatives (see ``record``). Rewriting keeps what autograd and ``torch.func`` need.
4. Replay outside of autocast: its casts are in the graph.

Microseconds (f64, one CPU thread, torch 2.13): ``torch.func``, then replays of a graph traced (a) in one go, (b) for
one seed, rewritten, and traced again under ``vmap``, (c) from a rewritten graph of the gradient. (a) is fastest to
trace; (b) costs a third of (a) where the graph for one seed is there anyway, and replays as fast.

=====================  ======  ===================  =======  =====================  =====  =======================
function               jacrev  (a) · (b)            fwd-rev  (a) · (b) · (c)        rev²   (a) · (b) · (c)
=====================  ======  ===================  =======  =====================  =====  =======================
network 2-16-16-2         186  8.0 · 7.9               1272  27 · 30 · 30             594  27 · 30 · 30
network 64-128²-10        219  26 · 26                 1514  180 · 173 · 175          799  178 · 174 · 174
sin(x) eˣ + x³, 2000    15100  570 · 590              77000  660 · 650 · 660
convolutions              313  54 · 53                 1605  371 · 375 · 380         1474  320 · 324 · 324
layer norm, 4 × 8         126  20 · 20                 1706  83 · 82 · 83             504  71 · 78 · 71
attention, 4 × 8          395  92 · 92                 2436  241 · 242 · 243         1345  255 · 257 · 254
=====================  ======  ===================  =======  =====================  =====  =======================

Reverse-over-forward of the second network: 10 500 in ``torch.func``, 3 900 as ``jacrev(jacfwd(h))``, 181 with ``vmap``
outermost. ``jacfwd`` of the first: 513, against 11.

What is not seen: ``detach_`` in place and ``no_grad`` inside the function leave nothing in an aten graph, so
derivatives *of a replay* flow through them; ``detach`` is kept.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import torch
from torch import fx

from crelle.backends.torch.codegen import attribute_of, compile_graph
from crelle.backends.torch.rewrite import matmul, movement, pointwise, registry
from crelle.backends.torch.rewrite.builder import Builder
from crelle.backends.torch.rewrite.functional import INPLACE_VIEWS, Base, Ref, parts_of, strided_step, view_step
from crelle.backends.torch.rewrite.fuse import fuse
from crelle.backends.torch.rewrite.values import Spec, Unsupported, aten, map_nodes, spec_of, tensors_in, writes

__all__ = ["compile_graph", "optimise"]

#: Their import registers the rules.
RULE_MODULES = (pointwise, movement, matmul)


def optimise(gm: fx.GraphModule) -> fx.GraphModule:
    """An equivalent graph that runs fewer and cheaper operations.

    Values agree to rounding, derivatives of all orders too, also under ``torch.func``. Placeholders keep their number
    and order; attributes are captured tensors whose values may change, except those that an earlier call folded.
    Results share no memory with inputs, captured tensors, constants or one another. A graph that holds something
    unknown is returned as it is.
    """
    try:
        return _Rewriter(gm).run()
    except Unsupported:
        return gm


class _Rewriter:
    """One pass over the old graph, in order; writes are taken out on the way."""

    def __init__(self, gm: fx.GraphModule) -> None:
        self.gm = gm
        self.b = Builder()
        self.env: dict[fx.Node, Any] = {}
        self.bases: list[Base] = []

    def run(self) -> fx.GraphModule:
        for node in self.gm.graph.nodes:
            if node.op == "output":
                return self._finish(node)
            self.env[node] = self._visit(node)
        raise Unsupported("a graph without output")

    def _visit(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            made = self.b.graph.placeholder(str(node.target))
            spec = node.meta.get("spec") or spec_of(node.meta.get("val"))
            if not isinstance(spec, Spec):
                raise Unsupported(f"an input that is no dense tensor, or of unknown shape: {node}")
            self.b.spec[made] = spec
            self.b.order[made] = len(self.b.order)
            return self._fresh(made, source=made)
        if node.op == "get_attr":
            value = attribute_of(self.gm, node)
            if not isinstance(spec_of(value), Spec):
                raise Unsupported(f"an attribute that is no dense tensor: {node}")
            made = self.b.attribute(str(node.target).replace(".", "_"), value)
            return self._fresh(made, source=made)
        if node.op != "call_function":
            raise Unsupported(f"{node.op} {node.target}")
        if node.target is operator.getitem:
            source, index = node.args
            return self.env[source][index]  # type: ignore[index]
        if not isinstance(node.target, torch._ops.OpOverload):
            raise Unsupported(f"{node.target}")
        if node.target in INPLACE_VIEWS:
            return self._change_view(node)
        if torch.Tag.inplace_view in node.target.tags:
            raise Unsupported(f"{node.target} changes the memory of a tensor")
        if writes(node.target):
            return self._write(node)
        return self._call(node, node.target, node.args, node.kwargs)

    def _fresh(self, value: fx.Node, source: fx.Node | None = None) -> Ref:
        base = Base(value, source)
        self.bases.append(base)
        return Ref(base, (), value, 0)

    def _read(self, value: Any) -> Any:
        return map_nodes(value, lambda n: self._value(self.env[n]))

    def _spec(self, node: fx.Node, target: Any, args: Any, kwargs: Any) -> Any:
        """Spec of a node's value, as noted by the trace, or from the operation."""
        known = node.meta.get("spec") or spec_of(node.meta.get("val"))
        if known is None and target._schema.returns:
            known = self.b.infer(target, self._read(tuple(args)), self._read(dict(kwargs)))
        return known

    @staticmethod
    def _value(ref: Any) -> Any:
        if isinstance(ref, list):
            return tuple(r.read() for r in ref)
        return ref.read() if isinstance(ref, Ref) else ref

    def _wrap(self, value: Any) -> Any:
        if isinstance(value, fx.Node) and not isinstance(self.b.spec.get(value), Spec):
            count = len(self.b.spec[value] or ())
            return [self._fresh(self.b.item(value, i)) if self.b.spec[value][i] else None for i in range(count)]
        if isinstance(value, fx.Node):
            return self._fresh(value)
        return value

    def _call(self, node: fx.Node, target: Any, args: Any, kwargs: Any) -> Any:
        """An operation that writes to nothing."""
        first = self.env.get(args[0]) if args and isinstance(args[0], fx.Node) else None
        spec = self._spec(node, target, args, kwargs)
        aliases = bool(target._schema.arguments) and target._schema.arguments[0].alias_info is not None
        if isinstance(first, Ref) and (aliases or target in _VIEW_LIKE):
            rest = tuple(args[1:])
            if target is aten.as_strided.default:
                return first.view(strided_step(self.b, self._layout(args[0]), self.b.spec[first.read()], *rest))
            if isinstance(spec, Spec):
                step = view_step(self.b, target, self.b.shape(first.read()), rest, spec.shape)
                if step is not None:
                    return first.view(step)
            else:
                parts = parts_of(self.b, target, self.b.shape(first.read()), rest)
                if parts is None:
                    raise Unsupported(f"{target}, which gives several views")
                return [first.view(part) for part in parts]
        new_args, new_kwargs = self._read(tuple(args)), self._read(dict(kwargs))
        return self._wrap(registry.apply(self.b, target, new_args, new_kwargs, spec))

    def _layout(self, node: fx.Node) -> tuple[tuple[int, ...], int]:
        """(strides, offset) of a tensor in the traced run."""
        value = attribute_of(self.gm, node) if node.op == "get_attr" else node.meta.get("val")
        if "layout" in node.meta:
            return node.meta["layout"]  # type: ignore[no-any-return]
        if not isinstance(value, torch.Tensor):
            raise Unsupported("as_strided of a tensor whose strides are not known")
        return tuple(value.stride()), int(value.storage_offset())

    def _change_view(self, node: fx.Node) -> Any:
        target = INPLACE_VIEWS[node.target]  # type: ignore[index]
        ref = self.env[node.args[0]]  # type: ignore[index]
        spec = self._spec(node, target, node.args, node.kwargs)
        step = view_step(self.b, target, self.b.shape(ref.read()), tuple(node.args[1:]), spec.shape)
        assert step is not None
        ref.become(ref.view(step))
        return ref

    def _write(self, node: fx.Node) -> Any:
        target: Any = node.target
        written = [
            i for i, a in enumerate(target._schema.arguments) if a.alias_info is not None and a.alias_info.is_write
        ]
        pure = _out_of_place(target)
        if pure is not None and written == [0]:
            ref = self.env[node.args[0]]  # type: ignore[index]
            args, kwargs = self._read(tuple(node.args)), self._read(dict(node.kwargs))
            old = self.b.spec[ref.read()]
            same = all(self.b.spec[n].dtype == old.dtype for n in tensors_in(args, kwargs))
            broadcast = {self.b.shape(n) for n in tensors_in(args, kwargs)} - {old.shape, ()}
            spec = old if same and not broadcast else self.b.infer(pure, args, kwargs)
            new = registry.apply(self.b, pure, args, kwargs, spec)
            if self.b.spec[new].dtype != old.dtype:
                new = registry.apply(self.b, aten._to_copy.default, (new,), {"dtype": old.dtype}, old)
            ref.write(self.b.expand(new, old.shape))
            return ref
        return self._write_to_copies(node, target, written)

    def _write_to_copies(self, node: fx.Node, target: Any, written: list[int]) -> Any:
        """An operation without an out-of-place form: it writes to copies, which become the new values."""
        args = list(node.args)
        names = [a.name for a in target._schema.arguments]
        refs = {}
        for i in written:
            given = args[i] if i < len(args) else node.kwargs.get(names[i])
            if given is None:
                continue
            if not isinstance(given, fx.Node) or i >= len(args):
                raise Unsupported(f"{target} writes to a list or to a keyword argument")
            refs[i] = self.env[given]
        new_args, new_kwargs = list(self._read(tuple(args))), self._read(dict(node.kwargs))
        for i in refs:
            kind = {"memory_format": torch.contiguous_format}
            new_args[i] = self.b.emit(aten.clone.default, (new_args[i],), kind, self.b.spec[new_args[i]], fresh=True)
        result = self.b.emit(target, tuple(new_args), new_kwargs, self._spec(node, target, node.args, node.kwargs))
        for i, ref in refs.items():
            ref.write(new_args[i])
        returns = target._schema.returns
        if len(returns) == 1 and returns[0].alias_info is not None:
            return refs[written[0]]
        return self._wrap(result)

    def _finish(self, output: fx.Node) -> fx.GraphModule:
        result = self._read(output.args[0])
        fuse(self.b, (result, [base.value for base in self.bases if base.source is not None and base.version]))
        owned = _Owned(self.b)
        result = map_nodes(result, owned.take)
        changed = [(b.source, b.value) for b in self.bases if b.source is not None and b.value is not b.source]
        kept = [(source, owned.copy(new) if owned.lasts(new) else new) for source, new in changed]
        for source, new in kept:  # last: everything else reads the old values
            self.b.emit(aten.copy_.default, (source, new), spec=self.b.spec[source], fresh=True)
        return self.b.finish(result)


class _Owned:
    """Copies for results that would share memory with what outlives the run, or with another result."""

    def __init__(self, b: Builder) -> None:
        self.b = b
        self._taken: dict[fx.Node, list[tuple[Any, ...]]] = {}

    def take(self, node: fx.Node) -> fx.Node:
        """The result itself where it has its memory to itself."""
        root, shared, part = self._root(node)
        others = self._taken.setdefault(root, [])
        of, _, start, stop = part
        apart = all(of is not None and part[:2] == o[:2] and (stop <= o[2] or o[3] <= start) for o in others)
        others.append(part)
        return node if apart and not shared and not self.lasts(node) else self.copy(node)

    def copy(self, node: fx.Node) -> fx.Node:
        """A copy of its own."""
        kwargs = {"memory_format": torch.contiguous_format}
        return self.b.emit(aten.clone.default, (node,), kwargs, self.b.spec[node], fresh=True)

    def lasts(self, node: fx.Node) -> bool:
        """Whether the node may be memory of an input, of a captured tensor or of a constant."""
        root = self._root(node)[0]
        return root.op in ("placeholder", "get_attr") or root in self.b.constant

    def _root(self, node: fx.Node) -> tuple[fx.Node, bool, tuple[Any, ...]]:
        """The node whose memory this is, whether elements share places, and the part: (of what, axis, start, stop)."""
        shared = False
        part: tuple[Any, ...] = (None, 0, 0, 0)
        while node.op == "call_function" and node.target in _SHARES:
            shared = shared or node.target in (aten.expand.default, aten.unfold.default)
            source: Any = node.args[0]
            if node.target is aten.slice.Tensor and node.args[4] == 1:
                part = (source, *node.args[1:4])
            elif node.target is aten.select.int:
                part = (source, node.args[1], node.args[2], node.args[2] + 1)  # type: ignore[operator]
            node = source
        return node, shared, part


@functools.cache
def _out_of_place(target: Any) -> Any:
    """``add_`` -> ``add``, where both take the same arguments and nothing is random; else ``None``."""
    name = target._schema.name.split("::")[1]
    if not name.endswith("_") or name.endswith("__") or torch.Tag.nondeterministic_seeded in target.tags:
        return None
    packet = getattr(torch.ops.aten, name[:-1], None)
    for overload in packet.overloads() if packet is not None else ():
        pure = getattr(packet, overload)
        if _signature(pure) == _signature(target) and not writes(pure) and len(pure._schema.returns) == 1:
            return pure
    return None


def _signature(target: Any) -> list[tuple[str, str]]:
    return [(a.name, str(a.type)) for a in target._schema.arguments]


_VIEW_LIKE = frozenset((aten._unsafe_view.default, aten.reshape.default, aten.contiguous.default))
_SHARES = frozenset(
    (
        aten.reshape.default, aten.permute.default, aten.expand.default, aten.slice.Tensor, aten.select.int,
        aten.diagonal.default, aten.detach.default, aten._conj.default, aten.view_as_real.default,
        aten.view_as_complex.default, aten.contiguous.default, aten.unfold.default, aten.view.dtype,
    )
)  # fmt: skip
