"""Determinants in PyTorch: products with single factors of a linearisation, and what becomes of their entries."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from crelle._arrays import ArrayType
from crelle.backends._protocol import Call
from crelle.backends.torch import graph, programs, run, watch
from crelle.backends.torch.codegen import attribute_of
from crelle.backends.torch.cost import spec_of_node
from crelle.backends.torch.flat import FlatFunction
from crelle.backends.torch.lowering.walk import Entry, Lowering, Primal, Several, Tangent, name_of, type_of
from crelle.backends.torch.rewrite.values import Spec, aten, map_nodes, packets
from crelle.backends.torch.trace import TorchTrace
from crelle.determinants import _sparse
from crelle.determinants._factors import Factor
from crelle.determinants._recipe import Recipe, SparseBlock
from crelle.determinants._result import CannotFactor, SlogdetResult
from crelle.tangent.program import Dependence, Gather, Scale, TangentProgram

Values = dict[Any, Any]

#: What leaves numbers as they are.
_COPIES = packets("clone _to_copy alias detach lift_fresh_copy contiguous")
#: Zeros of the result follow from zeros of the operands: evaluated at 0 for zero and 1 for anything else, it is 0.
_MOVES = packets(
    "t transpose permute view _unsafe_view reshape expand clone unsqueeze squeeze slice select alias detach _to_copy "
    "diagonal diag_embed cat stack neg tril triu sum mm bmm"
)
#: The same, where numbers among the operands count as 1, too.
_ARITHMETIC = packets("mul add sub where masked_fill")


class Zeros(Lowering):
    """A lowering that follows zeros of values that are not known.

    A masked weight is zero where the mask is, whatever the weight: what is not known, but has zeros that are, stands as
    a tensor of 0 and 1, of which only the zeros are ever used.
    """

    def __init__(self, module: fx.GraphModule, program: TangentProgram) -> None:
        super().__init__(module, program)
        self._stand_ins: set[fx.Node] = set()

    def _node(self, node: fx.Node) -> Entry:
        first, start = len(self.program.types), len(self.program.maps)
        entry = super()._node(node)
        if node.kwargs.get("alpha", 1) != 1:  # no sum of what it reads as it is
            for m in self.program.maps[start:]:
                m.name = f"scaled {m.name}"
        if node.target is operator.getitem or not isinstance(entry, Tangent) or entry.value is None:
            return entry
        spec = spec_of_node(node)
        if entry.value >= first or not isinstance(spec, Spec):
            return entry
        # a value of its own for a result that has the pattern of an operand: -x has that of x, not its numbers
        self.operation = (name_of(node), 0.0, 0.0)
        if getattr(node.target, "overloadpacket", None) in _COPIES:
            return Tangent(self.emit(Gather, [entry.value], type_of(spec), move=lambda a: a))
        return Tangent(self.emit(Scale, [entry.value], type_of(spec)))

    def _primal(self, node: fx.Node, entries: Sequence[Entry]) -> Entry:
        nodes = node.all_input_nodes
        known = [isinstance(e, Primal) and e.value is not None for e in entries]
        if not any(known) or (all(known) and not self._stand_ins.intersection(nodes)):
            return super()._primal(node, entries)
        kind = max((e.kind for e in entries if isinstance(e, Primal)), default=Dependence.CONSTANT)
        spec = spec_of_node(node)
        marks = self._marked(node) if isinstance(spec, Spec) and spec.dtype.is_floating_point else None
        if marks is None:
            return Primal(kind)
        self._stand_ins.add(node)
        return Primal(kind, lambda: marks)

    def _marked(self, node: fx.Node) -> Tensor | None:
        """1 where the result of an operation may be nonzero, ``None`` if nothing is known of it."""
        packet = getattr(node.target, "overloadpacket", None)
        arithmetic = packet in _ARITHMETIC
        if not arithmetic and packet not in _MOVES:
            return None
        predicate = node.args[1] if packet is aten.masked_fill else node.args[0] if packet is aten.where else None

        def mark(value: Any) -> Any:
            if isinstance(value, (bool, int, float)) and arithmetic:
                return float(value != 0)
            return value

        def of_node(n: fx.Node) -> Any:
            if n is predicate:
                value = None if n in self._stand_ins else self.known(n)
                return value if value is None else value.cpu()
            spec = spec_of_node(n)
            value = self.known(n)
            assert isinstance(spec, Spec)
            return torch.ones(spec.shape) if value is None else value.detach().cpu().ne(0).float()

        args = [map_nodes(a, of_node) for a in node.args]
        if predicate is not None and args[1 if packet is aten.masked_fill else 0] is None:
            return None
        options = {key: v for key, v in node.kwargs.items() if key not in ("dtype", "device", "alpha", "layout")}
        target: Any = aten.clone.default if packet is aten._to_copy else node.target
        target = aten.add.Tensor if packet is aten.sub else target
        with torch.no_grad():
            found: Tensor = target(*map(mark, args), **(options if packet is not aten._to_copy else {}))
        return found.ne(0).double()


class TorchLinear:
    """The linearisation of one function at one signature, of which parts can be run."""

    def __init__(self, call: Call) -> None:
        self.trace = TorchTrace(call)
        if self.trace.eager:
            raise CannotFactor(self.trace.eager)
        found = self.trace.match(call)
        if found is None:
            raise CannotFactor("f changes while it is looked at")
        flat, lifted = found
        self.outputs = tuple(self.trace.outputs)
        self.inputs, self.lifted_count = call.inputs, len(lifted)
        self.seen = [(t, t._version, None if t.requires_grad else t.detach().clone()) for t in lifted]
        self.program = TangentProgram()
        self.lowering = self._lowered(flat, list(lifted))
        self.conjugates = self._conjugates(flat, list(lifted)) if any(t.is_complex for t in call.inputs) else ""

    @torch.inference_mode(False)
    def _lowered(self, flat: FlatFunction, lifted: list[Tensor]) -> Zeros:
        """The derivative recorded, and what its nodes are."""
        dynamic = run.plain_leaves(flat.dynamic)
        failure: Exception | None = None
        for mode in ("forward", "reverse"):
            for plain, tape in ((False, False), (True, False), (False, True)):
                if tape and mode == "forward":
                    continue
                try:
                    with run.plain_kernels() if plain else contextlib.nullcontext():
                        module = self._record(flat, dynamic, lifted, mode, tape)
                except Exception as error:
                    failure = failure or error
                    continue
                if mode == "forward" and _foreign(module, flat.active):
                    break
                return self._walked(module, flat, lifted, mode == "reverse")
        raise CannotFactor(f"{type(failure).__name__}: {failure}".split("\n")[0])

    def _record(
        self, flat: FlatFunction, dynamic: list[Tensor], lifted: list[Tensor], mode: str, tape: bool
    ) -> fx.GraphModule:
        """(arrays, captured, seeds) -> products, value, aux, as an aten graph."""
        active, places = flat.active, len(dynamic)
        seeded = self.outputs if mode == "reverse" else self.inputs
        device = dynamic[0].device if dynamic else None
        seeds = [torch.ones(t.shape, dtype=run.dtype_of(t.dtype), device=device) for t in seeded]

        def one_pass(*arrays: Any) -> Any:
            passive = arrays[active:places]
            values, linear, _ = run.linear_map(
                lambda *leaves: flat(*leaves, *passive), list(arrays[:active]), self.inputs, self.outputs, mode,
                hessian=False, tape=tape,
            )  # fmt: skip
            products = list(linear(*arrays[places:]))
            self.aux_count = len(values.aux)
            return [*products, *values.outputs, *values.aux]

        with watch.tracing():
            module = programs.lift(programs.traced(one_pass, [*dynamic, *seeds]), lifted, places)
        return graph.optimise(module)

    def _walked(self, module: fx.GraphModule, flat: FlatFunction, lifted: list[Tensor], turned: bool) -> Zeros:
        program = self.program = TangentProgram(transposed=turned)
        lowering = Zeros(module, program)
        passive = len(flat.dynamic) - flat.active
        entries: list[Entry] = [Primal(Dependence.VARYING)] * flat.active
        entries += [Primal(Dependence.PASSIVE)] * passive
        for tensor, (_, _, copy) in zip(lifted, self.seen, strict=True):
            # the structure holds for any value of what is trained; other tensors are compared at each call
            value = None if copy is None else _given(tensor)
            entries.append(Primal(Dependence.PASSIVE if copy is None else Dependence.CONSTANT, value))
        self.placeholders = list(module.graph.find_nodes(op="placeholder"))
        for node in self.placeholders[len(entries) :]:
            spec = spec_of_node(node)
            assert isinstance(spec, Spec)
            program.inputs.append(program.value(type_of(spec)))
            entries.append(Tangent(program.inputs[-1]))
        made = self.inputs if turned else self.outputs
        results = lowering.run(entries)
        program.outputs = [e.value if isinstance(e, Tangent) else None for e in results[: len(made)]]
        program.output_types = list(made)
        self.results: list[Any] = list(module.graph.output_node().args[0])[len(made) :]  # type: ignore[arg-type]
        return lowering

    @torch.inference_mode(False)
    def _conjugates(self, flat: FlatFunction, lifted: list[Tensor]) -> str:
        """Whether J (i v) is not i J v, for a random v: PyTorch conjugates twice on the way, which is no harm."""
        generator = torch.Generator().manual_seed(0)
        types = [self.program.types[i] for i in self.program.inputs]
        arrays = [*run.plain_leaves(flat.dynamic), *(t.detach() for t in lifted)]
        seeds = [torch.randn(t.shape, dtype=torch.complex128, generator=generator) for t in types]
        seeds = [s.to(arrays[0].device, run.dtype_of(t.dtype)) for s, t in zip(seeds, types, strict=True)]
        replay, count = graph.compile_graph(self.lowering.module), len(self.program.outputs)
        with torch.no_grad():
            there = [r.clone() for r in replay(*arrays, *seeds)[:count]]
            turned = replay(*arrays, *(1j * s for s in seeds))[:count]
        for a, b in zip(there, turned, strict=True):
            if (1j * a - b).abs().max() > 1e-2 * a.abs().max():
                return "a product with i v is not i times that with v"
        return ""

    def match(self, call: Call) -> Any | None:
        """The tensors that f captures, if f is what it was; of those that are not trained also the values."""
        found = self.trace.match(call)
        if found is None:
            return None
        for i, (t, (known, version, copy)) in enumerate(zip(found[1], self.seen, strict=True)):
            if t.requires_grad != (copy is None):
                return None
            if copy is None or (t is known and t._version == version):
                continue
            if t.shape != copy.shape or not torch.equal(t.detach(), copy):
                return None
            self.seen[i] = (t, t._version, copy)
        return found

    @torch.inference_mode(False)
    def build(self, factors: Sequence[Factor], recipe: Recipe) -> Callable[[Call, Any], Any]:
        """What computes the answer of a call with what it captures."""
        tables = {name: torch.from_numpy(np.asarray(a)) for name, a in recipe.arrays.items()}
        replay: Callable[..., Any] | None = None

        def entries(*arrays: Tensor) -> list[Tensor]:
            env = self._primal(arrays)
            device = arrays[0].device if arrays else torch.device("cpu")
            pieces = [self._products(env, f, device) for f in factors if f.coloring is not None]
            kind = run.dtype_of(self.program.output_types[0].dtype) if self.program.output_types else torch.float64
            data = torch.cat(pieces) if pieces else torch.zeros(0, dtype=kind, device=device)
            return [data, *(env[r] for r in self.results)]

        @torch.inference_mode(False)
        def answer(call: Call, captured: Any) -> Any:
            nonlocal replay
            flat, lifted = captured
            if flat.call is not call:
                flat = FlatFunction(call, flat.layout)
            dynamic = [t.clone() if t.is_inference() else t for t in flat.dynamic]  # autograd cannot keep these
            if replay is None:
                plain = [*run.plain_leaves(flat.dynamic), *(t.detach() for t in lifted)]
                with watch.tracing():
                    replay = graph.compile_graph(graph.optimise(programs.traced(entries, plain)))
            data, *rest = replay(*dynamic, *lifted)
            found = total(data, recipe, {name: t.to(data.device) for name, t in tables.items()})
            values = rest[: len(rest) - self.aux_count]
            return flat.assemble(found, values, rest[len(values) :])

        return answer

    def _primal(self, arrays: Sequence[Tensor]) -> Values:
        """Everything that does not depend on the seeds."""
        module, env = self.lowering.module, dict(zip(self.placeholders, arrays, strict=False))
        entries: Values = self.lowering.env
        for node in module.graph.nodes:
            if node.op == "get_attr":
                env[node] = attribute_of(module, node)
            elif node.op == "call_function" and isinstance(entries[node], Primal):
                env[node] = _applied(node, lambda n: env[n])
        return env

    def _push(self, env: Values, factor: Factor, seeds: Sequence[Tensor]) -> list[Tensor]:
        """The product of one factor with a vector."""
        entries, types = self.lowering.env, self.program.types
        tangents: Values = dict(zip((v for v in factor.inputs if v is not None), seeds, strict=True))
        several: Values = {}

        def read(n: fx.Node) -> Any:
            entry = entries[n]
            if isinstance(entry, Primal):
                return env[n]
            if isinstance(entry, Several):
                return several[n]
            spec = spec_of_node(n)
            assert isinstance(spec, Spec)
            if entry.value not in tangents:
                return torch.zeros(spec.shape, dtype=spec.dtype, device=spec.device)
            return tangents[entry.value].reshape(spec.shape).to(spec.dtype)

        for node in self.lowering.module.graph.nodes:
            entry = entries.get(node)
            if node.op != "call_function" or entry is None or isinstance(entry, Primal):
                continue
            if isinstance(entry, Several):
                made = {e.value for e in entry.items if isinstance(e, Tangent)}
                if made & factor.needed - tangents.keys():
                    several[node] = _applied(node, read)
            elif entry.value in factor.needed and entry.value not in tangents:
                tangents[entry.value] = _applied(node, read)
        return [tangents[v].reshape(types[v].shape) for v in factor.outputs if v is not None]

    def _products(self, env: Values, factor: Factor, device: torch.device) -> Tensor:
        """The entries of one factor, from products with the seeds of all its colours."""
        assert factor.coloring is not None
        types: list[ArrayType] = [self.program.types[v] for v in factor.inputs if v is not None]
        colors, count = factor.coloring.column_colors, factor.passes
        assert colors is not None
        hot = torch.from_numpy(colors[None, :] == np.arange(count)[:, None]).to(device)
        parts = torch.split(hot, [t.size for t in types], 1)
        seeds = [p.to(run.dtype_of(t.dtype)).reshape(count, *t.shape) for p, t in zip(parts, types, strict=True)]
        pieces = []
        for start, stop in run.chunks(count, factor.chunk):
            leaves = run.batch(lambda *v: self._push(env, factor, v), [s[start:stop] for s in seeds])
            pieces.append(torch.cat([leaf.reshape(stop - start, -1) for leaf in leaves], 1).reshape(-1))
        return torch.cat(pieces)[torch.from_numpy(factor.place).to(device)]


def _applied(node: fx.Node, read: Callable[[fx.Node], Any]) -> Any:
    target: Any = node.target
    return target(*map_nodes(node.args, read), **map_nodes(node.kwargs, read))


def _given(value: Any) -> Callable[[], Any]:
    return lambda: value


def _foreign(module: fx.GraphModule, active: int) -> bool:
    """Whether an operation that reads what is differentiated may silently be taken for a constant by forward mode."""
    depends: set[fx.Node] = set(list(module.graph.find_nodes(op="placeholder"))[:active])
    for node in module.graph.nodes:
        if any(n in depends for n in node.all_input_nodes):
            depends.add(node)
            if node.op == "call_function" and node.target is not operator.getitem:
                scattered = "scatter_reduce" in str(node.target) and "prod" in node.args
                if scattered or getattr(node.target, "namespace", "aten") not in ("aten", "prims", "prim"):
                    return True
    return False


def total(entries: Tensor, recipe: Recipe, tables: dict[str, Any]) -> SlogdetResult:
    """(signs, logarithms) of each sample, of one without an axis if there are no samples."""
    given = entries.dtype
    if torch.finfo(given).bits < 32:  # LAPACK has no factorisation of halves
        entries = entries.float()
    padded = torch.cat([entries, entries.new_zeros(1)])  # place -1 is zero

    def table(name: str) -> Tensor:
        return torch.as_tensor(tables[name], device=entries.device)

    ones = padded[table("ones")]
    parts = [(torch.sgn(ones), ones.abs().log())]
    parts += [tuple(torch.linalg.slogdet(padded[table(f"stack {k}")])) for k in range(len(recipe.stacks))]
    for block in recipe.sparse:
        sign, log = _apply(entries[torch.from_numpy(block.entries).to(entries.device)], block)
        parts.append((sign[None], log[None]))
    signs, logs = (torch.cat(p) for p in zip(*parts, strict=True))
    signs = signs if signs.is_complex() else signs.detach()
    where = table("table")
    picked = torch.cat([signs, signs.new_ones(1)])[where]
    sign = picked.prod(1) * table("signs").to(signs.dtype)
    log = torch.cat([logs, logs.new_zeros(1)])[where].sum(1)
    result = sign.to(given), log.to(torch.empty(0, dtype=given).real.dtype)
    return SlogdetResult(*result) if recipe.batched else SlogdetResult(result[0][0], result[1][0])


def of_matrices(matrices: Tensor) -> SlogdetResult:
    """Of a dense matrix, or of a stack of them."""
    given = matrices.dtype
    half = torch.finfo(given).bits < 32
    sign, log = torch.linalg.slogdet(matrices.float() if half else matrices)
    return SlogdetResult(sign.to(given), log.to(torch.empty(0, dtype=given).real.dtype))


class SparseSlogdet(torch.autograd.Function):
    """(sign, log|det|) of a large sparse block, by SuperLU on the host."""

    @staticmethod
    def forward(ctx: Any, entries: Tensor, block: SparseBlock) -> Any:
        """From the entries of the block."""
        ctx.save_for_backward(entries)
        ctx.block = block
        sign, log = (torch.from_numpy(np.asarray(a)).to(entries.device)
                     for a in _sparse.slogdet(entries.detach().resolve_conj().cpu().numpy(), block))  # fmt: skip
        if not entries.is_complex():
            ctx.mark_non_differentiable(sign)
        ctx.sign = sign
        return sign, log

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_sign: Tensor | None, of_log: Tensor) -> Any:
        """d log det = tr(J⁻¹ dJ), which reads J⁻¹ on the pattern only."""
        (entries,) = ctx.saved_tensors
        slope = torch.from_numpy(_sparse.slope(entries.detach().resolve_conj().cpu().numpy(), ctx.block)).to(
            entries.device
        )
        change = of_log.to(entries.dtype)
        if entries.is_complex() and of_sign is not None:  # d sign = i · sign · Im tr(J⁻¹ dJ)
            change = change + 1j * (of_sign.conj() * 1j * ctx.sign).real
        return slope.conj() * change, None


_apply: Any = SparseSlogdet.apply


def prepare(call: Call) -> TorchLinear:
    """The linearisation of the function of a call."""
    return TorchLinear(call)
