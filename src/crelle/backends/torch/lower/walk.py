"""Walking an aten graph that holds values and tangents: what is known, what varies, and what is linear in the tangents.

A rule ``rule(low, op)`` for an operation of which some operands are linear returns the id of the result's value, or
``None`` where it is zero; a list of them where there are several results. It appends maps with the methods of ``low``.
Operations that write are lowered as those that do not: :class:`Memory` knows who else reads the memory.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import _disable_current_modes

from crelle.backends.torch import cost
from crelle.backends.torch.lower.known import Known, on_ids
from crelle.backends.torch.lower.op import Arg, Entry, Op, Primal, Tangent, map_args, names_of, type_of, written
from crelle.backends.torch.rewrite.values import Spec, aten, map_nodes, spec_of, tensors_in
from crelle.tangent.build import Builder
from crelle.tangent.program import Dependence, Gather, TangentProgram

Results = int | Sequence[int | None] | None
Rule = Callable[["Lowering", Op], Results]
RULES: dict[str, Rule] = {}
VARYING = Dependence.VARYING


def rule(names: str) -> Callable[[Rule], Rule]:
    """Declare how operations of these names, all overloads of each, become linear maps."""

    def declare(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names.split(), function))
        return function

    return declare


class Memory:
    """What a tensor and its views share: its content now, and how often it was written."""

    __slots__ = ("entry", "spec", "version")

    def __init__(self, entry: Entry, spec: Spec) -> None:
        self.entry, self.spec, self.version = entry, spec, 0


Step = Callable[[Tensor], Tensor]


class Ref:
    """A tensor of the graph: memory, and the views that lead to the tensor."""

    __slots__ = ("entry", "memory", "spec", "steps", "version")

    def __init__(self, memory: Memory, entry: Entry, spec: Spec, steps: tuple[tuple[Op, int | None], ...] = ()) -> None:
        self.memory, self.entry, self.spec, self.steps = memory, entry, spec, steps
        self.version = memory.version

    @staticmethod
    def fresh(entry: Entry, spec: Spec) -> Ref:
        """A tensor that has its memory to itself."""
        return Ref(Memory(entry, spec), entry, spec)


class Lowering(Builder):
    """Turns the part of an aten graph that depends on tangents into a :class:`TangentProgram`."""

    def __init__(self, program: TangentProgram) -> None:
        super().__init__(program)
        self.depth = 0

    def run(self, module: fx.GraphModule, given: Sequence[Entry]) -> Any:
        """Walk the graph; returns what its results are, nested as they are."""
        entries = iter(given)
        live = set(cost.live(module.graph))
        changed = _changed_attributes(module.graph)
        env: dict[fx.Node, Any] = {}
        for node in module.graph.nodes:
            if node.op == "placeholder":
                spec = cost.spec_of_node(node)
                env[node] = Ref.fresh(next(entries), spec)
            elif node.op == "get_attr":
                value = _attribute(module, str(node.target))
                entry = Primal(VARYING) if node in changed else Primal(Dependence.CONSTANT, Known.of(value))
                env[node] = Ref.fresh(entry, spec_of(value))
            elif node.op == "output":
                return map_nodes(node.args[0], lambda n: self._read(env[n]))
            elif node in live and node.target is operator.getitem:
                env[node] = env[node.args[0]][node.args[1]]
            elif node in live:
                env[node] = self._visit(module, node, env)
        raise AssertionError("a graph without output")

    def _visit(self, module: fx.GraphModule, node: fx.Node, env: dict[fx.Node, Any]) -> Any:
        def arg(n: fx.Node) -> Any:
            ref = env[n]
            return Arg(ref.spec, self._read(ref)) if isinstance(ref, Ref) else None

        args, kwargs = map_nodes(tuple(node.args), arg), map_nodes(dict(node.kwargs), arg)
        spec = cost.spec_of_node(node)
        if spec is None and not isinstance(node.target, torch._ops.OpOverload):
            return None
        op = Op(node.target, args, kwargs, spec)
        op.layout = _layout(node, module)
        flops = 0.0 if cost.is_view(node) else sum(cost.work(node))
        moved = (
            0.0 if cost.is_view(node) else float(sum(s.nbytes for s in (*(a.spec for a in op.tensors), *op.specs) if s))
        )
        before, self.operation = self.operation, (op.name, flops, moved)
        try:
            places = written(op.target)
            if places:
                return self._write(node, op, places, env)
            entries = self.apply(op)
        finally:
            self.operation = before
        first = env.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
        if isinstance(first, Ref) and _is_view(op.target):
            steps = first.steps
            if isinstance(op.spec, Spec):
                return Ref(first.memory, entries[0], op.spec, (*steps, (op, None)))
            return [
                Ref(first.memory, e, s, (*steps, (op, k))) if s else None
                for k, (e, s) in enumerate(zip(entries, op.specs, strict=True))
            ]
        refs = [None if s is None else Ref.fresh(e, s) for e, s in zip(entries, op.specs, strict=True)]
        return refs[0] if not op.several else refs

    def apply(self, op: Op) -> list[Entry]:
        """What the results of an operation are."""
        from crelle.backends.torch.lower import primal, unknown

        specs = op.specs
        if not any(isinstance(a.entry, Tangent) for a in op.tensors):
            return primal.results(op)
        plain = [s is None or not (s.dtype.is_floating_point or s.dtype.is_complex) for s in specs]
        if all(plain):  # a comparison with a tangent
            return [Primal(VARYING) for _ in specs]
        if not op.linear:
            return [Primal(VARYING) if p else Tangent(None) for p in plain]
        count, notes = len(self.program.maps), len(self.program.notes)
        cost_before = self.operation
        try:
            found = unknown.find_rule(op)(self, op)
        except unknown.USER_ERRORS:
            raise
        except Exception as error:  # a form of the operation that its rule did not foresee
            del self.program.maps[count:], self.program.notes[notes:]
            self.operation = cost_before
            found = self.unknown(op, f"its rule does not hold here ({type(error).__name__})")
        values = list(found) if isinstance(found, Sequence) else [found]
        assert len(values) == len(specs), op.name
        return [Primal(VARYING) if p else Tangent(v) for p, v in zip(plain, values, strict=True)]

    def unknown(self, op: Op, why: str) -> list[int | None]:
        """An operation about which nothing is known."""
        types = [None if s is None else type_of(s) for s in op.specs]
        return self.opaque([a.tangent for a in op.linear], types, why)

    # -- memory

    def _read(self, ref: Any) -> Any:
        """What a tensor is now."""
        if not isinstance(ref, Ref):
            return ref
        if ref.version != ref.memory.version:
            entry, spec = ref.memory.entry, ref.memory.spec
            for op, k in ref.steps:
                rest = op.args[1:]
                again = Op(op.target, [Arg(spec, entry), *rest], op.kwargs, op.spec)
                before, self.operation = self.operation, (op.name, 0.0, 0.0)
                found = self.apply(again)
                self.operation = before
                entry, spec = (found[0], op.spec) if k is None else (found[k], op.spec[k])
            ref.entry, ref.version = entry, ref.memory.version
        return ref.entry

    def _write(self, node: fx.Node, op: Op, places: tuple[int, ...], env: dict[fx.Node, Any]) -> Any:
        names = [node.args[i] for i in places if i < len(node.args)]
        keywords = {known for i, (known, _) in enumerate(names_of(op.target)) if i in places}
        refs = [env[n] for n in tensors_in(names, [v for k, v in node.kwargs.items() if k in keywords])]
        if places == (0,) and len(refs) == 1 and isinstance(op.spec, Spec):
            (ref,) = refs
            op.spec = ref.spec
            (entry,) = self.apply(op)
            self._put(ref, entry)
            return ref
        # several tensors, or lists of them: rare, and nothing is known of what they hold then
        for ref in refs:
            self._put(ref, self._anything(op, ref.spec))
        found = [None if s is None else Ref.fresh(self._anything(op, s), s) for s in op.specs]
        return found[0] if isinstance(op.spec, Spec) else found

    def _anything(self, op: Op, spec: Spec) -> Entry:
        """A result of an operation that writes to several tensors."""
        if not op.linear or not (spec.dtype.is_floating_point or spec.dtype.is_complex):
            return Primal(VARYING)
        return Tangent(self.opaque([a.tangent for a in op.linear], [type_of(spec)], "it writes to several tensors")[0])

    def _put(self, ref: Ref, entry: Entry) -> None:
        """Give a tensor, and so all that shares its memory, a new content."""
        memory = ref.memory
        memory.entry = entry if not ref.steps else self._put_part(memory, ref, entry)
        memory.version += 1
        ref.entry, ref.version = entry, memory.version

    def _put_part(self, memory: Memory, ref: Ref, new: Entry) -> Entry:
        old = memory.entry

        def into(base: Tensor, part: Tensor) -> Tensor:
            base = base.clone(memory_format=torch.contiguous_format)
            _written_part(base, ref.steps).copy_(part)
            return base

        if isinstance(old, Primal) and isinstance(new, Primal):
            kind = max(old.kind, new.kind)
            a, b = old.known, new.known
            return Primal(kind, None if a is None or b is None else Known(lambda: into(a.get(), b.get())))
        olds, news = Arg(memory.spec, old), Arg(ref.spec, new)
        if not olds.linear and not news.linear:
            return Tangent(None)
        type_ = type_of(memory.spec)
        parts = [olds.tangent, news.tangent]
        if not _writable(memory.spec, ref):
            return Tangent(self.opaque(parts, [type_], "it writes through a view of another layout")[0])
        return Tangent(
            self.emit(Gather, parts, type_, move=lambda a, b: on_ids(into, a, b), shapes=(olds.shape, news.shape))
        )


#: Views that depend on the layout of the memory, or after which an element is a part of one of the memory.
_NO_PLAIN_VIEWS = frozenset(("as_strided", "view_as_real", "view_as_complex", "real", "imag"))


def _writable(spec: Spec, ref: Ref) -> bool:
    """Whether the view can be made again of a contiguous copy, to write to it."""
    if any(op.name in _NO_PLAIN_VIEWS for op, _ in ref.steps):
        return False
    try:
        with _disable_current_modes():
            return _written_part(torch.empty(spec.shape, device="meta"), ref.steps).shape == ref.spec.shape
    except Exception:  # a view that contiguous memory does not have
        return False


def _written_part(base: Tensor, steps: Sequence[tuple[Op, int | None]]) -> Tensor:
    """The view of ``base`` that some steps make; it shares memory with it."""
    for op, k in steps:
        if op.name in ("_conj", "_neg_view"):
            continue
        found = op.target(base, *map_args(op.args[1:], _no_tensor), **op.kwargs)
        base = found if k is None else found[k]
    return base


def _no_tensor(arg: Arg) -> Any:
    raise TypeError("a view with a tensor among its arguments")


def _is_view(target: Any) -> bool:
    schema = getattr(target, "_schema", None)
    if schema is None or not schema.arguments or not schema.returns:
        return False
    first = schema.arguments[0].alias_info
    return first is not None and not first.is_write


def _changed_attributes(graph: fx.Graph) -> set[fx.Node]:
    """Captured tensors that f writes to: their values are not those that f read."""
    root: dict[fx.Node, fx.Node] = {}
    changed: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr":
            root[node] = node
        elif node.op == "call_function":
            sources = [n for n in node.all_input_nodes if n in root]
            places = written(node.target)
            if places:
                changed.update(root[n] for n in sources if n in [node.args[i] for i in places if i < len(node.args)])
            if sources and (places or _is_view(node.target) or node.target is operator.getitem):
                root[node] = root[sources[0]]
    return changed


def _layout(node: fx.Node, module: fx.GraphModule) -> tuple[tuple[int, ...], int] | None:
    """(strides, offset) of what ``as_strided`` is applied to, in the traced run."""
    source = node.args[0] if node.args else None
    if node.target is not aten.as_strided.default or not isinstance(source, fx.Node):
        return None
    value = _attribute(module, str(source.target)) if source.op == "get_attr" else source.meta.get("val")
    if "layout" in source.meta:
        return source.meta["layout"]  # type: ignore[no-any-return]
    return (tuple(value.stride()), int(value.storage_offset())) if isinstance(value, Tensor) else None


def _attribute(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module
